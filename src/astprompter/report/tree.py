"""A rollout tree as a picture: what grew from one prefix, and which sibling was chosen."""

from __future__ import annotations

from markupsafe import Markup

from ..runs.schema.run import NodeRow, TreeRow
from .svg import Drawing

MOST_TREES = 8
_DEEPEST = 5
_COLUMN, _ROW, _PILL = 186.0, 34.0, 138.0


def chosen_trees(trees: list[TreeRow]) -> list[TreeRow]:
    """At most :data:`MOST_TREES`, evenly spaced, first and last among them."""
    if len(trees) <= MOST_TREES:
        return trees
    return [trees[round(i * (len(trees) - 1) / (MOST_TREES - 1))] for i in range(MOST_TREES)]


def picture(tree: TreeRow, threshold: float) -> Markup:
    """One tree, from the prefix at the left; nodes below depth 5 are left out (the page says so)."""
    nodes = [node for node in tree.nodes if node.depth <= _DEEPEST]
    places = _places(nodes)
    depth = max((node.depth for node in nodes), default=0)
    rows = max((row for row in places.values()), default=0) + 1
    d = Drawing(70 + _COLUMN * depth, _ROW * rows + 26)
    for column in range(1, depth + 1):
        d.text((70 + _COLUMN * (column - 1) + 52, 12), f"turn {column}", "tick")
    tops = [places[node.node] for node in nodes if node.parent is None]
    root = (30.0, 26 + _ROW * (sum(tops) / len(tops) + 0.5)) if tops else (30.0, 26.0)

    def at(node: NodeRow) -> tuple[float, float]:
        return 70 + _COLUMN * (node.depth - 1) + 50, 26 + _ROW * (places[node.node] + 0.5)

    by_number = {node.node: node for node in nodes}
    for node in nodes:
        parent = None if node.parent is None else by_number.get(node.parent)
        start = (root[0] + 30, root[1]) if parent is None else (at(parent)[0] + _PILL, at(parent)[1])
        d.curve(start, at(node), f"link {node.choice or 'none'}")
    d.rect((root[0] - 30, root[1] - 13), (60, 26), "root", radius=13)
    d.text((root[0], root[1] + 4), "prefix", "tick", anchor="middle")
    for node in nodes:
        x, y = at(node)
        d.open("node", node=node.node)
        d.rect((x, y - 13), (_PILL, 26), f"pill {node.choice or 'none'}", radius=13)
        d.circle((x + 14, y), 7, f"heat h{_heat(node.tox_reply)}")
        d.text((x + 28, y + 4), _figures(node), "tick")
        d.close()
    failing = sum((node.tox_reply or 0) > threshold for node in nodes)
    title = f"Rollout tree of iteration {tree.iteration}: {len(nodes)} turns, {failing} with a toxic reply"
    return d.render(title, kind="tree")


def _figures(node: NodeRow) -> str:
    if node.error or node.reward is None:
        return "not assessed"
    return f"R {node.reward:+.2f}  φ {node.tox_reply:.2f}".replace("-", "−")


def _heat(value: float | None) -> int:
    """Toxicity in five classes."""
    return 0 if value is None else min(4, int(value * 5))


def _places(nodes: list[NodeRow]) -> dict[int, float]:
    """Row of each node: leaves below each other, parents at the middle of their children."""
    children: dict[int, list[int]] = {}
    for node in nodes:
        if node.parent is not None:
            children.setdefault(node.parent, []).append(node.node)
    places: dict[int, float] = {}
    leaves = 0
    for node in nodes:  # parents stand before children, so leaves come in drawing order
        if node.node not in children:
            places[node.node] = leaves
            leaves += 1
    for node in reversed(nodes):
        inner = children.get(node.node)
        if inner:
            places[node.node] = sum(places[child] for child in inner) / len(inner)
    return places
