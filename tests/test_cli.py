"""The command line over a real store, with and without MLflow."""

import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from tests.offline_past import logged_model, register
from typer.testing import CliRunner, Result

from model_rollouts.adapters.delta_log import DeltaLogWriter
from model_rollouts.adapters.delta_schema import table_path
from model_rollouts.adapters.golden import load_file
from model_rollouts.adapters.mlflow_client import make_client
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.cli import app
from model_rollouts.core import rollout as core
from model_rollouts.core import upkeep
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Cause, EventKind, State

_NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqlStore]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    for name in [name for name in os.environ if name.startswith(("MODEL_ROLLOUTS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", url)
    monkeypatch.setenv("MODEL_ROLLOUTS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", _NOWHERE)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    made = SqlStore(url)
    made.migrate()
    yield made
    made.close()


def _start(
    store: SqlStore,
    model: str = "flights",
    rollout_id: str = "r1",
    at: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC),
) -> None:
    """A canary's first stage, at 5 %."""
    cause = Cause("test", at, "new features [v2]")
    if store.traffic(model) is None:
        store.apply(core.adopt(model, "1", cause))
    traffic = store.traffic(model)
    assert traffic is not None
    plan = plan_canary(CanaryParameters(steps=(5, 100)))
    store.apply(core.start(rollout_id, plan, "2", "salt", traffic, cause))
    traffic = store.traffic(model)
    assert traffic is not None
    opened = core.open_stage(store.rollout(rollout_id), traffic, 0, cause)
    assert opened is not None
    store.apply(opened)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_status_tells_who_answers_and_where_the_rollout_is(store: SqlStore) -> None:
    _start(store)
    store.apply(core.adopt("airports", "7", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))

    table = _run("status").output
    rows = json.loads(_run("status", "--json").output)

    for cell in (
        "r1",
        "canary",
        "champion 1, challenger 2",
        "baking",
        "1 of 2",
        "5 %",
        "new features [v2]",
        "airports",
    ):
        assert cell in table
    assert [row["model"] for row in rows] == ["airports", "flights"]
    assert (rows[0]["rollout"], rows[0]["state"]) == (None, None)
    assert rows[1]["versions"] == {"champion": "1", "challenger": "2", "previous": None}
    assert (rows[1]["share"], rows[1]["stage"], rows[1]["revision"]) == (5.0, "1 of 2", 3)
    assert [row["model"] for row in json.loads(_run("status", "flights", "--json").output)] == ["flights"]


def test_history_tells_every_event(store: SqlStore) -> None:
    _start(store)

    rows = json.loads(_run("history", "flights", "--json").output)

    assert [row["kind"] for row in rows] == ["adopted", "started", "stage_opened"]
    assert rows[2]["after"] == {"1": 95.0, "2": 5.0}
    assert rows[2]["at"] == "2026-01-01T12:00:00+00:00"
    assert "1 95 %, 2 5 %" in _run("history", "flights").output


def test_a_model_that_nobody_knows_is_an_error_that_lists_the_known(store: SqlStore) -> None:
    _start(store)

    for command in (("status", "flihgts"), ("history", "flihgts"), ("rollback", "flihgts", "--reason", "x")):
        answer = _run(*command)
        assert answer.exit_code == 4
        assert answer.output == "error: the store knows no model 'flihgts'; it knows: flights\n"


def test_rollback_moves_the_traffic_and_only_warns_when_mlflow_is_away(store: SqlStore) -> None:
    _start(store)

    answer = _run("rollback", "flights", "--reason", "complaints")

    assert answer.exit_code == 0
    assert answer.stdout == "rolled back r1: version 1 of flights answers all requests\n"
    assert answer.stderr.startswith("warning: MLflow's aliases and tags are not updated yet")
    traffic, event = store.traffic("flights"), store.events("flights")[-1]
    assert traffic is not None
    assert (traffic.shares(), store.rollout("r1").state) == ({"1": 100.0}, State.ROLLED_BACK)
    assert (event.kind, event.reason) == (EventKind.ROLLED_BACK, "complaints")
    assert event.actor.endswith("(command line)")


def test_rollback_again_changes_nothing_and_tells_the_registry(
    store: SqlStore, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"flights-{uuid.uuid4().hex[:8]}"
    client = make_client(mlflow_server)
    client.create_registered_model(model)
    for alias in ("champion", "challenger"):
        run = client.create_run("0")
        version = client.create_model_version(model, f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
        client.set_registered_model_alias(model, alias, version.version)
    _start(store, model)
    _run("rollback", model, "--reason", "complaints")
    events = store.events(model)
    assert set(client.get_registered_model(model).aliases) == {"champion", "challenger"}

    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", mlflow_server)
    answer = _run("rollback", model, "--reason", "again")

    assert (answer.exit_code, answer.output) == (0, "r1 is rolled back already: complaints\n")
    assert store.events(model) == events
    assert client.get_registered_model(model).aliases == {"champion": "1"}
    assert client.get_model_version(model, "2").tags["rollout.state"] == "rolled_back"


def test_sync_brings_the_registry_to_what_the_store_says(
    store: SqlStore, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"flights-{uuid.uuid4().hex[:8]}"
    client = make_client(mlflow_server)
    client.create_registered_model(model)
    for _ in range(2):
        run = client.create_run("0")
        client.create_model_version(model, f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    client.set_registered_model_alias(model, "champion", "2")
    client.set_registered_model_alias(model, "previous", "1")
    _start(store, model)
    events = store.events(model)
    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", mlflow_server)

    first, again = _run("sync", model), _run("sync", model)

    says = f"the registry follows r1 of {model} (baking): champion 1, challenger 2, previous none\n"
    assert (first.exit_code, first.output) == (again.exit_code, again.output) == (0, says)
    assert client.get_registered_model(model).aliases == {"champion": "1", "challenger": "2"}
    tags = client.get_model_version(model, "2").tags
    assert (tags["rollout.state"], tags["rollout.share"]) == ("baking", "5")
    assert store.events(model) == events


def test_sync_sets_the_aliases_of_a_model_that_never_had_a_rollout(
    store: SqlStore, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = f"flights-{uuid.uuid4().hex[:8]}"
    client = make_client(mlflow_server)
    client.create_registered_model(model)
    for _ in range(2):
        run = client.create_run("0")
        client.create_model_version(model, f"{run.info.artifact_uri}/model", run_id=run.info.run_id)
    store.apply(core.adopt(model, "1", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))
    client.set_registered_model_alias(model, "champion", "2")
    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", mlflow_server)

    done = _run("sync", model)

    says = f"the registry follows the traffic of {model}, which never had a rollout: champion 1, challenger none, "
    assert (done.exit_code, done.output) == (0, f"{says}previous none\n")
    assert client.get_registered_model(model).aliases == {"champion": "1"}


def test_golden_requests_are_recorded_from_the_log_once(
    store: SqlStore, mlflow_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, file = register(mlflow_server, logged_model(mlflow_server)), tmp_path / "golden.jsonl"
    monkeypatch.setenv("MODEL_ROLLOUTS_MLFLOW_TRACKING_URI", mlflow_server)

    empty = _run("record-golden", model, str(file))
    assert (empty.exit_code, file.exists()) == (4, False), empty.output

    now = datetime.now(UTC)
    common = {"ts": now, "model": model, "version": "1", "arm": "champion", "served": True, "status": "ok"}
    known = {"latency_ms": 3.5, "gateway_id": "g1", "traffic_revision": 1}
    rows = [
        {**common, **known, "request_id": f"r{x}", "prediction": "1", "features": {"x": x, "n": 1, "carrier": "UA"}}
        for x in (1.0, 2.0, 3.0)
    ]
    assert DeltaLogWriter(tmp_path / "log", "g1").append(model, "predictions", rows, 1)
    answer = _run("record-golden", model, str(file), "--requests", "2")
    assert (answer.exit_code, answer.output) == (0, f"2 requests of version 1 of {model} are in {file}\n")
    cases = load_file(file)
    assert [(case.inputs["carrier"], case.expected) for case in cases] == [("UA", "1")] * 2

    again = _run("record-golden", model, str(file))
    assert again.exit_code == 2
    assert "is there already" in again.output
    assert load_file(file) == cases


def test_sync_says_what_is_wrong(store: SqlStore) -> None:
    _start(store)
    store.apply(core.adopt("airports", "7", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))

    never, unknown, away = (_run("sync", model) for model in ("airports", "flihgts", "flights"))

    assert [answer.exit_code for answer in (never, unknown, away)] == [5, 4, 5]
    assert unknown.output.startswith("error: the store knows no model 'flihgts")
    assert never.output.startswith("error: MlflowException: ")
    assert away.output.startswith("error: MlflowException: ")


def test_rollback_needs_a_reason_and_something_to_roll_back(store: SqlStore) -> None:
    _start(store)
    assert _run("rollback", "flights", "--reason", " ").output == "error: reason is empty; say why, it goes on record\n"
    assert _run("rollback", "flights").exit_code == 2

    store.apply(core.adopt("airports", "7", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))
    answer = _run("rollback", "airports", "--reason", "x")

    assert (answer.exit_code, answer.output) == (
        4,
        "error: model airports never had a rollout; there is nothing to roll back to\n",
    )
    assert store.rollout("r1").state is State.BAKING


def test_a_promoted_rollout_is_rolled_back_while_the_old_champion_is_kept(store: SqlStore) -> None:
    _start(store)
    cause = Cause("test", datetime(2026, 1, 2, tzinfo=UTC), "passed")

    def take(step: Any, *arguments: Any) -> None:
        change = step(store.rollout("r1"), store.traffic("flights"), *arguments, cause)
        assert change is not None
        store.apply(change)

    take(core.clear, 0)
    take(core.open_stage, 1)
    take(core.clear, 1)
    take(core.cut_over)

    answer = _run("rollback", "flights", "--reason", "x")
    assert answer.exit_code == 0, answer.output
    assert "version 1 of flights answers all requests" in answer.output
    assert store.rollout("r1").state is State.ROLLED_BACK
    back = store.traffic("flights")
    assert back is not None
    assert (back.champion, back.previous) == ("1", None)


def test_a_promotion_whose_old_champion_is_gone_is_not_rolled_back(store: SqlStore) -> None:
    _start(store)
    cause = Cause("test", datetime(2026, 1, 2, tzinfo=UTC), "passed")
    for step, arguments in ((core.clear, (0,)), (core.open_stage, (1,)), (core.clear, (1,)), (core.cut_over, ())):
        change = step(store.rollout("r1"), store.traffic("flights"), *arguments, cause)  # type: ignore[operator]
        store.apply(change)
    kept = store.traffic("flights")
    assert kept is not None
    released = upkeep.release_previous(kept, cause)
    assert released is not None
    store.apply(released)

    answer = _run("rollback", "flights", "--reason", "x")

    assert answer.exit_code == 3
    assert "start a rollout of version 1" in answer.output
    assert store.rollout("r1").state is State.PROMOTED


def test_import_outcomes_adds_a_file_once(store: SqlStore, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\na,1\nb,0\n")

    first, again = (_run("import-outcomes", "flights", str(file)) for _ in range(2))

    assert first.output == "2 outcomes of flights added\n"
    assert again.output == "0 outcomes of flights added, 2 were added before\n"
    assert DeltaTable(str(table_path(tmp_path / "log", "flights", "outcomes"))).to_pyarrow_table().num_rows == 2


def test_import_outcomes_says_what_is_wrong(store: SqlStore, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("request_id,label\na,1\n,0\n")

    answer = _run("import-outcomes", "flights", str(file))
    missing = _run("import-outcomes", "flights", str(tmp_path / "absent.csv"))

    assert (answer.exit_code, missing.exit_code) == (2, 4)
    assert "row 2: request_id is None" in answer.output
    assert missing.output.startswith("error: FileNotFoundError: ")


def test_the_store_is_made_by_the_command_that_its_error_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", f"sqlite:///{tmp_path / 'new' / 'store.db'}")

    before = _run("status")
    upgraded = _run("db", "upgrade")

    assert before.exit_code == 1
    assert "run `rollouts db upgrade`" in before.output
    assert upgraded.output == "the store is up to date: new to 0003\n"
    assert json.loads(_run("status", "--json").output) == []


def test_a_rollback_in_a_process_of_its_own_needs_neither_airflow_nor_mlflow(store: SqlStore, tmp_path: Path) -> None:
    _start(store)
    blocked = tmp_path / "blocked"
    for package in ("airflow", "mlflow", "pandas"):
        (blocked / package).mkdir(parents=True)
        (blocked / package / "__init__.py").write_text(f"raise ImportError('{package} is not installed here')\n")
    command = [*(sys.executable, "-m", "model_rollouts.cli"), *("rollback", "flights", "--reason", "all is down")]

    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(blocked)}, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout == "rolled back r1: version 1 of flights answers all requests\n"
    assert "(ImportError: mlflow is not installed here)" in done.stderr
    assert "Traceback" not in done.stderr
    assert store.rollout("r1").reason == "all is down"


def test_a_hold_and_its_end_go_by_the_store_while_airflow_and_mlflow_are_away(store: SqlStore) -> None:
    _start(store)

    held = _run("hold", "flights", "--reason", "odd latencies", "--by", "anna")
    again = _run("hold", "flights", "--reason", "odd latencies")
    resumed = _run("resume", "flights", "--reason", "explained")

    assert held.exit_code == 0
    assert held.stdout == "r1 is holding: version 2 keeps 5 %; nothing expands until the stage is resumed\n"
    assert (again.exit_code, again.stdout) == (3, "")
    assert "r1 is holding, must be baking or cleared to hold: odd latencies" in again.stderr
    assert resumed.exit_code == 0
    assert "warning: the stage's run was not started" in resumed.stderr
    events = store.events("flights")[-2:]
    assert [event.kind for event in events] == [EventKind.HELD, EventKind.RESUMED]
    assert events[0].actor.startswith("anna via ")
    assert store.rollout("r1").state is State.BAKING


def test_what_was_seen_at_another_revision_is_refused(store: SqlStore) -> None:
    _start(store)
    seen = json.loads(_run("status", "--json").output)[0]["rollout_revision"]
    assert _run("hold", "flights", "--reason", "lunch", "--revision", str(seen)).exit_code == 0

    for command in ("abort", "expand", "resume", "rollback"):
        stale = _run(command, "flights", "--reason", "because", "--revision", str(seen))
        assert stale.exit_code == 3, stale.output
        assert "is at revision 3 by now" in stale.stderr
    assert store.rollout("r1").state is State.HOLDING


def test_an_abort_is_of_what_is_under_way_alone(store: SqlStore) -> None:
    _start(store)

    first, second = (_run("abort", "flights", "--reason", "wrong version") for _ in range(2))

    assert first.stdout == "rolled back r1: version 1 of flights answers all requests\n"
    assert (second.exit_code, second.stderr) == (
        4,
        "error: no rollout of flights is under way; the last one, r1, is rolled_back\n",
    )


def test_going_on_by_hand_clears_the_stage(store: SqlStore) -> None:
    _start(store, at=datetime.now(UTC))

    early = _run("cut-over", "flights", "--reason", "now")
    expanded = _run("expand", "flights", "--reason", "now")

    assert early.exit_code == 3
    assert "a cut-over follows the last one" in early.stderr
    assert expanded.exit_code == 0
    assert "2 goes from 5 % to 100 %" in expanded.stdout
    assert store.rollout("r1").state is State.CLEARED


def test_what_needs_airflow_says_that_it_is_not_set(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    unset = _run("start", "flights", "--reason", "new features")
    assert unset.exit_code == 2, unset.output
    assert "MODEL_ROLLOUTS_AIRFLOW_URL is ''" in unset.stderr

    monkeypatch.setenv("MODEL_ROLLOUTS_AIRFLOW_URL", _NOWHERE)
    monkeypatch.setenv("MODEL_ROLLOUTS_AIRFLOW_TOKEN", "x")
    away = _run("start", "flights", "--reason", "new features")
    assert away.exit_code == 5
    assert "no Airflow answers" in away.stderr


def test_a_start_is_checked_before_airflow_is_asked(store: SqlStore) -> None:
    wrong = _run("start", "flights", "--reason", "x", "--set", "stepps=[5]")
    empty = _run("start", "flights", "--reason", " ")
    plan = _run("start", "flights", "--reason", "x", "--pattern", "canary", "--set", "steps=[5,100]", "--dry-run")

    assert (wrong.exit_code, empty.exit_code) == (2, 2)
    assert "stepps" in wrong.stderr
    assert [stage["share"] for stage in json.loads(plan.output)[0]["stages"]] == [5, 100]
    _start(store)
    busy = _run("start", "flights", "--reason", "x")
    assert busy.exit_code == 3
    assert "rollout r1 of version 2 is active" in busy.stderr


def test_the_state_is_told_as_an_exit_code(store: SqlStore) -> None:
    store.apply(core.adopt("flights", "1", Cause("test", datetime(2026, 1, 1, tzinfo=UTC), "first seen")))
    codes = [_run("status", "flights", "--exit-code").exit_code]
    _start(store)
    codes.append(_run("status", "flights", "--exit-code").exit_code)
    _run("hold", "flights", "--reason", "x")
    codes.append(_run("status", "flights", "--exit-code").exit_code)
    _run("abort", "flights", "--reason", "x")
    codes.append(_run("status", "flights", "--exit-code").exit_code)

    assert codes == [13, 10, 11, 12]
    assert _run("status", "--exit-code").exit_code == 2


def test_the_tree_shows_stages_counts_and_what_happened(store: SqlStore) -> None:
    _start(store)

    shown = _run("status", "flights").output

    for part in ("▶ stage 1  5 %", "○ stage 2  100 %", "deadline was", "0 looks", "error_rate", "stage_opened by test"):
        assert part in shown, shown


def test_watching_ends_with_the_rollout_and_tells_each_change_once(store: SqlStore) -> None:
    _start(store)

    def end() -> None:
        traffic = store.traffic("flights")
        assert traffic is not None
        cause = Cause("anna", datetime.now(UTC), "wrong version")
        change = core.roll_back(store.rollout("r1"), traffic, cause)
        assert change is not None
        store.apply(change)

    threading.Timer(0.6, end).start()

    lines = _run("status", "flights", "--watch", "--every", "0.2").output.splitlines()

    told = [line for line in lines if "flights: r1: " in line]
    assert [("baking" in told[0], "rolled_back" in told[-1], len(told))] == [(True, True, 2)]
    assert "wrong version" in told[-1]


def test_history_can_be_cut(store: SqlStore) -> None:
    _start(store)

    assert [row["kind"] for row in json.loads(_run("history", "flights", "--json", "--last", "1").output)] == [
        "stage_opened"
    ]
    assert len(json.loads(_run("history", "flights", "--json", "--rollout", "r1").output)) == 2
    assert _run("history", "flights", "--rollout", "nothing").exit_code == 4


def test_no_error_shows_a_traceback(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_ROLLOUTS_STORE_URL", "postgresql+psycopg://nobody@127.0.0.1:9/nothing")
    for command in (("status",), ("history", "m"), ("hold", "m", "--reason", "x"), ("rollback", "m", "--reason", "x")):
        away = _run(*command)
        assert away.exit_code == 5, away.output
        assert away.stderr.startswith("error: ")
        assert "Traceback" not in away.output
    monkeypatch.setenv("MODEL_ROLLOUTS_GATEWAY_URL", "nonsense")
    wrong = _run("status")
    assert (wrong.exit_code, "gateway_url" in wrong.stderr) == (2, True)
