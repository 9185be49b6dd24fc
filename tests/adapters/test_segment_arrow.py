"""Two ways of reading a segment, one result."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import given, settings
from hypothesis import strategies as st

from model_rollouts.adapters.delta_log import DeltaLogWriter, LogContractError
from model_rollouts.adapters.delta_schema import to_arrow
from model_rollouts.adapters.json_lines import JsonLines
from model_rollouts.adapters.segment_arrow import columnar

NOW = 1_790_000_000_000_000


def row(**changes: Any) -> dict[str, Any]:
    return {
        "request_id": "a",
        "ts": NOW,
        "model": "m",
        "version": "1",
        "arm": "champion",
        "cohort": None,
        "served": True,
        "rollout_id": None,
        "stage": None,
        "unit_id": None,
        "status": "ok",
        "error": None,
        "latency_ms": 1.5,
        "prediction": "1",
        "score": None,
        "gateway_id": "g",
        "traffic_revision": 1,
        "features": {},
    } | changes


def lines(*rows: Any) -> bytes:
    return b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in rows)


def one_by_one(table: Any, data: bytes, existing: Mapping[str, str]) -> tuple[pa.Table | None, int]:
    rows = JsonLines(data)
    decoded = list(rows)
    return (to_arrow(table, decoded, existing) if decoded else None), rows.damaged


def same(one: pa.Table, other: pa.Table) -> bool:
    """Equal in names, types and bits, but for the sign of a zero that no writer of ours makes."""
    return bool(one.schema == other.schema and one.equals(other))


TEXT = st.text(max_size=6)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.sampled_from(["2013-01-01T05:00:00", "2013-01-01", "1", "true", "", "NaN", "\x00", "\U0001f600"]),
    st.lists(st.integers(0, 9), max_size=2),
    st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
)
OF_A_KIND = st.sampled_from(
    [
        st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        st.integers(-(2**63), 2**64 - 1) | st.none(),
        st.booleans() | st.none(),
        TEXT | st.none(),
        st.integers(0, 5) | st.floats(0, 1),
        st.just("2013-01-01T05:00:00") | st.none(),
        st.none(),
        SCALARS,
    ]
)
NAMES = st.sampled_from(["x", "y", "X", "long name", "é", "", "a.b", "ts"])
WRONG = {
    "ts": st.sampled_from([NOW, str(NOW), "2026-01-31T12:00:00Z", None, 0, 10**18, 1.5, True]),
    "stage": st.sampled_from([0, 3, 2**40, 1.0, "1", None]),
    "served": st.sampled_from([True, False, None, 1]),
    "latency_ms": st.sampled_from([0, 1, 2.5, None, 1e300, "1"]),
    "unit_id": st.sampled_from(["u", 5, None, "\ufeff"]),
    "score": SCALARS,
    "request_id": TEXT | st.none(),
    "features": st.sampled_from([None, [], "x", {}]),
    "unknown": st.just(1),
}
EXISTING = st.dictionaries(
    st.sampled_from(["f_x", "f_y", "f_X", "f_é", "f_gone"]), st.sampled_from(["double", "string", "long"]), max_size=3
)


@st.composite
def segments(draw: st.DrawFn) -> bytes:
    """A segment: mostly usual rows, sometimes with a wrong value, sometimes with a byte that the disk made up."""
    features = {name: draw(OF_A_KIND) for name in draw(st.lists(NAMES, max_size=4, unique=True))}
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        given_here = {name: draw(kind) for name, kind in features.items() if draw(st.booleans())}
        rows.append(row(request_id=draw(TEXT), features=given_here))
    if draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(WRONG)))
        rows[draw(st.integers(0, len(rows) - 1))][name] = draw(WRONG[name])
    if draw(st.integers(0, 3)) == 0:
        del rows[-1][draw(st.sampled_from(sorted(rows[-1])))]
    data = lines(*rows)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(data) - 1))
        some = draw(st.sampled_from([b"", b"\x00", b"\n", b"\r", b"\xff", b"}\n{", b'"', b"9", b"NaN", b"{}\n", b"-"]))
        data = data[:at] + some + data[at + draw(st.integers(0, 3)) :]
    return data if data.endswith(b"\n") else data + b"\n"


@settings(max_examples=600, deadline=None)
@given(segments(), EXISTING)
def test_what_is_read_as_columns_is_what_the_rows_say_one_by_one(data: bytes, existing: dict[str, str]) -> None:
    found = columnar("predictions", JsonLines(data), existing)
    if found is None:
        return  # then the rows are read one by one
    expected, damaged = one_by_one("predictions", data, existing)
    assert damaged == 0
    assert expected is not None
    assert same(found, expected)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "request_id": TEXT,
                "ts": st.integers(NOW, NOW + 10**12),
                "label": TEXT | st.none(),
                "value": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_usual_outcomes_are_read_as_columns(rows: list[dict[str, Any]]) -> None:
    found = columnar("outcomes", JsonLines(lines(*rows)), {})
    expected, _ = one_by_one("outcomes", lines(*rows), {})
    assert found is not None
    assert expected is not None
    assert same(found, expected)


@pytest.mark.parametrize("existing", [{}, {"f_x": "double", "f_t": "string", "f_gone": "double", "note": "string"}])
def test_usual_predictions_are_read_as_columns(existing: dict[str, str]) -> None:
    rows = [
        row(features={"x": 1, "b": True, "t": "2013-01-01T05:00:00", "n": None, "é": "ü\u2028\x00"}),
        row(features={"x": 2**64 - 1, "b": None, "t": None, "n": None, "é": None, "later": 0.1}, stage=3, cohort="x"),
        row(features={"x": None, "later": -5e-324}, latency_ms=3, score=1, error="a\nb", unit_id=""),
        row(features=None),
        {k: v for k, v in row().items() if k not in {"features", "cohort", "score"}},
    ]
    found = columnar("predictions", JsonLines(lines(*rows)), existing)
    expected, _ = one_by_one("predictions", lines(*rows), existing)
    assert found is not None
    assert expected is not None
    assert same(found, expected)
    assert found["f_t"].to_pylist()[0] == "2013-01-01T05:00:00"


USUAL = lines(row())


@pytest.mark.parametrize(
    "data",
    [
        USUAL[:-2] + b"\n",
        USUAL + b"\n",
        b"\n" + USUAL,
        USUAL[:-1] + USUAL + b"\n",
        USUAL.replace(b'"arm"', b'\n"arm"'),
        USUAL.replace(b'"arm"', b'\r"arm"'),
        USUAL * 40 + USUAL[:-1] + USUAL,
        USUAL * 40 + USUAL[:-1] + USUAL + USUAL.replace(b'"arm"', b'\n"arm"'),
        USUAL * 40 + USUAL.replace(b'"m"', b'"\xff"'),
        USUAL * 40 + USUAL.replace(b'"latency_ms":1.5', b'"latency_ms":NaN'),
        USUAL * 40 + USUAL.replace(b'"latency_ms":1.5', b'"latency_ms":' + b"9" * 400),
        lines(row(features={"x": 1})) * 40 + USUAL.replace(b'"features":{}', b'"features":{"x":-Infinity}'),
        b"\x00\x00\n" + USUAL,
        b"\xef\xbb\xbf" + USUAL,
        USUAL.replace(b'"m"', b'"\xff"'),
        USUAL.replace(b'"latency_ms":1.5', b'"latency_ms":NaN'),
        USUAL.replace(b'"latency_ms":1.5', b'"latency_ms":' + b"9" * 400),
        USUAL.replace(b'"latency_ms":1.5', b'"latency_ms":1e999'),
        USUAL.replace(b'"features":{}', b'"features":{"x":Infinity}'),
        USUAL.replace(b'"arm"', b'"arm":"challenger","arm"'),
        lines(row(features={"x": 1}), row(features={"x": "text"})),
        lines(row(features={"x": 1}), row(features={"X": None})),
        lines(row(features={"x": [1]})),
        lines(row(features={"x": {"y": 1}})),
        lines(row(features={"x": True}), row(features={"x": 2})),
        lines(row(version=None)),
        lines(row(ts=1)),
        lines(row(ts="2026-01-31T12:00:00Z")),
        lines(row(surprise=1)),
        lines(row(stage=2**40)),
        lines(row(features={"kept": "text"})),
        lines(row(features={"KEPT": 1.0})),
    ],
)
def test_the_unusual_is_left_to_reading_one_by_one(data: bytes) -> None:
    assert columnar("predictions", JsonLines(USUAL), {"f_kept": "double"}) is not None
    assert columnar("predictions", JsonLines(data), {"f_kept": "double"}) is None


def test_lines_count_as_damaged_only_for_who_decodes_them() -> None:
    rows = JsonLines(b'{"a":1}\n\x00\n[1]\n7\n{"a":2}\n')
    assert rows
    assert rows.damaged == 0
    assert list(rows) == [{"a": 1}, {"a": 2}]
    assert (len(rows), rows[1], rows.damaged) == (2, {"a": 2}, 3)
    assert not JsonLines(b"")


def test_a_segment_goes_into_the_log_and_damage_in_it_costs_no_other_row(tmp_path: Path) -> None:
    writer = DeltaLogWriter(tmp_path, "g")
    first = lines(row(request_id="a", features={"x": 1}), row(request_id="b", features={"x": 2.5}))
    assert writer.append("m", "predictions", JsonLines(first), 1)
    assert not writer.append("m", "predictions", JsonLines(first), 1)
    damaged = JsonLines(b"\x00\n" + lines(row(request_id="c", features={"x": 3, "t": "new"})))
    assert writer.append("m", "predictions", damaged, 2)
    assert damaged.damaged == 1
    assert not writer.append("m", "predictions", JsonLines(b"\x00\n"), 3)
    with pytest.raises(LogContractError, match="column f_x is double in the log"):
        writer.append("m", "predictions", JsonLines(lines(row(features={"x": "text"}))), 4)
    kept = DeltaTable(str(tmp_path / "m" / "predictions")).to_pyarrow_table().sort_by("request_id")
    assert kept.select(["request_id", "f_x", "f_t"]).to_pylist() == [
        {"request_id": "a", "f_x": 1.0, "f_t": None},
        {"request_id": "b", "f_x": 2.5, "f_t": None},
        {"request_id": "c", "f_x": 3.0, "f_t": "new"},
    ]


def ticks_beside(work: Callable[[], Any]) -> int:
    """How often another thread ran while this one worked, if it only runs when the interpreter is let go of."""
    ticks, stop = 0, threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(0.0005)

    before, other = sys.getswitchinterval(), threading.Thread(target=tick)
    sys.setswitchinterval(1000)
    try:
        other.start()
        ticks = 0
        work()
        return ticks
    finally:
        sys.setswitchinterval(before)
        stop.set()
        other.join()


def test_reading_as_columns_leaves_the_interpreter_to_others() -> None:
    data = lines(*(row(request_id=str(i), features={f"x{j}": i + j / 7 for j in range(30)}) for i in range(8000)))
    as_columns = ticks_beside(lambda: columnar("predictions", JsonLines(data), {}))
    by_rows = ticks_beside(lambda: one_by_one("predictions", data, {}))
    assert as_columns > 5
    assert by_rows < as_columns
