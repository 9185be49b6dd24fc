"""Outcomes: taken as a whole or refused, and what is taken can be read again from the log."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from hypothesis import event, given
from hypothesis import strategies as st
from tests.fuzz.budget import check_said, tries
from tests.fuzz.shapes import PLAIN, bodies, changed, documents, encoded

from model_rollouts.gateway.errors import BadRequestError
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.outcomes import read_outcomes

NOW = datetime(2026, 11, 26, tzinfo=UTC)
GOOD = [
    {"request_id": "a", "label": "late", "value": 1.5, "ts": "2026-11-25T00:00:00Z"},
    {"request_id": "b", "label": 1},
]
_FIELDS = ("request_id", "label", "value", "ts")
ONE = st.fixed_dictionaries(
    {"request_id": st.text(min_size=1, max_size=8)}, optional={"label": PLAIN, "value": PLAIN, "ts": PLAIN}
)
DOCUMENTS = st.one_of(changed(GOOD, documents(*_FIELDS)), st.lists(ONE, max_size=3), ONE)


def test_what_is_taken_can_be_read_again(tmp_path: Path) -> None:
    taken: list[dict[str, Any]] = []

    @tries(300)
    @given(DOCUMENTS)
    def run(document: Any) -> None:
        try:
            rows = read_outcomes(encoded(document), 10, NOW)
        except BadRequestError as error:
            event("refused")
            check_said(error)
            return
        event("taken")
        assert len(rows) == (len(document) if isinstance(document, list) else 1)
        taken.extend(rows)

    run()
    assert len(taken) > 20
    rows = [{**row, "request_id": f"{index}/{row['request_id']}"} for index, row in enumerate(taken)]
    writer = open_writer(tmp_path, "fuzz")
    assert writer.append("m", "outcomes", rows, 0)
    logged = duckdb.connect()
    logged.register("outcomes", DeltaTable(str(tmp_path / "m" / "outcomes")).to_pyarrow_table())
    found = logged.execute("SELECT request_id, label, value, epoch_us(ts) FROM outcomes").fetchall()
    assert sorted(found, key=str) == sorted(((r["request_id"], r["label"], r["value"], r["ts"]) for r in rows), key=str)


@tries(150)
@given(bodies)
def test_any_bytes(body: bytes) -> None:
    try:
        read_outcomes(body, 10, NOW)
    except BadRequestError as error:
        check_said(error)
