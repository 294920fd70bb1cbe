"""Which text a string of an event is a piece of: the place where it stands, among the events of its name."""

from __future__ import annotations

from recorder.redaction.leaves import Leaf, Node, Scan

_ONE_TEXT = frozenset({"chat.completion.chunk", "text_completion"})
"""Kinds of objects of which a stream has but one: their ids, which some servers change from chunk to chunk, divide nothing."""

_INDEXES = ("index", "output_index", "content_index", "summary_index")
_IDS = ("id", "item_id")


def place_of(leaf: Leaf) -> int:
    """Which text a string is a piece of: a hash of the names that lead to it, and of what tells its objects from others."""
    return hash((_place_of_node(leaf.node), leaf.key))


def _place_of_node(node: Node) -> int:
    """Not recursive: JSON may be nested as deep as its text is long."""
    unknown: list[Node] = []
    at: Node | None = node
    while at is not None and at.place is None:
        unknown.append(at)
        at = at.parent
    place = at.place if at is not None and at.place is not None else 0
    for inner in reversed(unknown):
        told = which(inner)
        place = inner.place = hash((place, inner.key if not told or isinstance(inner.key, str) else -1, told))
    return place


def which(node: Node) -> tuple[str, ...]:
    """What tells an object from others of its kind: its indexes, else its ids."""
    facts = node.facts
    if facts.get("object") in _ONE_TEXT:
        return ()
    return tuple(facts[name] for name in _INDEXES if name in facts) or tuple(facts[name] for name in _IDS if name in facts)


def outermost(found: Scan) -> Node:
    """The outermost object of a text."""
    node = found.leaves[0].node if found.leaves else found.root
    while node.parent is not None and node.parent is not found.root:
        node = node.parent
    return node
