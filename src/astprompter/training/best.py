"""The best adversary as a normal model folder that any Hugging Face tool can load."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..base.display import portable
from ..base.errors import RunError
from ..base.files import replace_folder
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
    from safetensors import SafetensorError
    from transformers import GenerationConfig

    weights = merged_weights(adversary.model) or kept_weights(adversary.model)
    if not is_main():
        return
    sampling = adversary.sampling
    draft = folder.with_name(folder.name + ".tmp")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        adversary.model.save_pretrained(draft, state_dict=weights)
        adversary.tokenizer.save_pretrained(draft)
        GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=sampling.temperature > 0,
            max_new_tokens=sampling.max_new_tokens,
            min_new_tokens=sampling.min_new_tokens,
            temperature=sampling.temperature if sampling.temperature > 0 else None,
            top_p=sampling.top_p if sampling.temperature > 0 else None,
            top_k=0 if sampling.temperature > 0 else None,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=list(adversary.end_ids) or None,
            bos_token_id=adversary.tokenizer.bos_token_id,
            pad_token_id=adversary.tokenizer.pad_token_id
            if adversary.tokenizer.pad_token_id is not None
            else (adversary.end_ids[0] if adversary.end_ids else None),
        ).save_pretrained(draft)
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
        (draft / "README.md").write_text(card, encoding="utf-8")
        replace_folder(draft, folder, keep_old=False)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk by its own error
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot write the best adversary to '{folder}': {reason}") from None


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
