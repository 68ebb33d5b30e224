"""Write docs/families.md: every family of causal language models, built small and compared with itself.

``python scripts/families.py`` takes each class that transformers knows as a causal language model, makes a small one from
its config (random weights, a local window of 64 tokens where it has one), and holds conversations of more than 600 tokens
with it: rows of unequal length, branches, the cache kept. Every log-probability is compared with that of an uncached pass
with eager attention, and so are packed updates. Each family is a process of its own; what is known stays in ``--work``.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embedding_size", "word_embed_proj_dim", "n_embed"), 64),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "ffn_dim", "decoder_ffn_dim", "n_inner"), 96),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size", "ffn_hidden_size"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "decoder_layers", "num_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim", "kv_lora_rank", "q_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length"), 2048),
    **dict.fromkeys(("sliding_window", "attention_chunk_size", "window_size"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k"), 2),
    **dict.fromkeys(
        ("n_group", "topk_group", "n_shared_experts", "num_shared_experts", "mamba_n_groups", "n_groups"), 1
    ),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "time_step_rank"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "mamba_headdim"), 16),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 64),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("bos_token_id", "eos_token_id"), 0),
    "pad_token_id": 1,
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 16),
    "first_k_dense_replace": 1,
}
"""Sizes by the names that configs use."""
SPECIAL: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "mamba2": {"num_heads": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "falcon_h1": {"mamba_d_ssm": 128},
    "zaya": {"num_experts_per_tok": 1},
}
"""Sizes of families whose own must fit each other."""


def small(family: str, vocabulary: int = 4096) -> Any:
    """A small model of a family, with random weights that are large enough to see differences."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[family]
    known = set(kind().to_dict())
    sizes = {key: value for key, value in SIZES.items() if key in known} | SPECIAL.get(family, {})
    sizes["vocab_size"] = vocabulary
    if "kv_lora_rank" in sizes:
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]  # latent keys have no groups
    config = AutoConfig.for_model(family, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.12)
        model(input_ids=torch.arange(8)[None], use_cache=False)  # whether its sizes fit each other
    return model


def compared(model: Any, tokenizer: Any, *, tokens: int = 600) -> dict[str, Any]:
    """How a model computes, and the largest difference of a log-probability in conversations and in an update, nats."""
    import torch

    from astprompter.base.records import Speech
    from astprompter.config import SamplingSettings
    from astprompter.models.local.lm import LanguageModel
    from astprompter.training.packing import pack, sequence_logps

    sampling = SamplingSettings(max_new_tokens=8, min_new_tokens=8)
    lm = LanguageModel(model, tokenizer, name=type(model).__name__, sampling=sampling)
    size = lm.vocabulary_size

    def text(seed: int, length: int) -> tuple[int, ...]:
        return tuple((seed * seed + 31 * seed * i + 7 * i * i + 2) % (size - 2) + 2 for i in range(length))

    @torch.no_grad()
    def plain(row: tuple[int, ...]) -> torch.Tensor:
        logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, :-1]
        return logits.float().log_softmax(-1).gather(1, torch.tensor(row[1:])[:, None])[:, 0]

    session = lm.start_ids([text(1, tokens), text(2, tokens // 2)]).branch([0, 0, 1, 1])
    heard: list[tuple[tuple[int, ...], int]] = []
    values: list[tuple[float, ...]] = []
    for turn in range(2):
        speeches = [Speech("", text(3 + 4 * turn + row, 3 + (5 * row + turn) % 9), lm.vocabulary) for row in range(4)]
        values += session.hear(speeches, likelihood=True) or []
        heard += [
            (row, len(own.token_ids or ())) for row, own in zip(session.transcript() or [], speeches, strict=True)
        ]
        session.speak(torch.arange(4).numpy().astype("uint64") + 10 * turn)
        if turn == 0:
            session = session.branch([0, 2, 3, 1])
    pairs = [(text(1, tokens), text(20 + i, 5 + i)) for i in range(3)] + [(text(2, tokens // 3), text(30, 4))]
    with torch.no_grad():
        update = sequence_logps(lm, pack(pairs, share=lm.packs))
    attention = model.config._attn_implementation
    if model._can_set_attn_implementation():
        model.set_attn_implementation("eager")
    gaps = [
        (plain(row)[-length:] - torch.tensor(own)).abs().max() for (row, length), own in zip(heard, values, strict=True)
    ]
    sums = torch.stack([plain((*prompt, *said))[-len(said) :].sum() for prompt, said in pairs])
    return {
        "conversation": float(max(gaps)),
        "update": float((update - sums).abs().max()),
        "attention": {"astprompter": "sdpa"}.get(attention, attention),
        "masks": lm.masks,
        "cache": lm.alone or ("shared" if lm.shares_branches else "copied"),
        "packs": lm.packs,
    }


def one(family: str) -> dict[str, Any]:
    """What is found out about a family."""
    from astprompter.base.errors import UserError
    from astprompter.models.local.loading import load_tokenizer
    from astprompter.workflows.load import model_folder

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        model = small(family)
    except Exception as error:  # architectures raise their own kinds
        return {"unbuilt": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
    found = {"class": type(model).__name__}
    try:
        return found | compared(model, load_tokenizer(model_folder("embedded")))
    except UserError as error:
        return found | {"refused": str(error)}
    except Exception as error:  # for instance a context that is shorter than these conversations
        return {"unbuilt": " ".join(f"{type(error).__name__}: {error}".split())[:300]}


HEAD = """<!-- Made by `make families` with transformers {version}; do not edit. -->

# Families of models

Which causal language models of transformers {version} can be adversary or defender here. Each was built small from its
config with random weights, with a local window of {window} tokens where it has one, and held conversations of more than
600 tokens: rows of unequal length, branches, the cache kept. The difference is the largest one of a log-probability, in
nats, from the model's own uncached pass with eager attention, in conversations and in updates. A model is tried in the
same way, with fewer tokens, whenever it is loaded, so a family that is not in this table is not refused for that.

*Branches*: `shared` keeps what branches have in common once; `copied` copies the cache; `row by row` computes every row
alone with the library's own cache (recurrent states, for instance), which is exact and slow. *Updates*: `packed` computes
text that pairs share once, `separate` does not. Both give the same numbers.

{works} work, {refused} are refused, {unbuilt} could not be built small from their config alone.

| family | class | branches | attention | updates | difference |
|---|---|---|---|---|---|
{table}

## Refused

| family | class | why |
|---|---|---|
{reasons}

## Not tried

| family | what building a small one said |
|---|---|
{others}
"""


def page(found: dict[str, dict[str, Any]]) -> str:
    """The document."""
    import transformers

    works, reasons, others = [], [], []
    for family, row in sorted(found.items()):
        if "unbuilt" in row:
            others.append(f"| {family} | {_cell(row['unbuilt'])} |")
        elif "refused" in row:
            reasons.append(f"| {family} | {row['class']} | {_cell(row['refused'])} |")
        else:
            cache = {"cached": "row by row", "stepwise": "row by row, token by token", "anew": "row by row, no cache"}
            gap = max(row["conversation"], row["update"])
            works.append(
                f"| {family} | {row['class']} | {cache.get(row['cache'], row['cache'])} | {row['attention']} | "
                f"{'packed' if row['packs'] else 'separate'} | {gap:.0e} |"
            )
    return HEAD.format(
        version=transformers.__version__, window=SIZES["sliding_window"], works=len(works), refused=len(reasons),
        unbuilt=len(others), table="\n".join(works), reasons="\n".join(reasons), others="\n".join(others),
    )  # fmt: skip


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def apart(family: str, seconds: int) -> dict[str, Any]:
    """What is found out about a family in a process of its own, which shares what is imported."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=lambda: results.put(one(family)))
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        return {"unbuilt": f"takes more than {seconds} s"}
    return results.get() if child.exitcode == 0 else {"unbuilt": f"it ended with {child.exitcode}"}


def main() -> None:
    """Compare what is not known yet, and write the page."""
    import torch
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as FAMILIES

    import astprompter.training.packing
    import astprompter.workflows.load  # noqa: F401

    torch.set_num_threads(1)
    small("gpt2")  # imports what the processes of all families then share
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*", help="families to compare again; all that are not known when not given")
    parser.add_argument("--work", type=Path, default=Path("runs/families.json"), help="what is known already")
    parser.add_argument("--seconds", type=int, default=90, help="most seconds for a family")
    chosen = parser.parse_args()
    found = json.loads(chosen.work.read_text()) if chosen.work.is_file() else {}
    chosen.work.parent.mkdir(parents=True, exist_ok=True)
    for family in chosen.families or [family for family in FAMILIES if family not in found]:
        found[family] = apart(family, chosen.seconds)
        chosen.work.write_text(json.dumps(found, indent=1))
        print(family, json.dumps(found[family]), flush=True)
    PAGE.write_text(page({family: found[family] for family in FAMILIES if family in found}), encoding="utf-8")


if __name__ == "__main__":
    main()
