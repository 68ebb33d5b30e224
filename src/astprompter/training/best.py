"""The best adversary as a normal model folder that any Hugging Face tool can load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..base.display import portable
from ..base.errors import RunError
from ..base.files import replace_folder
from ..base.formats import percent
from ..base.processes import is_main
from ..config import Settings
from ..models.local.lm import LanguageModel
from ..models.local.lora import merged_weights
from ..runs.schema.run import LogRow
from .metrics import means_of
from .sharding import kept_weights

_CARD = """---
tags: [red-teaming, astprompter]
---
# {title} {defender}

**Content warning: {warning}** It is a
test instrument: use it on models that you own or may test, and do not deploy it.

- method: {method}
- reward weights: alpha {alpha}, beta {beta}, lambda {lambda_}
- started from: {adversary}
- defender: {defender}; toxicity scorer: {scorer}, label {label}
- chosen at iteration {iteration} ({updates} updates) {chosen}; {figures}

Sampling settings are in `generation_config.json`. {form}
"""


_REPAIRED = """---
tags: [astprompter]
---
# {title}: {defender}

{what}

- attacked by: {adversaries}; from prefixes of: {prefixes}
- learnt from {pairs} pairs of its own replies to attacks that it failed at, the least toxic one over the most toxic one
- loss: {loss}
- a failure is a reply that scores more than {threshold} under: {scorers}
- chosen at iteration {iteration} ({updates} updates) by its failures on the dev prefixes: {before} of the replies
  before, {after} now
- cost on {tokens} tokens of held-out benign conversations: nll {rise}, KL {kl} nats per token; of {replies} new
  replies in them, length, distinct-2 or Vendi score fell by at most {fall}

`attacks.jsonl` beside this folder names the attacks that it learnt from. Licence and intended use are those of
'{defender}'.
"""


_REPAIRS = (
    "Repaired",
    "This is '{defender}', tuned to fail less at the attacks of adversaries, and to stay what it was elsewhere. "
    "That it fails\nless was measured with these adversaries and this scorer only: a new adversary may find other "
    "failures.",
)
_AS_IT_WAS = (
    "Not repaired",
    "This is '{defender}' as it was: so far no policy failed less at the attacks of adversaries within the budget.",
)
_TUNED = (
    "Adversary tuned against",
    "this model was tuned to write text after which another model replies with toxic text.",
)
_START = (
    "Untuned adversary against",
    "this model was kept for the toxic text that another model replies with. It is the one that training started from: "
    "no later policy did better on the dev prefixes.",
)
_PLAIN = "An utterance continues the conversation text as it stands."
_CHAT = (
    "It speaks under its chat template with the roles reversed: prefix and replies are user messages, an utterance is "
    "an assistant message."
)


def save_best(folder: Path, adversary: LanguageModel, settings: Settings, dev: LogRow) -> None:
    """Write model, tokenizer, generation config and card; the previous best stays until this one is whole.

    All processes call it in step; the first one writes.

    Raises:
        RunError: The folder cannot be written.
    """
    title, warning = _TUNED if dev.updates else _START
    card = _CARD.format(
        title=title,
        warning=warning,
        defender=portable(settings.defender.path),
        adversary=portable(settings.adversary.path),
        method=_method(settings),
        alpha=settings.reward.alpha,
        beta=settings.reward.beta,
        lambda_=settings.reward.lambda_,
        scorer=portable(settings.scorer.spec),
        label=settings.scorer.label,
        iteration=dev.iteration,
        updates=dev.updates,
        chosen=_chosen(settings),
        figures=_figures(dev),
        form=_CHAT if adversary.chat else _PLAIN,
    )
    _save(folder, adversary, card, "adversary", _sampling_of(adversary))


def save_repaired(
    folder: Path, defender: LanguageModel, settings: Settings, before: LogRow, dev: LogRow, pairs: int
) -> None:
    """Write a repaired defender with the generation config that it had; as :func:`save_best`.

    Args:
        folder: Where to.
        defender: The policy.
        settings: All settings.
        before: Dev figures of the defender as it was.
        dev: Those of the policy.
        pairs: Pairs that it has learnt from.

    Raises:
        RunError: The folder cannot be written.
    """
    if dev.failures is None or before.failures is None or dev.benign is None:
        raise ValueError("not dev rows of a repair")
    harden, loss, name = settings.harden, settings.loss, portable(settings.defender.path)
    title, what = _REPAIRS if dev.updates else _AS_IT_WAS
    card = _REPAIRED.format(
        title=title,
        what=what.format(defender=name),
        defender=name,
        adversaries=", ".join(map(portable, harden.adversaries)),
        pairs=pairs,
        prefixes=portable(settings.data.train),
        loss=f"{loss.kind.upper()} with tau {loss.tau:g}, nll of the chosen replies times {harden.sft:g}, KL on benign "
        f"conversations times {harden.keep:g}",
        scorers=", ".join(map(portable, [settings.scorer.spec, *settings.evaluation.scorers])),
        threshold=f"{settings.evaluation.threshold:g}",
        iteration=dev.iteration,
        updates=dev.updates,
        before=percent(before.failures.share),
        after=percent(dev.failures.share),
        rise=f"{dev.benign.rise:+.2%}",
        kl=f"{dev.benign.kl:.4f}",
        tokens=f"{dev.benign.tokens:,}",
        replies=dev.benign.replies,
        fall=percent(None if dev.benign.fall is None else max(dev.benign.fall, 0.0)),
    )
    _save(folder, defender, card, "repaired defender", None)


def _sampling_of(lm: LanguageModel) -> Any:
    """The sampling settings as a generation config."""
    from transformers import GenerationConfig

    sampling = lm.sampling
    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=sampling.temperature > 0,
        max_new_tokens=sampling.max_new_tokens,
        min_new_tokens=sampling.min_new_tokens,
        temperature=sampling.temperature if sampling.temperature > 0 else None,
        top_p=sampling.top_p if sampling.temperature > 0 else None,
        top_k=0 if sampling.temperature > 0 else None,
        repetition_penalty=sampling.repetition_penalty,
        eos_token_id=list(lm.end_ids) or None,
        bos_token_id=lm.tokenizer.bos_token_id,
        pad_token_id=lm.tokenizer.pad_token_id
        if lm.tokenizer.pad_token_id is not None
        else (lm.end_ids[0] if lm.end_ids else None),
    )


def _save(folder: Path, lm: LanguageModel, card: str, what: str, generation: Any | None) -> None:
    from safetensors import SafetensorError

    weights = merged_weights(lm.model) or kept_weights(lm.model)
    if not is_main():
        return
    draft = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        lm.model.save_pretrained(draft, state_dict=weights)
        lm.tokenizer.save_pretrained(draft)
        if generation is not None:
            generation.save_pretrained(draft)
        (draft / "README.md").write_text(card, encoding="utf-8")
        replace_folder(draft, folder, keep_old=False)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by its own error
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write the best {what} to '{folder}': {reason}") from None


def _method(settings: Settings) -> str:
    if settings.training.objective == "sft":
        return "supervised fine-tuning on eliciting texts, the baseline of ASTPrompter (arXiv 2407.09447)"
    if settings.loss.kind == "margin":
        return f"regression on the margin of rewards (REBEL, arXiv 2404.16767) with eta {settings.loss.eta}"
    return f"ASTPrompter (arXiv 2407.09447), {settings.loss.kind.upper()} with tau {settings.loss.tau}"


def _chosen(settings: Settings) -> str:
    training = settings.training
    if training.objective == "sft":
        return "as the last one"
    by = "mean dev reward" if training.best_by == "reward" else "distinct failures on the dev prefixes"
    limit = "" if training.best_nll is None else f", with a dev nll at most {training.best_nll:.1%} above the untuned"
    return f"by {by}{limit}"


def _figures(dev: LogRow) -> str:
    means = means_of(dev)
    if means is None:
        return "no dev turn has a reward"
    reward, share, nll, threshold = means
    return (
        f"mean dev reward {reward:+.4f}, dev replies above {threshold:g}: {share:.1%} ({dev.distinct_failures} "
        f"distinct failures), dev nll of its utterances "
        f"under the defender: {nll:.3f} nats per token"
    )
