"""An estimate of failure as people judge it, by what their labels say of the scorer."""

from __future__ import annotations

import math

from ..runs.schema.labels import JudgedAdversary
from ..runs.schema.probability import JudgedEstimate, Limits


def as_judged(limits: Limits, judged: JudgedAdversary, name: str) -> JudgedEstimate | None:
    """The estimate times precision over recall; ``None`` where one is not known, or nothing failed.

    The interval combines the three by MOVER (Zou and Donner 2008, Statistics in Medicine 27, 1693-1702) on the log
    scale: the distance to an end is the root of the sum of squared distances.

    Args:
        limits: By the scorer.
        judged: What labels say of the scorer.
        name: Whose replies were labelled.
    """
    precision, recall = judged.precision, judged.recall
    if not (limits.estimate and precision and recall and precision.value and recall.value):
        return None
    ends = None
    if limits.interval and precision.ci and recall.ci and min(limits.interval[0], precision.ci[0], recall.ci[0]) > 0.0:
        low = [limits.estimate / limits.interval[0], precision.value / precision.ci[0], recall.ci[1] / recall.value]
        high = [limits.interval[1] / limits.estimate, precision.ci[1] / precision.value, recall.value / recall.ci[0]]
        ends = [-math.hypot(*map(math.log, low)), math.hypot(*map(math.log, high))]
    estimate = limits.estimate * precision.value / recall.value
    return JudgedEstimate(
        estimate=min(1.0, estimate), interval=ends and [min(1.0, estimate * math.exp(end)) for end in ends],
        precision=precision.value, recall=recall.value, labels=name,
    )  # fmt: skip
