"""A team's own table as a prediction log: what is counted is what a log of the same rows gives."""

import random
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from pydantic import ValidationError
from tests.adapters.unit_log import label_counts

from model_rollouts.adapters.batch_comparison import compare_batch
from model_rollouts.adapters.batch_mapping import MappingError, load_mapping
from model_rollouts.adapters.delta_drift import DeltaDriftLog
from model_rollouts.adapters.delta_log import DeltaLogWriter, DeltaPredictionLog
from model_rollouts.adapters.delta_schema import LogContractError
from model_rollouts.adapters.drift_report import StageDrift, drift_of_stage
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.mapped_log import ROLLOUT, STAGE, MappedLog
from model_rollouts.core.drift_plan import Comparison, DriftPlan
from model_rollouts.core.errors import RolloutError
from model_rollouts.core.gates import Metric
from model_rollouts.ports import Window
from model_rollouts.replay.simulated import simulate
from model_rollouts.settings import Settings

START = datetime(2026, 5, 1, tzinfo=UTC)
DAYS = 4
END = START + timedelta(days=DAYS)
NOW = END + timedelta(days=10)
MATURITY = timedelta(days=2)
RATES = {3: 0.10, 4: 0.35}

PREDICTIONS = """
model: late flights
predictions:
  {source}
  columns:
    request_id: id
    ts: scored_at
    version: model_version
    prediction: late
    score: p
    unit_id: customer
    latency_ms: took
  features: {{distance: km, carrier: carrier}}
outcomes:
  columns: {{request_id: id, ts: known_at, label: was_late, value: revenue}}
"""


def warehouse(rows: int = 2_000, both: bool = False) -> pa.Table:
    """A team's table: versions as numbers, predictions as booleans, local times without a zone, labels a day later."""
    rng, made = random.Random(3), []
    for i in range(rows):
        truth, at = rng.random() < 0.4, START + i * (END - START) / rows
        for version in (3, 4) if both else ([3, 4][rng.random() < 0.5],):
            wrong, failed = rng.random() < RATES[version], rng.random() < 0.02
            made.append(
                {
                    "id": i,
                    "scored_at": at.replace(tzinfo=None),
                    "model_version": version,
                    "late": None if failed else truth != wrong,
                    "p": rng.random(),
                    "customer": rng.randrange(500),
                    "took": rng.lognormvariate(1, 0.3),
                    "km": rng.gauss(1000 if at < START + timedelta(days=2) else 3000, 100),
                    "carrier": rng.choice(["UA", "AA"]),
                    "known_at": at.replace(tzinfo=None) + timedelta(days=1) if i % 10 else None,
                    "was_late": truth,
                    "revenue": 1.5 * (not wrong),
                }
            )
    return pa.Table.from_pylist(made)


def native(table: pa.Table, root: Path) -> DeltaPredictionLog:
    """The same rows as a gateway would have logged them."""
    writer, predictions, outcomes = DeltaLogWriter(root, "g1"), [], {}
    for row in table.to_pylist():
        arm = "champion" if row["model_version"] == 3 else "challenger"
        predictions.append(
            {
                "request_id": str(row["id"]), "ts": row["scored_at"], "model": "late flights",
                "version": str(row["model_version"]), "arm": arm, "cohort": arm, "served": True, "rollout_id": ROLLOUT,
                "stage": 0, "unit_id": str(row["customer"]), "status": "error" if row["late"] is None else "ok",
                "latency_ms": row["took"], "prediction": None if row["late"] is None else str(int(row["late"])),
                "score": row["p"], "gateway_id": "mapped", "traffic_revision": 1,
                "features": {"distance": row["km"], "carrier": row["carrier"]},
            }
        )  # fmt: skip
        if row["known_at"] is not None:
            known = {"ts": row["known_at"], "label": str(int(row["was_late"])), "value": row["revenue"]}
            outcomes[row["id"]] = {"request_id": str(row["id"]), **known}
    writer.append("late flights", "predictions", predictions, 0)
    writer.append("late flights", "outcomes", list(outcomes.values()), 0)
    return DeltaPredictionLog(root)


@pytest.fixture(params=["parquet", "delta", "postgresql"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[pa.Table], tuple[str, str]]:
    """Puts a table into a warehouse of each kind; gives the mapping's line, and the database's URL."""

    def put(table: pa.Table) -> tuple[str, str]:
        if request.param == "parquet":
            half = table.num_rows // 2
            (tmp_path / "w").mkdir()
            pq.write_table(table.slice(0, half), tmp_path / "w" / "a.parquet")
            pq.write_table(table.slice(half), tmp_path / "w" / "b.parquet")
            return "parquet: w/*.parquet", ""
        if request.param == "delta":
            write_deltalake(str(tmp_path / "w"), table)
            return f"delta: {tmp_path / 'w'}", ""
        url = request.getfixturevalue("postgres_server").replace("+psycopg", "")
        kinds = {"int64": "bigint", "bool": "boolean", "double": "double precision", "string": "text"}
        columns = ", ".join(f'"{f.name}" {kinds.get(str(f.type), "timestamp")}' for f in table.schema)
        with psycopg.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA IF NOT EXISTS warehouse")
            cursor.execute("DROP TABLE IF EXISTS warehouse.scored")
            cursor.execute(f"CREATE TABLE warehouse.scored ({columns})")  # type: ignore[arg-type]
            with cursor.copy("COPY warehouse.scored FROM STDIN") as copy:
                for row in table.to_pylist():
                    copy.write_row(list(row.values()))
        return "postgresql: warehouse.scored", url

    return put


def mapped(tmp_path: Path, line: str, url: str = "", text: str = PREDICTIONS) -> MappedLog:
    file = tmp_path / "mapping.yaml"
    file.write_text(text.format(source=line))
    return MappedLog(load_mapping(file), "3", "4", url)


def parquet(tmp_path: Path, table: pa.Table) -> str:
    pq.write_table(table, tmp_path / "scored.parquet")
    return f"parquet: {tmp_path / 'scored.parquet'}"


def test_counts_are_those_of_a_log_with_the_same_rows(source: Any, tmp_path: Path) -> None:
    table = warehouse()
    log, ours = native(table, tmp_path / "log"), DeltaPredictionLog(mapped(tmp_path, *source(table)))
    day = timedelta(days=1)
    windows = [Window(i, START + i * day, START + (i + 1) * day) for i in range(DAYS)]
    of = ("late flights", ROLLOUT, STAGE)
    found, wanted = (each.request_counts(*of, windows) for each in (ours, log))
    assert found == wanted
    assert sum(champion.requests + challenger.requests for champion, challenger in found) == 2_000
    found, wanted = (label_counts(each, *of, windows, MATURITY) for each in (ours, log))
    assert found == wanted
    assert sum(champion.labelled for champion, _ in found) > 700
    frames = [each.stage_frame(*of, None, START, END, 50).drop(columns="error") for each in (ours, log)]
    assert frames[0][sorted(frames[0])].equals(frames[1][sorted(frames[1])].drop(columns=[]))


def test_compare_finds_the_worse_version(source: Any, tmp_path: Path) -> None:
    log = mapped(tmp_path, *source(warehouse()))
    decision, result = compare_batch(log, ("3", "4"), (START, END), MATURITY, NOW, tmp_path / "out")
    assert decision.verdict == "fail"
    assert "accuracy" in decision.reason or "wrong" in decision.reason, decision.reason
    assert {file.name for file in result.files} == {"comparison.json", "comparison.html", "comparison.csv"}
    assert result.metrics["champion_requests"] + result.metrics["challenger_requests"] == 2_000
    assert result.metrics["champion_accuracy"] == pytest.approx(0.9, abs=0.04)
    assert result.metrics["challenger_accuracy"] == pytest.approx(0.65, abs=0.06)


def test_both_answers_of_a_request_are_compared_as_pairs(tmp_path: Path) -> None:
    text = PREDICTIONS + "answered_by: both\n"
    log = mapped(tmp_path, parquet(tmp_path, warehouse(both=True)), text=text)
    _, result = compare_batch(log, ("3", "4"), (START, END), MATURITY, NOW, tmp_path / "out")
    assert result.metrics["champion_requests"] == result.metrics["challenger_requests"] == 2_000
    assert 0.5 < result.metrics["stage_agreement"] < 0.75


def test_replay_plays_a_plan_on_it(tmp_path: Path) -> None:
    from tests.replay.past import quick_plan

    hours = 3600.0
    plan = quick_plan(
        steps=[50], look_seconds=8 * hours, bake_seconds=0, deadline_seconds=72 * hours, grace_seconds=0,
        label_maturity_seconds=24 * hours,
    )  # fmt: skip
    text = PREDICTIONS + "answered_by: both\n"
    log = mapped(tmp_path, parquet(tmp_path, warehouse(2_000, both=True)), text=text)
    steps = list(simulate(log, "late flights", "3", "4", plan, START, END))
    last = steps[-1].decision
    assert last.verdict == "fail"
    (wrong,) = [gate for gate in last.gates if gate.metric is Metric.WRONG_RATE]
    assert wrong.measured.challenger_n > 100


def test_drift_of_an_input_is_found(tmp_path: Path) -> None:
    log = mapped(tmp_path, parquet(tmp_path, warehouse()))
    middle = START + timedelta(days=2)
    of = StageDrift("late flights", ROLLOUT, STAGE, "3", (middle, END), (START, middle))
    report = drift_of_stage(DeltaDriftLog(log), of, None, DriftPlan(), tmp_path / "out")
    before = report.finding.comparisons[Comparison.TRAINING]
    drifted = {each.column: bool(each.drifted) for each in before.columns}
    assert drifted["f_distance"]
    assert not drifted["f_carrier"]


def test_without_latencies_and_labels_neither_is_judged(tmp_path: Path) -> None:
    text = PREDICTIONS.partition("outcomes:")[0].replace("    latency_ms: took\n", "")
    log = mapped(tmp_path, parquet(tmp_path, warehouse()), text=text)
    decision, _ = compare_batch(log, ("3", "4"), (START, END), MATURITY, NOW, tmp_path / "out")
    assert {str(gate.metric) for gate in decision.gates if gate.role.holds_up} == {"error_rate"}


def test_arms_may_have_names_of_their_own_and_others_are_left_out(tmp_path: Path) -> None:
    table = warehouse(2_100)
    names = pa.array(
        [
            "other" if i < 100 else {3: "old", 4: "new"}[version]
            for i, version in enumerate(table["model_version"].to_pylist())
        ]
    )
    named = table.set_column(table.schema.get_field_index("model_version"), "group", names)
    text = PREDICTIONS.replace("version: model_version", "arm: group").replace(
        "  features:", "  arms: {{champion: old, challenger: [new, newer]}}\n  features:"
    )
    log = DeltaPredictionLog(mapped(tmp_path, parquet(tmp_path, named), text=text))
    (counts,) = log.request_counts("late flights", ROLLOUT, STAGE, [Window(0, START, END)])
    assert counts[0].requests + counts[1].requests == 2_000
    assert log.count_rows("late flights", ROLLOUT, STAGE, None, START, END) == 2_000


def snowflakes(kind: pa.DataType, add: Any = 0) -> pa.Table:
    """Requests whose ids are alike once they are doubles."""
    table = warehouse(20)
    ids = [1_800_000_000_000_000_000 + i + add for i in range(20)]
    numbered = table.set_column(table.schema.get_field_index("id"), "id", pa.array(ids, kind))
    known = pa.array([START.replace(tzinfo=None) + timedelta(days=5)] * 20, pa.timestamp("us"))
    return numbered.set_column(table.schema.get_field_index("known_at"), "known_at", known)


def require_all(log: MappedLog, ids: list[str]) -> None:
    asked = DeltaPredictionLog(log)
    (counts,) = asked.request_counts("late flights", ROLLOUT, STAGE, [Window(0, START, END)])
    assert counts[0].requests + counts[1].requests == 20
    (labels,) = label_counts(asked, "late flights", ROLLOUT, STAGE, [Window(0, START, END)], timedelta(days=9))
    assert labels[0].labelled + labels[1].labelled == counts[0].requests - counts[0].errors + (
        counts[1].requests - counts[1].errors
    )
    frame = asked.stage_frame("late flights", ROLLOUT, STAGE, None, START, END)
    assert sorted(frame["request_id"]) == ids


def test_ids_that_are_alike_as_doubles_stay_apart_and_find_their_labels(source: Any, tmp_path: Path) -> None:
    table = snowflakes(pa.int64())
    require_all(mapped(tmp_path, *source(table)), sorted(str(each) for each in table["id"].to_pylist()))


@pytest.mark.parametrize("kind", [pa.uint64(), pa.decimal128(38, 0), pa.decimal128(30, 4)], ids=str)
def test_ids_of_other_exact_numbers_stay_apart_too(tmp_path: Path, kind: pa.DataType) -> None:
    table = snowflakes(kind)
    ids = sorted(str(int(each)) for each in table["id"].to_pylist())
    require_all(mapped(tmp_path, parquet(tmp_path, table)), ids)


def test_exact_numbers_in_postgresql_stay_apart(postgres_server: str, tmp_path: Path) -> None:
    url = postgres_server.replace("+psycopg", "")
    ids = ["1800000000000000001", "1800000000000000002.00", "1.5", "1" + "0" * 60]
    with psycopg.connect(url) as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS warehouse")
        connection.execute("DROP TABLE IF EXISTS warehouse.exact")
        connection.execute("CREATE TABLE warehouse.exact (id numeric, at timestamp, version smallint, late boolean)")
        for i, each in enumerate(ids):
            connection.execute(
                "INSERT INTO warehouse.exact VALUES (%s, %s, %s, true)",
                (Decimal(each), START.replace(tzinfo=None), (3, 4)[i % 2]),
            )
    text = (
        "model: late flights\npredictions:\n  {source}\n"
        "  columns: {{request_id: id, ts: at, version: version, prediction: late}}\n"
    )
    log = DeltaPredictionLog(mapped(tmp_path, "postgresql: warehouse.exact", url, text))
    frame = log.stage_frame("late flights", ROLLOUT, STAGE, None, START, END)
    assert sorted(frame["request_id"]) == ["1.5", "1800000000000000001", "1800000000000000002", "1e+60"]


# --- what is refused


def with_status(table: pa.Table, values: list[str | None]) -> pa.Table:
    words = [values[i % len(values)] for i in range(table.num_rows)]
    return table.append_column("state", pa.array(words, pa.string()))


STATUS = PREDICTIONS.replace("    latency_ms: took\n", "    latency_ms: took\n    status: state\n")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (["OK"], r"column 'state' of .* has 'OK' \(200 rows\), must be ok, error or timeout"),
        (["ok", "error", "timeout", "failed"], r"has 'failed' \(50 rows\)"),
        (["ok", None], r"has nothing \(100 rows\)"),
    ],
)
def test_a_status_that_is_not_known_is_refused(tmp_path: Path, values: list[str | None], told: str) -> None:
    line = parquet(tmp_path, with_status(warehouse(200), values))
    with pytest.raises(MappingError, match=told):
        mapped(tmp_path, line, text=STATUS)


def test_statuses_that_are_known_are_taken_and_those_of_other_versions_do_not_matter(
    source: Any, tmp_path: Path
) -> None:
    table = with_status(warehouse(200), ["ok", "error", "timeout", "ok"])
    other = table.slice(0, 1)
    for name, value in (("id", 200), ("model_version", 7), ("state", "OK")):
        at = other.schema.get_field_index(name)
        other = other.set_column(at, name, pa.array([value], other.schema.field(name).type))
    log = DeltaPredictionLog(mapped(tmp_path, *source(pa.concat_tables([table, other])), text=STATUS))
    (counts,) = log.request_counts("late flights", ROLLOUT, STAGE, [Window(0, START, END)])
    assert counts[0].requests + counts[1].requests == 200
    assert counts[0].errors + counts[1].errors == 100


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg2://ann:hush@127.0.0.1:1/w",
        "mysql://ann:hush@127.0.0.1:1/w",
        "postgresql://ann:hush%zz@127.0.0.1:1/w",
        "postgresql://ann:hush@127.0.0.1:1/w",
    ],
)
def test_an_error_never_shows_the_url_of_the_database(tmp_path: Path, url: str) -> None:
    with pytest.raises((MappingError, LogReadError)) as refused:
        mapped(tmp_path, "postgresql: warehouse.scored", url)
    assert "hush" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize("url", ["postgresql+psycopg2://ann:hush@h/w", "hush", "mysql://ann:hush@h/w"])
def test_a_database_of_another_scheme_is_refused_by_the_settings_without_its_url(url: str) -> None:
    with pytest.raises(ValidationError, match=r"must be postgresql://") as refused:
        Settings.model_validate({"batch_url": url})
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "postgresql://h/w", "postgresql+psycopg://h/w", "postgres://h/w"])
def test_a_database_of_the_right_scheme_is_taken(url: str) -> None:
    taken = Settings.model_validate({"batch_url": url}).batch_url
    assert taken is not None
    assert taken.get_secret_value() == url


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("request_id: id\n    ts", "request: id\n    ts", "line 6: predictions.columns.request is not known here"),
        ("    ts: scored_at\n", "", "line 5: predictions.columns lack ts"),
        ("    prediction: late\n", "", "line 5: predictions.columns lack prediction"),
        ("    version: model_version\n", "", "line 5: predictions.columns lack version and arm"),
        ("score: p\n", "score: p\n    score: q\n", "line 11: predictions.columns.score is there twice"),
        ("score: p\n", "score: 7\n", "line 10: predictions.columns.score is 7, must be a name"),
        ("{source}", "{source}\n  delta: x", "line 5: predictions.delta is there beside parquet"),
        ("  {source}\n", "", "line 3: predictions has no source, must have one of parquet, delta, postgresql"),
        ("label: was_late, value: revenue", "", "line 15: outcomes.columns lack label and value"),
        ("outcomes:", "outcome:", "line 14: outcome is not known here, must be one of model, predictions, outcomes"),
        ("model: late flights", "model: ", "line 2: model is None, must be a name"),
        ("  features", "  constants: {{status: good}}\n  features", "constants.status is 'good', must be ok"),
        ("  features", "  constants: {{score: 0.5}}\n  features", "predictions.constants.score is a column too"),
        ("  features", "  constants: {{served: 1}}\n  features", "constants.served is 1, must be of type bool"),
        ("  features", "  arms: {{champion: x}}\n  features", "predictions.arms need a column arm"),
        ("outcomes:\n", "answered_by: all\noutcomes:\n", "answered_by is 'all', must be one or both"),
        ("model: late flights", "model: &a late flights", "line 2: anchors and aliases are not taken"),
        ("score: p\n", "score: [p\n", "is no YAML"),
        ("score: p\n", "score: quality\n", "predictions.columns.score is 'quality', which parquet"),
        ("score: p\n", "score: carrier\n", "is text, must be a number"),
        ("ts: scored_at", "ts: customer", "is whole number, must be a time"),
        ("carrier: carrier}}", "carrier: airline}}", "predictions.features.carrier is 'airline', which parquet"),
    ],
)  # fmt: skip
def test_a_mapping_that_is_wrong_is_refused_by_line_and_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    line = parquet(tmp_path, warehouse(10))
    assert old in PREDICTIONS
    with pytest.raises(MappingError) as refused:
        mapped(tmp_path, line, text=PREDICTIONS.replace(old, new, 1))
    assert told in str(refused.value)


@pytest.mark.parametrize("column", ["id", "scored_at", "model_version"])
def test_rows_without_what_each_row_must_have_are_refused(tmp_path: Path, column: str) -> None:
    table = warehouse(200)
    values = table[column].to_pylist()
    values[7] = None
    broken = table.set_column(table.schema.get_field_index(column), column, pa.array(values, table[column].type))
    with pytest.raises(MappingError, match=f"column '{column}' .* is empty in 1 of 200 rows"):
        mapped(tmp_path, parquet(tmp_path, broken))


def test_a_version_that_is_not_there_and_an_empty_period_are_refused(tmp_path: Path) -> None:
    line = parquet(tmp_path, warehouse(200))
    log = mapped(tmp_path, line)
    with pytest.raises(MappingError, match="no row of version 5, the challenger; it has"):
        MappedLog(log.mapping, "3", "5")
    with pytest.raises(MappingError, match="must be two versions"):
        MappedLog(log.mapping, "3", "3")
    late = (END + timedelta(days=1), END + timedelta(days=2))
    with pytest.raises(RolloutError, match="version 3, the champion, has no request from"):
        compare_batch(log, ("3", "4"), late, MATURITY, NOW, tmp_path / "out")
    with pytest.raises(RolloutError, match="must begin before it ends"):
        compare_batch(log, ("3", "4"), (END, START), MATURITY, NOW, tmp_path / "out")


def test_an_empty_table_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match="has no row"):
        mapped(tmp_path, parquet(tmp_path, warehouse(10).slice(0, 0)))
    with pytest.raises(LogReadError, match="can't be read"):
        mapped(tmp_path, f"parquet: {tmp_path / 'nowhere.parquet'}")
    with pytest.raises(LogReadError, match="can't be read as a Delta table"):
        mapped(tmp_path, f"delta: {tmp_path / 'nowhere'}")
    with pytest.raises(MappingError, match="set MODEL_ROLLOUTS_BATCH_URL"):
        mapped(tmp_path, "postgresql: warehouse.scored")


def test_nothing_is_ever_written_to_it(tmp_path: Path) -> None:
    log = mapped(tmp_path, parquet(tmp_path, warehouse(10)))
    with pytest.raises(LogContractError, match="only read"):
        log.appender("g1")
    with pytest.raises(LogContractError, match="is of model 'late flights', not of 'other'"):
        log.table("other", "predictions")
