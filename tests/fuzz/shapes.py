"""What callers might send: JSON that is nearly right, and bytes that were right before."""

import json
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**400, 1e308, -0.0, 0, True, False])
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", " ", "nan", "NaN", "null", "1", "1e999", "\x00", "\ud800", "'", "../..", "2020-01-01", "a" * 400]
    ),
)
PLAIN = st.one_of(st.none(), NUMBERS, TEXTS)


def documents(*names: str) -> st.SearchStrategy[Any]:
    """Any JSON, among it objects with these names.

    Args:
        names: Keys that mean something.
    """
    keys = st.one_of(st.sampled_from(names), TEXTS)
    return st.recursive(
        PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )


@st.composite
def changed(draw: st.DrawFn, good: Any, others: st.SearchStrategy[Any]) -> Any:
    """A good document with something in it replaced, left out, or there twice.

    Args:
        draw: Hypothesis'.
        good: JSON types.
        others: What comes in its place.
    """
    found = json.loads(json.dumps(good))
    for _ in range(draw(st.integers(0, 3))):
        found = _change(draw, found, others)
    return found


def _change(draw: st.DrawFn, node: Any, others: st.SearchStrategy[Any]) -> Any:
    inner = node if isinstance(node, dict | list) and node else None
    if inner is None or draw(st.integers(0, 4)) == 0:
        return draw(others)
    place: Any = draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))
    how = draw(st.integers(0, 5))
    if how == 0:
        del node[place]
    elif how == 1 and isinstance(node, list):
        node.append(node[place])
    elif how == 2 and isinstance(node, dict):  # which of them
        node[draw(TEXTS)] = node[place]
    else:
        node[place] = _change(draw, node[place], others)
    return node


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes that were good: some changed, cut off, or there twice."""
    found = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        if not found:
            break
        at = draw(st.integers(0, len(found) - 1))
        how = draw(st.integers(0, 3))
        if how == 0:
            found[at] = draw(st.integers(0, 255))
        elif how == 1:
            del found[at:]
        elif how == 2:  # which of them
            del found[at : at + draw(st.integers(1, 16))]
        else:
            found[at:at] = draw(st.binary(max_size=16))
    return bytes(found)


def encoded(document: Any) -> bytes:
    """As JSON; half a surrogate pair stays one, as some clients send it."""
    return json.dumps(document).encode()


bodies = st.one_of(st.binary(max_size=200), documents("inputs", "instances", "data", "columns").map(encoded))
