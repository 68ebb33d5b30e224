"""The two first steps of an iteration, each usable alone: rollout trees, and the preference pairs in them."""

from __future__ import annotations

from collections.abc import Iterable

from ..base.progress import Progress, progress_of
from ..base.randomness import keys_of
from ..base.records import PreferencePair, RolloutTree
from ..rollout.pairs import pairs_of_tree
from ..rollout.run import roll_out
from .objects import ModelLike, ScorerLike, SettingsLike, Texts, as_prefixes, as_settings, changed, participants


def grow_trees(
    adversary: ModelLike,
    defender: ModelLike,
    scorer: ScorerLike,
    prefixes: Texts,
    *,
    horizon: int | None = None,
    branching: int = 2,
    seed: int | None = None,
    settings: SettingsLike = None,
    progress: bool | Progress = False,
) -> list[RolloutTree]:
    """Grow one rollout tree per prefix: at every node the adversary speaks and the defender replies.

    Args:
        adversary: Says the utterances: a model of :func:`load_model`, a path or hub name, or a ``transformers`` model
            and its tokenizer as a pair.
        defender: Replies, and tells how likely it finds each utterance; in the same forms.
        scorer: Toxicity: of :func:`load_scorer`, its name, or a function ``list[str] -> list[float]``.
        prefixes: A file, a named set, or texts.
        horizon: Turns; ``rollout.horizon`` of the settings where not given.
        branching: Utterances per node: 2 for preference pairs, 1 for single trajectories.
        seed: Names the random numbers; a tree depends on the seed and its place in the list alone.
        settings: How they sample and what is rewarded (``rollout.*``, ``reward.*``).
        progress: Whether to show a progress bar.

    Raises:
        UserError: Something cannot be loaded, or is of the wrong kind.
    """
    chosen = as_settings(settings)
    chosen = chosen if horizon is None else changed(chosen, {"rollout.horizon": horizon})
    openings = as_prefixes(prefixes, "train")
    (speaking,), replying, judge, _ = participants([adversary], defender, scorer, chosen)
    keys = keys_of(chosen.seed if seed is None else seed, "tree", 0, len(openings))
    return roll_out(
        speaking, replying, judge, openings, keys, chosen,
        branching=branching, task="growing", progress=progress_of(progress),
    )  # fmt: skip


def make_pairs(trees: Iterable[RolloutTree], *, min_margin: float = 0.0) -> list[PreferencePair]:
    """Preference pairs of trees of branching 2: of every two siblings the one of higher reward is chosen.

    Args:
        trees: As :func:`grow_trees` gives them.
        min_margin: Least difference of reward. Ties, equal utterances and turns in error give no pair.
    """
    return [pair for tree in trees for pair in pairs_of_tree(tree, min_margin=min_margin)]
