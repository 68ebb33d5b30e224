"""What must be as it was when a run goes on: its settings, its models and its texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from ..base.errors import UserError
from ..base.records import ElicitingText, Prefix
from ..config import Settings, dotted
from ..data import Dialogue
from ..runs.schema.run import ConfigFile

MAY_CHANGE = frozenset(
    {
        *(f"remote.{name}" for name in ("base_url", "key_env", "concurrency", "timeout", "retries", "error_budget")),
        "training.shard",
        *("training.max_tokens_per_batch", "rollout.trees_per_batch", "scorer.batch_size", "scorer.error_budget"),
        *(
            "data.test",
            "data.benign",
            "evaluation.scorers",
            "evaluation.prefixes",
            "evaluation.resamples",
            "evaluation.level",
        ),
        "evaluation.threshold",
        "novelty.earlier",
    }
)
"""Settings that decide how a served defender is reached, what fits in memory, and what is evaluated later; none decides
what is said or learnt. Where earlier runs lie may change, what they found may not (:func:`refuse_changed`)."""


def texts_hash(rows: Sequence[Prefix] | Sequence[ElicitingText] | Sequence[Dialogue] | Sequence[str]) -> str:
    """SHA-256 over texts and names in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(_content(row)).encode("ascii"))
    return digest.hexdigest()


def _content(row: Prefix | ElicitingText | Dialogue | str) -> tuple[str, ...]:
    if isinstance(row, str):
        return (row,)
    if isinstance(row, Prefix):
        return row.id, row.text
    return row.turns if isinstance(row, Dialogue) else (row.text,)


def refuse_changed(recorded: ConfigFile, now: ConfigFile) -> None:
    """Refuse to continue a run with other models or texts than it began with.

    Raises:
        UserError: Names what changed.
    """
    kinds = (
        ("model", recorded.models_sha256, now.models_sha256),
        ("data", recorded.data_sha256, now.data_sha256),
    )
    changed = [
        f"{kind} '{name}'"
        for kind, before, after in kinds
        for name in dict.fromkeys([*after, *before])
        if before.get(name) != after.get(name)
    ]
    if changed:
        raise UserError(
            f"cannot resume: {', '.join(changed)} changed since the run began; restore it, or start a new run with "
            "another --out"
        )


def check_resumable(settings: Settings, recorded: Settings) -> Settings:
    """Refuse to continue a run under other settings; only those of :data:`MAY_CHANGE` may change.

    With a constant schedule ``training.updates`` may grow: the run is trained longer.

    Returns:
        The settings to go on with.

    Raises:
        UserError: Names each setting that changed.
    """
    old, new = dotted(recorded.as_dict()), dotted(settings.as_dict())
    longer = new["training.updates"] > old["training.updates"]
    may = MAY_CHANGE | {"training.updates"} if longer and recorded.training.schedule == "constant" else MAY_CHANGE
    if recorded.training.best_by == "distinct" or recorded.novelty.weight:  # what is a failure decides what is learnt
        may -= {"evaluation.threshold"}
    if recorded.training.objective == "harden":
        may -= {"evaluation.threshold", "evaluation.scorers"}
    else:
        may |= {key for key in old if key.startswith("harden.")}
    changed = [
        f"{key}: {old[key]!r} in the run, {new[key]!r} now" for key in old if key not in may and old[key] != new[key]
    ]
    if changed and longer and recorded.training.schedule == "linear":
        changed.append("a linear schedule's rates depend on the number of updates, so it cannot be trained longer")
    if changed:
        raise UserError(
            f"cannot resume under other settings ({'; '.join(changed)}); start a new run with another --out"
        )
    return settings
