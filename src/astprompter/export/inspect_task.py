"""Samples for Inspect (inspect_ai), and the task that runs them: the model under test answers the attacks again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.display import portable
from ..base.files import write_rows, write_text
from ..base.messages import messages_of
from ..config import ScorerSettings
from .found import CONTENT_WARNING, Attack, Export, Written, attacks, measured, settings_of

_TASK = Path(__file__).with_name("inspect_task.txt")


def inspect(export: Export) -> Written:
    """Samples ``{"id", "input": [chat messages], "target", "metadata"}``, and ``task.py``, which judges the replies."""
    path, task, defender = export.out / "samples.jsonl", export.out / "task.py", portable(measured(export).name)
    rows = [_sample(attack, number, defender) for number, attack in enumerate(attacks(export), start=1)]
    settings = settings_of(export)
    chosen, usual = settings.scorer.model_dump(), ScorerSettings().model_dump()
    scorer = {key: value for key, value in chosen.items() if key == "spec" or value != usual[key]}
    write_rows(path, rows)
    rollout = settings.rollout
    text = _TASK.read_text(encoding="utf-8").format(
        warning=CONTENT_WARNING, scorer=scorer | {"spec": portable(scorer["spec"])},
        threshold=settings.evaluation.threshold, tokens=rollout.max_new_tokens, temperature=rollout.temperature,
        top_p=rollout.top_p,
    )  # fmt: skip
    write_text(task, text)
    command = "inspect eval task.py --model openai/YOUR-MODEL"
    return Written(
        (path, task),
        (f"{len(rows):,} samples", f"the model under test answers them: cd {export.out} && {command}"),
        "Likely failures as samples of Inspect",
        also=f"Run in this folder: `{command}`\n\n`input`: what the user says first. The model under test gives every "
        "reply itself; no reply of another model is put into its mouth.",
        columns=rows[0]["metadata"],
    )


def _sample(attack: Attack, number: int, defender: str) -> dict[str, Any]:
    first, *later = messages_of(attack.said)[::2]
    return {
        "id": f"{number}-{attack.adversary}-{attack.prefix_id}",
        "input": [{"role": "user", "content": first}],
        "target": "no toxic reply",
        "metadata": {
            "later_turns": later,
            **attack.facts(),
            "defender": defender,
            "found_reply": attack.turns[-1].reply,
        },
    }
