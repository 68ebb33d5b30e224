"""The pictures of a page; each function returns one, or ``None`` where the files do not hold what it needs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from markupsafe import Markup

from ..base.formats import percent
from ..evaluation.themes import STRATEGIES
from ..runs.schema.run import LogRow
from .read import RunFiles
from .study import Adversary, Study
from .svg import Drawing, Frame, axes, scale

WIDTH, HEIGHT = 480, 320
_MOST_LINES = 6
_Line = tuple[str, list[LogRow], Callable[[LogRow], float | None], int]
"""Name, rows of the log, value of a row, colour."""


def waffle(adversary: Adversary) -> Markup | None:
    """A hundred openings as dots, those that fail filled: a share one can count."""
    share = adversary.figures.failure_within_horizon.share
    if share is None:
        return None
    d, filled = Drawing(206, 206), round(100 * share)
    for i in range(100):
        kind = f"mark s{adversary.slot % 8}" if i < filled else "hole"
        d.circle((11 + 20.4 * (i % 10), 11 + 20.4 * (i // 10)), 7.5, kind)
    return d.render(f"{filled} of 100 openings end in a toxic reply with {adversary.label}", kind="waffle")


def front(adversaries: Sequence[Adversary]) -> Markup | None:
    """Toxicity against likelihood, intervals on both sides."""
    points = [
        (a, nll, nll.mean, tox, tox.share)
        for a in adversaries
        if (nll := a.figures.nll).mean is not None and (tox := a.figures.tox_reply).share is not None
    ]
    if not points:
        return None
    frame, d = Frame(50, 34, WIDTH - 16, HEIGHT - 44), Drawing(WIDTH, HEIGHT)
    xs = [v for _, nll, mean, _, _ in points for v in (mean, *(nll.ci or ()))]
    ys = [v for _, _, _, tox, share in points for v in (share, *(tox.share_ci or ()))]
    x, y = scale(xs, frame.left, frame.right, pad=0.2), scale(ys, frame.bottom, frame.top, zero=True, pad=0.12)
    axes(d, frame, x, y, "nll of the utterances, nats per token →", "↑ toxic replies", form="%")
    d.text((frame.left, frame.bottom + 36), "← likelier", "name")
    taken: list[tuple[float, float]] = []
    labels = []
    for a, nll, mean, tox, share in reversed(points):
        at = (x(mean), y(share))
        if nll.ci:
            d.line((x(nll.ci[0]), at[1]), (x(nll.ci[1]), at[1]), f"whisker s{a.slot % 8}")
        if tox.share_ci:
            d.line((at[0], y(tox.share_ci[0])), (at[0], y(tox.share_ci[1])), f"whisker s{a.slot % 8}")
        d.marker(at, a.slot, 6)
        labels.append((at[1], at[0], a.label))
    for height, across, label in sorted(labels):
        right = across < frame.left + 0.62 * (frame.right - frame.left)
        place = _free((across + (10 if right else -10), height - 9), taken)
        d.text(place, label, "label halo", anchor="start" if right else "end")
    return d.render("Share of toxic replies against nll for each adversary; the table above holds the same figures")


def _free(at: tuple[float, float], taken: list[tuple[float, float]]) -> tuple[float, float]:
    """A place for a label near ``at`` that no other label has."""
    x, y = at
    while any(abs(y - other) < 13 and abs(x - place) < 150 for place, other in taken):
        y += 13
    taken.append((x, y))
    return x, y


def build_up(adversaries: Sequence[Adversary], *, share: bool) -> Markup | None:
    """A metric turn by turn, with intervals: the share of toxic replies, or the mean nll."""

    def points(a: Adversary) -> list[tuple[float | None, list[float] | None]]:
        if share:
            return [(turn.share, turn.share_ci) for turn in a.figures.tox_reply.per_turn]
        return [(turn.mean, turn.ci) for turn in a.figures.nll.per_turn]

    shown = [a for a in adversaries if any(value is not None for value, _ in points(a))][:_MOST_LINES]
    if not shown:
        return None
    rows = {a.label: points(a) for a in shown}
    values = [v for row in rows.values() for value, ends in row if value is not None for v in (value, *(ends or ()))]
    frame, d = Frame(50, 34, WIDTH - 110, HEIGHT - 44), Drawing(WIDTH, HEIGHT)
    turns = max(map(len, rows.values()))
    y = scale(values, frame.bottom, frame.top, zero=share, pad=0.1)
    x = scale([0.7, turns + 0.3], frame.left, frame.right, pad=0)
    name = "↑ toxic replies" if share else "↑ nll, nats per token"
    for value in y.ticks(4):
        d.line((frame.left, y(value)), (frame.right, y(value)), "grid")
        d.text(
            (frame.left - 8, y(value) + 4), percent(value, digits=0) if share else f"{value:.3g}", "tick", anchor="end"
        )
    for turn in range(1, turns + 1):
        d.text((x(turn), frame.bottom + 18), f"turn {turn}" if turns < 6 else str(turn), "tick", anchor="middle")
    d.line((frame.left, frame.bottom), (frame.right, frame.bottom), "axis")
    d.text((0, frame.top - 12), name, "name")
    names = []
    for i, a in reversed(list(enumerate(shown))):
        shift = (i - (len(shown) - 1) / 2) * 7
        dots = [(x(n) + shift, y(v), ends) for n, (v, ends) in enumerate(rows[a.label], start=1) if v is not None]
        d.path([(px, py) for px, py, _ in dots], f"stroke s{a.slot % 8}")
        for px, py, ends in dots:
            if ends:
                d.line((px, y(ends[0])), (px, y(ends[1])), f"whisker s{a.slot % 8}")
            d.marker((px, py), a.slot)
        names.append((dots[-1][1] + 4, a))
    taken: list[tuple[float, float]] = []
    for height, a in sorted(names, key=lambda item: (item[0], item[1].slot)):
        place = _free((frame.right + 14, height), taken)
        d.marker((place[0] - 5, place[1] - 4), a.slot, 3.5)
        d.text((place[0] + 3, place[1]), a.label, "label")
    return d.render(f"{'Share of toxic replies' if share else 'nll of the utterances'} at each turn")


def distribution(study: Study) -> Markup | None:
    """Histogram of the nll of every utterance, main adversary against untuned."""
    samples = []
    for a in (study.main, study.untuned):
        if a is None:
            continue
        rows = [row for row in a.run.trajectories if row.adversary == a.key]
        values = sorted(t.nll for row in rows for t in row.turns if t.nll is not None and not t.error)
        if values:
            samples.append((a, values))
    if not samples:
        return None
    top = max(values[min(len(values) - 1, int(0.995 * len(values)))] for _, values in samples)
    low = min(values[0] for _, values in samples)
    width = (top - low) / 30 or 1.0
    frame, d = Frame(50, 34, WIDTH - 16, HEIGHT - 44), Drawing(WIDTH, HEIGHT)
    bars = {a.label: Counter(min(29, int((v - low) / width)) for v in values) for a, values in samples}
    shares = {a.label: [bars[a.label][i] / len(values) for i in range(30)] for a, values in samples}
    x = scale([low, low + 30 * width], frame.left, frame.right, pad=0.01)
    y = scale([v for row in shares.values() for v in row], frame.bottom, frame.top, zero=True, pad=0.16)
    axes(d, frame, x, y, "nll of one utterance, nats per token →", "↑ share of the utterances", form="%")
    for n, (a, values) in enumerate(reversed(samples)):
        outline = [(x(low), frame.bottom)]
        for i, share in enumerate(shares[a.label]):
            outline += [(x(low + i * width), y(share)), (x(low + (i + 1) * width), y(share))]
        d.path([*outline, (x(low + 30 * width), frame.bottom)], f"area s{a.slot % 8}")
        middle = values[len(values) // 2]
        d.line((x(middle), frame.top + 14 * n), (x(middle), frame.bottom), f"median s{a.slot % 8}")
        d.text((x(middle) + 6, frame.top + 14 * n + 8), f"{a.label}: median {middle:.2f}", "label halo")
    return d.render("Distribution of the nll of single utterances; the last bar holds everything beyond it")


def forest(study: Study) -> Markup | None:
    """Paired differences from the first adversary of each evaluation, in toxicity and in likelihood."""
    main = study.main.key if study.main else None
    rows = [(a, row) for a in study.adversaries if main and (row := a.comparison(main)) is not None]
    if len(rows) < 2:
        rows = [(a, row) for a in study.adversaries if (row := a.comparison()) is not None]
    if len(rows) < 2:
        return None
    d = Drawing(760, 60 + 46 * len(rows) + 30)
    panels = (
        ([row.tox_reply.share for _, row in rows], 100, 230, 480, "toxic replies, points"),
        ([row.nll.mean for _, row in rows], 1, 510, 745, "nll, nats per token"),
    )
    for found, factor, left, right, name in panels:
        cells = [cell if cell and cell.difference is not None else None for cell in found]
        values = [0.0] + [factor * v for cell in cells if cell for v in (cell.difference or 0.0, *(cell.ci or ()))]
        x = scale(values, left, right, pad=0.08)
        bottom = d.height - 34
        for value in x.ticks(4):
            d.line((x(value), 34), (x(value), bottom), "grid")
            d.text(
                (x(value), bottom + 18), f"{value:+.3g}".replace("-", "−") if value else "0", "tick", anchor="middle"
            )
        d.line((x(0), 30), (x(0), bottom), "axis")
        d.text((left, 16), name, "name")
        for i, ((a, _), cell) in enumerate(zip(rows, cells, strict=True)):
            if cell is None or cell.difference is None:
                continue
            height = 56 + 46 * i
            if cell.ci:
                d.line((x(factor * cell.ci[0]), height), (x(factor * cell.ci[1]), height), f"whisker s{a.slot % 8}")
            d.marker((x(factor * cell.difference), height), a.slot, 6)
    for i, (a, row) in enumerate(rows):
        d.text((0, 56 + 46 * i), f"{a.label} − {row.b}"[:34], "label")
        d.text((0, 72 + 46 * i), ", ".join(a.changes[:2])[:44], "tick")
    return d.render("Paired differences of every adversary, with intervals", kind="wide")


def strategies(adversaries: Sequence[Adversary]) -> Markup | None:
    """Failures by strategy, a bar for each adversary."""
    shown = [a for a in adversaries if a.figures.strategies][:4]
    if not shown:
        return None
    names = [*STRATEGIES, *sorted({name for a in shown for name in a.figures.strategies} - set(STRATEGIES))]
    highest = max(a.figures.strategies.get(name, 0) for a in shown for name in names) or 1
    step = 14 * len(shown) + 16
    d = Drawing(WIDTH, step * len(names) + 8)
    for i, name in enumerate(names):
        d.text((0, step * i + 7 * len(shown) + 9), name, "label")
        for j, a in enumerate(shown):
            count = a.figures.strategies.get(name, 0)
            length = (WIDTH - 140) * count / highest
            d.rect((92, step * i + 14 * j + 4), (length, 11), f"mark s{a.slot % 8}", radius=1)
            d.text((98 + length, step * i + 14 * j + 13.5), str(count), "tick")
    return d.render("Number of failures by strategy and adversary")


def learning(run: RunFiles) -> list[tuple[str, str, Markup]]:
    """How training went: title, explanation and picture of each curve."""
    steps = [row for row in run.log if row.type == "iteration"]
    dev = [row for row in run.log if row.type == "dev"]
    best = next((row for row in reversed(dev) if row.best), None)

    def nll(row: LogRow) -> float | None:
        return row.nll.mean if row.nll else None

    def toxic(row: LogRow) -> float | None:
        return row.tox_reply.share if row.tox_reply else None

    panels: list[tuple[str, str, list[_Line], LogRow | None]] = [
        ("Dev reward", "mean R on held-out prefixes; the ring is the policy that was kept",
         [("dev", dev, _reward, 0)], best),
        ("Reward terms", "means over the collected turns, weights and signs included",
         [("reply", steps, lambda row: row.reward.tox_reply_term if row.reward else None, 0),
          ("turn", steps, lambda row: row.reward.tox_turn_term if row.reward else None, 2),
          ("nll", steps, lambda row: row.reward.nll_term if row.reward else None, 1)], None),
        ("Toxic replies", "share, in training and on the dev prefixes",
         [("dev", dev, toxic, 0), ("training", steps, toxic, 1)], None),
        ("nll", "nats per token under the defender", [("dev", dev, nll, 0), ("training", steps, nll, 1)], None),
        ("Margin", "reward of chosen minus rejected, on-policy pairs", [("margin", steps, lambda row: row.margin, 0)],
         None),
        ("Speed", "tokens sampled per second, both speakers",
         [("tokens/s", steps, lambda row: (row.rates or {}).get("sampled_tokens_per_s"), 2)], None),
    ]  # fmt: skip
    drawn = [(title, note, _curves(title, lines, best)) for title, note, lines, best in panels]
    return [(title, note, picture) for title, note, picture in drawn if picture is not None]


def _curves(title: str, lines: Sequence[_Line], best: LogRow | None) -> Markup | None:
    found = []
    for name, rows, value_of, slot in lines:
        points = [(float(row.updates), value) for row in rows if (value := value_of(row)) is not None]
        if points:
            found.append((name, points, slot))
    if not found:
        return None
    frame, d = Frame(46, 16, 236 if len(lines) > 1 else 286, 150), Drawing(300, 190)
    x = scale([0.0, *(px for _, points, _ in found for px, _ in points)], frame.left, frame.right, pad=0.02)
    share = title == "Toxic replies"
    y = scale([py for _, points, _ in found for _, py in points], frame.bottom, frame.top, zero=share, pad=0.12)
    axes(d, frame, x, y, "updates", "", form="%" if share else "k" if title == "Speed" else "g")
    taken: list[tuple[float, float]] = []
    for name, points, slot in found:
        pixels = [(x(px), y(py)) for px, py in points]
        d.path(pixels, f"stroke s{slot}") if len(pixels) > 1 else d.circle(pixels[0], 3, f"mark s{slot}")
        if len(lines) > 1:
            d.text(_free((pixels[-1][0] + 6, pixels[-1][1] + 4), taken), name, "label")
    kept = None if best is None else _reward(best)
    if best is not None and kept is not None:
        d.circle((x(best.updates), y(kept)), 5, "ring s0")
    return d.render(f"{title} over the updates")


def _reward(row: LogRow) -> float | None:
    return row.reward.mean if row.reward else None
