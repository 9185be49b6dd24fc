"""One text of each query, three engines: what DuckDB counts over Delta's files, PostgreSQL and Spark count too.

Whole numbers are the same. Floats are within a billionth: the engines add them up in another order. Their logarithms
may differ in the last digit, so that a latency on the edge of a bin may fall into the next one.
"""

import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from pydantic import ValidationError
from tests.adapters.unit_log import DAY, LOOKS, MINUTE, PRIOR, START, Row, label_counts, outcome, random_log, row

from model_rollouts.adapters import postgres_engine, spark_engine
from model_rollouts.adapters.comparison_facts import Asked, read_facts
from model_rollouts.adapters.delta_drift import DeltaDriftLog, bins_of
from model_rollouts.adapters.delta_files import LogReadError, run
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_monitoring import DeltaMonitoringLog
from model_rollouts.adapters.delta_report_log import DeltaReportLog
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.log_places import EngineLog, LogRoot, log_appender, log_table
from model_rollouts.adapters.postgres_engine import PostgresEngine
from model_rollouts.adapters.postgres_log import PostgresLog
from model_rollouts.adapters.spark_engine import SparkEngine
from model_rollouts.adapters.sql_dialects import PLACE, translated
from model_rollouts.core.decision import Decision, Verdict, decide
from model_rollouts.core.evidence import LATENCY_FLOOR_MS, LATENCY_RATIO
from model_rollouts.core.gates import Metric
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.looks import due_looks
from model_rollouts.settings import Settings
from model_rollouts.wiring import Wiring

MODEL = 'dél\'ays "1"'
LONG = "a feature whose name is longer than what PostgreSQL keeps of a name, by far: é"
FIT = "numbers that can be squared"
WINDOWS = [each.window for each in LOOKS[:3]]
TEXTS = ["1", "0", "späť", 'it\'s "q" \\ %s $1 {x} --', "1.5", "1.25", "nan", "inf", "1e308", "-1e308", "", "Z", "a"]
ENGINES = ["postgresql", "spark"]


@dataclass(frozen=True)
class Logs:
    """One log in a folder and in a database, by the engine that asks it."""

    folder: Path
    database: PostgresLog
    spark: SparkEngine

    def asked_by(self, engine: str) -> LogRoot:
        if engine == "spark":
            return EngineLog(self.folder, self.spark)
        return EngineLog(self.database, PostgresEngine()) if engine == "postgresql" else self.folder

    def append(self, predictions: list[Row], outcomes: list[Row], model: str = MODEL, version: int = 1) -> None:
        for root in (self.folder, self.database):
            writer = log_appender(root, "g1")
            if predictions:
                assert writer.append(model, "predictions", predictions, version)
            if outcomes:
                assert writer.append(model, "outcomes", outcomes, version)


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkEngine]:
    """One Spark for all tests, whose Java does not spend its time on making quick what runs once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")
        yield SparkEngine("local[2]")
    from pyspark import SparkContext

    if active := SparkContext._active_spark_context:
        gateway = active._gateway
        active.stop()
        SparkContext._gateway = SparkContext._jvm = None
        gateway.shutdown()
        gateway.proc.stdin.close()  # what Spark's Java ends with
        gateway.proc.wait(timeout=30)


@pytest.fixture(scope="module")
def empty_logs(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: str, spark: SparkEngine
) -> Callable[[str], Logs]:
    def make(name: str) -> Logs:
        return Logs(tmp_path_factory.mktemp(name), PostgresLog(postgres_server, schema=f'log "{name}"'), spark)

    return make


@pytest.fixture(scope="module")
def logs(empty_logs: Callable[[str], Logs]) -> Logs:
    made = empty_logs("all")
    fill(made, 1)
    return made


def fill(made: Logs, seed: int) -> None:
    predictions, outcomes = untidy_log(seed)
    half = len(predictions) // 2
    # The second file has a column that the first has not.
    made.append([each | {"features": {"a": 1.0}} for each in predictions[:half]], outcomes)
    made.append([each | {"features": {"a": math.nan, LONG: "x'é"}} for each in predictions[half:]], [], version=2)
    # PostgreSQL has no squares of such numbers, but an error.
    fit = [each for each in predictions if "e308" not in str(each["prediction"])]
    made.append(fit, [each for each in outcomes if "e308" not in str(each["label"])], FIT)


def untidy_log(seed: int) -> tuple[list[Row], list[Row]]:
    """A log with all that can go wrong: repeats, ties, odd texts and numbers, pairs at one time, late labels."""
    dice = random.Random(seed)
    predictions, outcomes = random_log(seed)
    predictions = [each | {"model": MODEL} for each in predictions]
    for each in predictions:
        each["prediction"] = dice.choice([each["prediction"], dice.choice(TEXTS), None])
        each["score"] = dice.choice([None, dice.random(), math.nan, math.inf])
        if dice.random() < 0.1:
            each["latency_ms"] = dice.choice([math.inf, -1.0, 0.0, 1e-9, 1e306, 1e16, 5e-324, 1.7e308])
        if each["unit_id"] and dice.random() < 0.2:
            each["unit_id"] = dice.choice(["ü", "u'1", "Z", "a"])
    champions = [each for each in predictions if each["arm"] == each["cohort"] == "champion"]
    for each in champions[:200]:
        asked = {"arm": "challenger", "cohort": "challenger", "version": "4", "served": False}
        for _ in range(dice.choice([1, 1, 2])):
            near = timedelta(seconds=dice.choice([0.0, 0.0, 0.000001, 899.999999, 900.0, -3.0]))
            answer = dice.choice([each["prediction"], dice.choice(TEXTS)])
            predictions.append(each | asked | {"ts": each["ts"] + near, "prediction": answer})
    for each in dice.sample(predictions, 300):
        when = (each["ts"] - START).total_seconds() + dice.choice([0.0, 30.0, 60.000001, 7200.0])
        for label in dice.sample([*TEXTS, None], 3):  # several of one time
            outcomes.append(outcome(each["request_id"], when, label, dice.choice([1.005, 2.675e-5, None, math.nan])))
    return predictions, outcomes


def stage_rows(log: DeltaPredictionLog) -> Any:
    frame = log.stage_frame(MODEL, "ro", 0, None, START, START + DAY, 40)
    return [[str(kind) for kind in frame.dtypes], list(frame.columns), frame.astype(str).to_numpy().tolist()]


def outcome_rows(log: DeltaPredictionLog) -> Any:
    frame = log.outcomes_frame(MODEL, START, START + DAY, 40)
    return [list(frame.columns), frame.astype(str).to_numpy().tolist()]


def champion_rows(log: DeltaPredictionLog) -> Any:
    return log.champion_frame(MODEL, "3", START, START + DAY, 30, seed=4).astype(str).to_numpy().tolist()


def profiles(log: DeltaPredictionLog) -> Any:
    drift, window = DeltaDriftLog(log.root), (START, START + DAY)
    columns = drift.columns(MODEL, *window)
    sample = drift.stage_sample(MODEL, "ro", 0, "champion", window, columns, 500, 3)
    bins = bins_of(columns, [sample], None)
    return [columns, len(sample), drift.stage_profiles(MODEL, "ro", 0, window, columns, bins)]


ASKED: Mapping[str, Callable[[DeltaPredictionLog], Any]] = {
    "requests": lambda log: log.request_counts(MODEL, "ro", 0, WINDOWS),
    "labels": lambda log: label_counts(log, MODEL, "ro", 1, [each.window for each in LOOKS[3:]], MINUTE),
    "units": lambda log: log.unit_counts(MODEL, "ro", LOOKS, 0),
    "units of the last looks": lambda log: log.unit_counts(MODEL, "ro", LOOKS, 4),
    "label evidence": lambda log: log.label_evidence(MODEL, "ro", LOOKS, 1, MINUTE),
    "pairs as texts": lambda log: log.pair_counts(MODEL, "ro", 0, WINDOWS, None),
    "pairs as numbers": lambda log: log.pair_counts(MODEL, "ro", 0, WINDOWS, 0.25),
    "pair clusters": lambda log: log.pair_clusters(MODEL, "ro", LOOKS, 0, 0.0),
    "values": lambda log: log.value_sums(MODEL, "ro", LOOKS, 0, MINUTE, PRIOR),
    "baseline": lambda log: log.baseline(MODEL, "3", START - DAY, START + DAY, MINUTE),
    "monitoring": lambda log: DeltaMonitoringLog(log.root).monitored(MODEL, "3", START - DAY, START + DAY, MINUTE),
    "rows": lambda log: log.count_rows(MODEL, "ro", 0, "challenger", START, START + DAY),
    "champion rows": lambda log: log.count_champion_rows(MODEL, "3", START, START + DAY),
    "outcomes": lambda log: log.count_outcomes(MODEL, START, START + DAY),
    "comparison": lambda log: read_facts(log.root, Asked(FIT, "ro", 0, START, START + DAY, START + DAY, MINUTE)),
    "drift": profiles,
    "sample of a stage": stage_rows,
    "sample of the champion": champion_rows,
    "sample of outcomes": outcome_rows,
}


def alike(found: Any, expected: Any, where: str = "") -> None:
    """Whole numbers and texts are the same, floats within a billionth of themselves."""
    if is_dataclass(expected):
        assert type(found) is type(expected), where
        for field in fields(expected):
            alike(getattr(found, field.name), getattr(expected, field.name), f"{where}.{field.name}")
    elif isinstance(expected, Mapping):
        assert found.keys() == expected.keys(), where
        for key in expected:
            alike(found[key], expected[key], f"{where}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for at, (one, other) in enumerate(zip(found, expected, strict=True)):
            alike(one, other, f"{where}[{at}]")
    elif isinstance(expected, float) and expected:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True), where
    else:
        assert found == expected, where


@pytest.fixture(scope="module")
def expected(logs: Logs) -> Mapping[str, Any]:
    log = DeltaPredictionLog(logs.folder)
    return {what: ask(log) for what, ask in ASKED.items()}


# Spark takes a second for the plan of a query: a few of those that differ in their parameters alone are left out.
_LEFT_OUT = ("units of the last looks", "champion rows", "sample of the champion")
QUERIES = [("postgresql", what) for what in ASKED] + [("spark", what) for what in ASKED if what not in _LEFT_OUT]


@pytest.mark.parametrize(("engine", "what"), QUERIES)
def test_what_one_engine_counts_the_others_count_too(
    logs: Logs, expected: Mapping[str, Any], engine: str, what: str
) -> None:
    alike(ASKED[what](DeltaPredictionLog(logs.asked_by(engine))), expected[what], what)


def test_there_is_something_to_count(expected: Mapping[str, Any]) -> None:
    assert all(counts.requests and counts.errors and counts.latency for pair in expected["requests"] for counts in pair)
    assert all(counts.labelled and counts.wrong for pair in expected["labels"] for counts in pair)
    assert all(each.paired > each.agreed > 0 for each in expected["pairs as numbers"])
    assert expected["pairs as numbers"] != expected["pairs as texts"]
    assert all(each.champion_n and each.challenger_n and each.xy for each in expected["values"])
    assert expected["monitoring"].features == 2
    assert len(expected["sample of a stage"][2]) == 40


@pytest.mark.parametrize("seed", range(2, 5))
def test_other_logs_are_counted_alike_in_postgresql(empty_logs: Callable[[str], Logs], seed: int) -> None:
    made = empty_logs(f"seed {seed}".replace(" ", "_"))
    fill(made, seed)
    here, there = DeltaPredictionLog(made.folder), DeltaPredictionLog(made.asked_by("postgresql"))
    for what, ask in ASKED.items():
        alike(ask(there), ask(here), what)


# --- latencies on the edge of a bin


@pytest.mark.parametrize("engine", ENGINES)
def test_a_latency_on_the_edge_of_a_bin_is_in_one_of_the_two(empty_logs: Callable[[str], Logs], engine: str) -> None:
    made = empty_logs(f"edges_{engine}")
    edges = [LATENCY_FLOOR_MS * LATENCY_RATIO**at for at in range(0, 1500, 3)]
    rows = [
        row(f"r{at}/{side}", at * 0.1, "champion", model=MODEL, latency_ms=latency)
        for at, edge in enumerate(edges)
        for side, latency in enumerate((math.nextafter(edge, 0), edge, math.nextafter(edge, math.inf)))
    ]
    made.append(rows, [])
    (here, _), (there, _) = (
        DeltaPredictionLog(made.asked_by(each)).request_counts(MODEL, "ro", 0, WINDOWS[:1])[0]
        for each in ("duckdb", engine)
    )
    assert (there.requests, there.errors) == (here.requests, here.errors) == (len(rows), 0)
    assert sum(there.latency.values()) == sum(here.latency.values())
    # Of three latencies around an edge all are in the bin below it or in the one above it.
    for at in range(0, 1500, 3):
        assert sum(there.latency.get(near, 0) for near in (at - 1, at)) == 3


# --- numbers whose powers are none, and names like those of the tables


def test_postgresql_compares_numbers_that_are_too_small_or_too_large_to_be_multiplied(
    empty_logs: Callable[[str], Logs],
) -> None:
    made = empty_logs("powers")
    sizes = [1e-200, 1e-100, 5e-324, 1e-76, 1e-40, 0.5, 1e100, 1e200, 1.2e154]
    rows, labels = [], []
    for at, size in enumerate(sizes * 8):
        arm = ("champion", "challenger")[at % 2]
        rows.append(row(f"r{at}", at * 0.1, arm, model=MODEL, score=size, prediction=repr(size * (-1) ** at)))
        labels.append(outcome(f"r{at}", at * 0.1 + 1, "0", min(size, 1e8)))
    rows.append(row("far", 20.0, model=MODEL, score=0.5, prediction="-1.7e308"))
    labels.append(outcome("far", 21.0, "1.7e308", 1.0))
    made.append(rows, labels)
    asked = Asked(MODEL, "ro", 0, START, START + DAY, START + DAY, MINUTE)
    here, there = read_facts(made.folder, asked), read_facts(made.asked_by("postgresql"), asked)
    alike(there, here)


@pytest.mark.parametrize("engine", ENGINES)
def test_names_like_those_of_the_tables_are_left_alone(empty_logs: Callable[[str], Logs], engine: str) -> None:
    made = empty_logs(f"log_outcomes_{engine}")
    model, inputs = "catalog_outcomes", {"blog_outcomes": 1.5, "log_predictions": "log_outcomes", "log_outcomes": 2.0}
    rows = [row(f"r{at}", at, model=model, features=inputs) for at in range(3)]
    made.append(rows, [outcome("r1", 10, "1", 1.0)], model)
    found, expected = (
        DeltaPredictionLog(made.asked_by(each)).stage_frame(model, "ro", 0, None, START, START + DAY)
        for each in (engine, "duckdb")
    )
    assert list(found.columns) == list(expected.columns)
    assert found.astype(str).to_numpy().tolist() == expected.astype(str).to_numpy().tolist()
    assert set(found["f_blog_outcomes"]) == {1.5}
    assert set(found["f_log_predictions"]) == {"log_outcomes"}
    assert label_counts(DeltaPredictionLog(made.asked_by(engine)), model, "ro", 0, WINDOWS[:1], MINUTE)[0][0].labelled


# --- nothing there, and what can't be read


@pytest.mark.parametrize("engine", ENGINES)
def test_a_log_without_rows_has_none(empty_logs: Callable[[str], Logs], engine: str) -> None:
    made = empty_logs(f"empty_{engine}")
    here, there = DeltaPredictionLog(made.folder), DeltaPredictionLog(made.asked_by(engine))
    for what, ask in ASKED.items():
        alike(ask(there), ask(here), what)


def test_a_log_without_outcomes_has_no_labels(empty_logs: Callable[[str], Logs]) -> None:
    made = empty_logs("no_outcomes")
    made.append([row("r1", model=MODEL), row("r2", 1, "challenger", model=MODEL)], [])
    here = DeltaPredictionLog(made.folder)
    for engine in ENGINES:
        there = DeltaPredictionLog(made.asked_by(engine))
        for what in ("labels", "sample of a stage"):
            alike(ASKED[what](there), ASKED[what](here), what)
    assert label_counts(here, MODEL, "ro", 0, WINDOWS[:1], MINUTE)[0][0].due == 1


def test_a_broken_log_is_an_error_and_never_an_empty_one(empty_logs: Callable[[str], Logs]) -> None:
    made = empty_logs("broken")
    made.append([row("r1", model=MODEL)], [])
    for file in table_path(made.folder, MODEL, "predictions").glob("day=*/*.parquet"):
        file.unlink()
    with made.database.connect() as connection:
        table = made.database.table(MODEL, "predictions").identifier
        connection.execute(sql.SQL("ALTER TABLE {} DROP COLUMN arm").format(table))
    for engine in ENGINES:
        with pytest.raises(LogReadError):
            DeltaPredictionLog(made.asked_by(engine)).request_counts(MODEL, "ro", 0, WINDOWS)


def test_files_that_are_vacuumed_while_spark_reads_are_listed_again(
    empty_logs: Callable[[str], Logs], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = empty_logs("vacuumed")
    made.append([row("r1", model=MODEL)], [])
    listed = spark_engine.current_files

    def list_then_replace(*args: Any) -> list[str]:
        monkeypatch.setattr(spark_engine, "current_files", listed)
        files = listed(*args)
        gone = Path(files[0].removeprefix("file://"))
        missing = gone.with_name("gone.parquet")
        return [str(missing)]

    monkeypatch.setattr(spark_engine, "current_files", list_then_replace)
    counts = DeltaPredictionLog(made.asked_by("spark")).request_counts(MODEL, "ro", 0, WINDOWS)
    assert counts[0][0].requests == 1


def test_postgresql_compares_texts_by_their_bytes_whatever_the_database_does(logs: Logs) -> None:
    where = (log_table(logs.asked_by("postgresql"), MODEL, "predictions"), START, START + DAY)
    text = "SELECT DISTINCT pg_collation_for(prediction), pg_collation_for('u' || unit_id) FROM {predictions}"
    found = run(text, {"predictions": where}, {})
    assert found is not None
    assert found.fetchall() == [('"C"', '"C"')]


def test_an_old_postgresql_is_refused(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_engine, "OLDEST", 99)
    with pytest.raises(LogReadError, match=r"must be 99 or newer.*MODEL_ROLLOUTS_ENGINE=duckdb"):
        ASKED["requests"](DeltaPredictionLog(logs.asked_by("postgresql")))


def test_an_engine_refuses_a_log_of_the_other_kind(logs: Logs) -> None:
    for root in (EngineLog(logs.folder, PostgresEngine()), EngineLog(logs.database, logs.spark)):
        with pytest.raises(LogReadError, match="MODEL_ROLLOUTS_"):
            ASKED["requests"](DeltaPredictionLog(root))


def test_queries_of_several_threads_do_not_see_each_other(logs: Logs) -> None:
    """A query's tables have the same names each time."""
    log = DeltaPredictionLog(logs.asked_by("spark"))
    expected = [ASKED["labels"](log), log.request_counts("another model", "ro", 0, WINDOWS[:1])]
    found: list[Any] = [None] * 2

    def ask(at: int) -> None:
        found[at] = ASKED["labels"](log) if at == 0 else log.request_counts("another model", "ro", 0, WINDOWS[:1])

    logs.append([row("r1", model="another model")], [], "another model", version=3)
    threads = [threading.Thread(target=ask, args=(at,)) for at in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == expected[0]
    assert found[1][0][0].requests == expected[1][0][0].requests + 1 == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_reports_that_keep_a_table_run_here_whichever_engine_is_set(logs: Logs, engine: str) -> None:
    def asked(root: LogRoot) -> Any:
        log = DeltaReportLog(root)
        pairs = log.pairs(MODEL, "ro", 0, START, START + DAY, 0.25)
        return [pairs, log.arm_units(MODEL, "ro", 0, START, START + DAY, MINUTE, PRIOR)]

    found, expected = asked(logs.asked_by(engine)), asked(logs.folder)
    assert expected[0].paired
    assert expected[1].units
    alike(found, expected)


# --- the same evidence, the same decision


def decided(root: LogRoot, plan: Plan) -> Decision:
    rollout = Rollout("ro", MODEL, "3", "4", plan, State.BAKING, 0, "salt", 1, START, "ann", START, START)
    due = due_looks(DeltaPredictionLog(root), rollout, {0: (START, None)}, [], START + 31 * MINUTE)
    assert due.failure == ""
    assert [bool(look.champion_units and look.champion_labels) for look in due.looks] == [True] * 3
    return decide(plan, 0, due.looks, 7200.0)


@pytest.mark.parametrize(
    ("errors", "verdict", "engines"),
    [(0.02, Verdict.PASS, ["postgresql"]), (0.4, Verdict.FAIL, ENGINES)],
    ids=["good", "bad"],
)
def test_each_engine_leads_to_the_same_decision(
    empty_logs: Callable[[str], Logs], errors: float, verdict: Verdict, engines: list[str]
) -> None:
    made = empty_logs(f"decision_{verdict}")
    dice = random.Random(7)
    rows, labels = [], []
    for at in range(6000):
        arm = "challenger" if at % 2 else "champion"
        failed = dice.random() < (errors if arm == "challenger" else 0.02)
        made_row = row(f"r{at}", at * 0.299, arm, model=MODEL, unit_id=f"u{at % 1000}")
        made_row |= {"status": "error" if failed else "ok", "latency_ms": dice.lognormvariate(1, 0.3)}
        rows.append(made_row)
        labels.append(outcome(f"r{at}", at * 0.299 + 1, "1" if dice.random() < 0.9 else "0", 1.0))
    made.append(rows, labels)
    plan = plan_canary(CanaryParameters(steps=(50, 100)))
    plan = replace(plan, look_seconds=600.0, grace_seconds=5.0, label_maturity_seconds=5.0)
    assert Metric.ERROR_RATE in {gate.metric for gate in plan.stage(0).gates}
    first, *others = [decided(made.asked_by(engine), plan) for engine in ("duckdb", *engines)]
    assert first.verdict is verdict
    for other in others:
        assert (other.verdict, other.action, other.reason) == (first.verdict, first.action, first.reason)


# --- which engine it is


def test_duckdb_asks_unless_another_engine_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path))
    assert Wiring().log_root == tmp_path
    monkeypatch.setenv("MODEL_ROLLOUTS_ENGINE", "spark")
    monkeypatch.setenv("MODEL_ROLLOUTS_SPARK_MASTER", "local[3]")
    root = Wiring().log_root
    assert isinstance(root, EngineLog)
    assert isinstance(root.engine, SparkEngine)
    assert (root.root, root.engine.master) == (tmp_path, "local[3]")
    monkeypatch.setenv("MODEL_ROLLOUTS_ENGINE", "postgresql")
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_URL", "postgresql://nowhere/log")
    parts = Wiring()
    assert isinstance(parts.log_root, EngineLog)
    assert isinstance(parts.log_root.engine, PostgresEngine)
    assert isinstance(parts.log_root.root, PostgresLog)
    assert parts.log_store is parts.log_root.root
    assert parts.log.root is parts.monitoring_log.root is parts.log_root  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": "postgresql"}, "MODEL_ROLLOUTS_LOG_URL=postgresql://"),
        ({"engine": "spark", "log_url": "postgresql://h/d"}, "unset MODEL_ROLLOUTS_LOG_URL"),
        ({"engine": "clickhouse"}, "'duckdb', 'postgresql' or 'spark'"),
    ],
)
def test_an_engine_that_can_not_reach_the_log_is_refused_at_the_start(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**given)
    assert told in str(refused.value)


def test_spark_without_java_says_what_to_install(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(LogReadError, match=r"no Java.*JAVA_HOME"):
        ASKED["requests"](DeltaPredictionLog(logs.asked_by("spark")))


def test_spark_without_its_package_says_what_to_install(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyspark.sql", None)
    with pytest.raises(LogReadError, match=r"pip install 'model-rollouts\[spark\]'"):
        ASKED["requests"](DeltaPredictionLog(logs.asked_by("spark")))


# --- the translation


def test_a_text_is_translated_once() -> None:
    text = "SELECT epoch_us(ts) FROM {predictions} WHERE epoch_us(ts) >= $low AND stage = $stage"
    first = translated(text, "postgres", {"low": 1, "stage": 2})
    assert translated(text, "postgres", {"stage": 5, "low": 3}) is first
    assert first.parameters == ("low", "stage")
    assert PLACE.format("predictions") in first.text
    assert "$1" in first.text


@pytest.mark.parametrize("value", [None, START, [1.5], [True], {"a": 1}])
def test_a_parameter_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="parameter low is"):
        translated("SELECT $low FROM {predictions}", "spark", {"low": value})


def test_a_parameter_that_is_not_given_is_an_error() -> None:
    with pytest.raises(KeyError, match="low"):
        translated("SELECT $low FROM {predictions}", "spark", {})


def test_spark_keeps_what_a_query_names_twice() -> None:
    text = "WITH a AS (SELECT ts FROM {predictions}), b AS MATERIALIZED (SELECT * FROM a) SELECT * FROM b, b AS c"
    made = translated(text, "spark", {})
    assert [name for name, _ in made.before] == ["b"]
    assert "log_predictions" in made.before[0][1]
    assert "log_predictions" not in made.text
