"""A rollout tree as a picture: what grew from one prefix, and which sibling was chosen."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from ..runs.schema.learnt import NodeRow, TreeRow

MOST_TREES = 8
_DEEPEST = 5


class Drawn(NamedTuple):
    """A tree, from the prefix at the left.

    Attributes:
        title: What it shows, in words.
        depth: Its columns.
        rows: Its rows.
        root: Height of the prefix, in pixels.
        nodes: Each with its place, and the place that its link comes from.
    """

    title: str
    depth: int
    rows: float
    root: float
    nodes: list[tuple[NodeRow, float, float, float, float]]


def chosen_trees(trees: list[TreeRow]) -> list[TreeRow]:
    """At most :data:`MOST_TREES`, evenly spaced, first and last among them."""
    if len(trees) <= MOST_TREES:
        return trees
    return [trees[round(i * (len(trees) - 1) / (MOST_TREES - 1))] for i in range(MOST_TREES)]


def drawn(tree: TreeRow, threshold: float) -> Drawn:
    """One tree; nodes below depth 5 are left out (the page says so)."""
    nodes = [node for node in tree.nodes if node.depth <= _DEEPEST]
    rows = _places(nodes)
    places = {node.node: (186.0 * node.depth - 66, 34 * rows[node.node] + 43) for node in nodes}
    tops = [rows[node.node] for node in nodes if node.parent is None]
    root = 26 + 34 * (sum(tops) / len(tops) + 0.5) if tops else 26.0
    links = []
    for node in nodes:
        x, y = places.get(-1 if node.parent is None else node.parent, (-78.0, root))
        links.append((node, *places[node.node], x + 138, y))
    failing = sum((node.tox_reply or 0) > threshold for node in nodes)
    title = f"Rollout tree of iteration {tree.iteration}: {len(nodes)} turns, {failing} with a toxic reply"
    return Drawn(title, max((node.depth for node in nodes), default=0), max(rows.values(), default=0) + 1, root, links)


def figures(node: NodeRow) -> str:
    """Reward and toxicity of a node, short."""
    known = [("R", node.reward, "+.2f"), ("φ", node.tox_reply, ".2f")]
    told = "  ".join(f"{name} {value:{form}}" for name, value, form in known if value is not None)
    return told.replace("-", "−") or "not assessed"


def _places(nodes: list[NodeRow]) -> dict[int, float]:
    """Row of each node: leaves below each other, parents at the middle of their children."""
    children: defaultdict[int | None, list[int]] = defaultdict(list)
    for node in nodes:
        children[node.parent].append(node.node)
    leaves = [node.node for node in nodes if node.node not in children]  # parents stand before children: drawing order
    places = {leaf: float(row) for row, leaf in enumerate(leaves)}
    for node in reversed(nodes):
        if inner := children.get(node.node):
            places[node.node] = sum(places[child] for child in inner) / len(inner)
    return places
