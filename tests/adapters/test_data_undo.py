"""Data goes back with a model: real Delta tables, real functions. DAGs have a file of their own."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from model_rollouts.adapters import delta_restore
from model_rollouts.adapters.airflow_client import AirflowClient
from model_rollouts.adapters.data_undo import DataUndoer
from model_rollouts.core.data_rollback import DataRollback, DataRollbackKind
from model_rollouts.core.errors import DataRollbackError, NotReadyError
from model_rollouts.settings import Settings

ROLLOUT = {"id": "ro-1", "model": "flights", "champion": "1", "challenger": "2", "position": 0}


def no_airflow() -> AirflowClient:
    raise AssertionError("no DAG is to be run here")


@pytest.fixture
def undoer() -> DataUndoer:
    return DataUndoer(no_airflow)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A Delta table at version 2, which holds 0, 1 and 2."""
    path = str(tmp_path / "features")
    for value in range(3):
        append(path, value)
    return path


def append(path: str, value: int) -> None:
    write_deltalake(path, pa.table({"x": [value]}), mode="append")


def values(path: str, version: int | None = None) -> list[int]:
    import duckdb

    files = DeltaTable(path, version=version).file_uris()
    return sorted(row[0] for row in duckdb.execute("SELECT x FROM read_parquet($1)", [files]).fetchall())


def delta(target: str, version: int | None = None, **more: Any) -> DataRollback:
    return DataRollback(DataRollbackKind.DELTA_RESTORE, target, version, **more)


# --- Delta tables


def test_a_table_goes_back_to_what_it_was_when_the_rollout_started(undoer: DataUndoer, table: str) -> None:
    pinned = undoer.pin(delta(table))
    assert pinned == delta(table, 2)
    append(table, 3)
    append(table, 4)
    result = undoer.undo(pinned, ROLLOUT)
    assert values(table) == [0, 1, 2]
    assert DeltaTable(table).version() == 5
    assert (result["from_version"], result["to_version"], result["new_version"]) == (4, 2, 5)
    assert [commit["version"] for commit in result["undone"]] == [4, 3]
    assert (result["files_removed"], result["files_restored"]) == (2, 0)
    assert "from version 4 to version 2, as version 5: 2 commits (2 WRITE) undone" in result["detail"]
    assert values(table, 4) == [0, 1, 2, 3, 4]  # nothing is lost


def test_files_that_were_removed_come_back(undoer: DataUndoer, table: str) -> None:
    write_deltalake(table, pa.table({"x": [99]}), mode="overwrite")
    result = undoer.undo(delta(table, 2), ROLLOUT)
    assert values(table) == [0, 1, 2]
    assert (result["files_removed"], result["files_restored"]) == (1, 3)


def test_a_table_that_did_not_move_is_left_alone(undoer: DataUndoer, table: str) -> None:
    result = undoer.undo(delta(table, 2), ROLLOUT)
    assert (result["new_version"], DeltaTable(table).version()) == (None, 2)
    assert "there is nothing to undo" in result["detail"]


def test_a_retry_does_not_undo_what_was_written_after_the_first_time(undoer: DataUndoer, table: str) -> None:
    append(table, 3)
    undoer.undo(delta(table, 2), ROLLOUT)
    append(table, 7)  # the champion's pipeline goes on
    again = undoer.undo(delta(table, 2), ROLLOUT)
    assert values(table) == [0, 1, 2, 7]
    assert again["new_version"] is None
    assert again["detail"] == (
        "was restored to version 2 before, as version 4; 1 commits since then are left as they are"
    )
    other = undoer.undo(delta(table, 2), {**ROLLOUT, "id": "ro-2"})  # another rollout's rollback is another matter
    assert (other["new_version"], values(table)) == (6, [0, 1, 2])


def test_who_writes_meanwhile_is_told_of_in_the_result(
    undoer: DataUndoer, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(table, 3)
    commits_after = delta_restore._commits_after
    left = iter([4])

    def look(found: DeltaTable, version: int) -> list[dict[str, Any]]:
        commits = commits_after(found, version)
        for value in left:
            append(table, value)
        return commits

    monkeypatch.setattr(delta_restore, "_commits_after", look)
    result = undoer.undo(delta(table, 2), ROLLOUT)
    assert values(table) == [0, 1, 2]
    assert [commit["version"] for commit in result["undone"]] == [4, 3]


def test_a_table_that_is_always_written_to_is_given_up(
    undoer: DataUndoer, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(table, 3)
    commits_after = delta_restore._commits_after

    def look(found: DeltaTable, version: int) -> list[dict[str, Any]]:
        commits = commits_after(found, version)
        append(table, 4)
        return commits

    monkeypatch.setattr(delta_restore, "_commits_after", look)
    with pytest.raises(DataRollbackError, match="written to during each of 5 tries; stop its writers"):
        undoer.undo(delta(table, 2), ROLLOUT)


def test_files_that_are_gone_fail_the_restore_and_leave_the_table(undoer: DataUndoer, table: str) -> None:
    write_deltalake(table, pa.table({"x": [99]}), mode="overwrite")
    now = DeltaTable(table)
    now.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    before = DeltaTable(table).version()
    with pytest.raises(DataRollbackError, match=r"delta_restore .* to version 2 failed"):
        undoer.undo(delta(table, 2), ROLLOUT)
    assert (DeltaTable(table).version(), values(table)) == (before, [99])


def test_a_table_that_was_made_anew_is_not_guessed_at(undoer: DataUndoer, table: str) -> None:
    with pytest.raises(DataRollbackError, match="at version 2, and version 9 was to be restored"):
        undoer.undo(delta(table, 9), ROLLOUT)


def test_a_table_without_a_version_put_down_is_not_restored(undoer: DataUndoer, table: str) -> None:
    with pytest.raises(DataRollbackError, match="none was put down when the rollout started"):
        undoer.undo(delta(table), ROLLOUT)
    assert DeltaTable(table).version() == 2


def test_a_table_that_is_not_there_refuses_the_rollout(undoer: DataUndoer, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="can't be read as a Delta table"):
        undoer.pin(delta(str(tmp_path / "none")))
    assert not (tmp_path / "none").exists()


def test_a_named_version_is_kept_and_must_be_readable(undoer: DataUndoer, table: str) -> None:
    assert undoer.pin(delta(table, 1)) == delta(table, 1)
    with pytest.raises(NotReadyError, match=r"version of a data rollback is 3, .* has only 2"):
        undoer.pin(delta(table, 3))
    DeltaTable(table).create_checkpoint()
    (Path(table) / "_delta_log" / f"{0:020}.json").unlink()
    with pytest.raises(NotReadyError, match=r"version 1 of .* can't be read any more"):
        undoer.pin(delta(table, 1))


# --- functions

called: list[dict[str, Any]] = []
held = threading.Event()


def drop_rows(since: str, rollout: dict[str, Any], dry: bool = False) -> dict[str, Any]:
    called.append({"since": since, "rollout": rollout, "dry": dry})
    return {"rows": 3}


def returns(rollout: dict[str, Any], what: str) -> Any:
    return {"object": object(), "nan": float("nan"), "long": "x" * 20_000, "none": None}[what]


def fails(rollout: dict[str, Any]) -> None:
    raise KeyError("no such partition")


def quits(rollout: dict[str, Any]) -> None:
    raise SystemExit(0)


def hangs(rollout: dict[str, Any]) -> None:
    held.wait(30)


async def promises(rollout: dict[str, Any]) -> None:
    """Would do nothing when it is called."""


def yields(rollout: dict[str, Any]) -> Iterator[int]:
    yield 1


def gives_a_promise(rollout: dict[str, Any]) -> Any:
    return promises(rollout)


no_function = 3


def function(name: str, **more: Any) -> DataRollback:
    return DataRollback(DataRollbackKind.CALLABLE, f"{__name__}:{name}", **more)


def test_a_function_gets_its_arguments_and_the_rollout(undoer: DataUndoer) -> None:
    called.clear()
    step = function("drop_rows", arguments={"since": "2026-01-01"})
    assert undoer.pin(step) == step
    assert called == []  # looked at, not called
    result = undoer.undo(step, ROLLOUT)
    assert called == [{"since": "2026-01-01", "rollout": ROLLOUT, "dry": False}]
    assert (result["kind"], result["result"]) == ("callable", {"rows": 3})
    assert result["detail"] == f'{__name__}:drop_rows returned {{"rows": 3}}'


@pytest.mark.parametrize(
    "allowed", [(), ("dag:*", "delta_restore:*"), ("callable:other:*",), ("callable:*:drop",), ("Callable:*",)]
)
def test_what_is_not_allowed_is_neither_taken_into_a_plan_nor_done(allowed: tuple[str, ...]) -> None:
    """Also where a plan had it before the setting was changed."""
    called.clear()
    undoer, step = DataUndoer(no_airflow, allowed), function("drop_rows", arguments={"since": "2026-01-01"})
    with pytest.raises(NotReadyError, match=r"may not be done: .*drop_rows is not in MODEL_ROLLOUTS_UNDO_ALLOWED"):
        undoer.pin(step)
    with pytest.raises(DataRollbackError, match="may not be done"):
        undoer.undo(step, ROLLOUT)
    assert called == []


def test_a_pattern_allows_what_it_says_and_functions_are_not_among_the_defaults(table: str) -> None:
    restore = DataRollback(DataRollbackKind.DELTA_RESTORE, table)
    assert DataUndoer(no_airflow, Settings().undo_allowed).pin(restore).version == 2
    with pytest.raises(NotReadyError, match="may not be done"):
        DataUndoer(no_airflow, Settings().undo_allowed).pin(function("drop_rows", arguments={"since": "x"}))
    with pytest.raises(NotReadyError, match="may not be done"):
        DataUndoer(no_airflow, ("delta_restore:/data/*",)).pin(restore)
    assert DataUndoer(no_airflow, (f"callable:{__name__}:*",)).pin(function("drop_rows", arguments={"since": "x"}))


@pytest.mark.parametrize(
    "way",
    [
        "{0}/features/../payroll",
        "file://{0}/features/../payroll",
        "file://{0}/features/%2e%2E/payroll",
        "file://{0}/features/%252e%252e/payroll",
        "file://{0}/features/%2525252525252e%2525252525252e/payroll",
        "file://{0}/features\\..\\payroll",
        "file://{0}/features/.\t./payroll",
        "{0}/features/link",
        "file://{0}/features/link",
        "file://{0}/features/li%6Ek",
        "s3://bucket/features/../payroll",
    ],
)
def test_what_is_allowed_is_no_way_to_what_is_not(tmp_path: Path, way: str) -> None:
    payroll = str(tmp_path / "payroll")
    for value in range(2):
        append(payroll, value)
    append(str(tmp_path / "features" / "daily"), 0)
    (tmp_path / "features" / "link").symlink_to(payroll)
    places = (str(tmp_path), f"file://{tmp_path}", "s3://bucket")
    undoer = DataUndoer(no_airflow, tuple(f"delta_restore:{place}/features/*" for place in places))
    assert undoer.pin(delta(f"{tmp_path}/features/daily")).version == 0
    assert undoer.pin(delta(f"file://{tmp_path}/features/daily")).version == 0
    step = delta(way.format(tmp_path), 0)
    with pytest.raises(NotReadyError, match=r"may not be done: .*(must have no|must not be|is not in MODEL_ROLLOUTS)"):
        undoer.pin(step)
    with pytest.raises(DataRollbackError, match="may not be done"):
        undoer.undo(step, ROLLOUT)
    assert DeltaTable(payroll).version() == 1


def test_a_pattern_may_name_a_folder_by_a_link_of_its_own(tmp_path: Path) -> None:
    append(str(tmp_path / "disk" / "features" / "daily"), 0)
    append(str(tmp_path / "disk b" / "features" / "daily"), 0)
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "features" / "other").symlink_to(tmp_path / "disk b" / "features" / "daily")
    for pattern in ("features/*", "features/daily", "*"):
        undoer = DataUndoer(no_airflow, (f"delta_restore:{tmp_path}/data/{pattern}",))
        assert undoer.pin(delta(f"{tmp_path}/data/features/daily")).version == 0
        with pytest.raises(NotReadyError, match="may not be done"):
            undoer.pin(delta(f"{tmp_path}/data/features/other"))


@pytest.mark.parametrize(("what", "kept"), [("object", "<object object"), ("nan", "nan"), ("long", '"xxx')])
def test_a_result_that_is_no_json_or_too_long_is_kept_as_text(undoer: DataUndoer, what: str, kept: str) -> None:
    result = undoer.undo(function("returns", arguments={"what": what}), ROLLOUT)
    assert result["result"].startswith(kept)
    assert len(result["result"]) <= 10_000


def test_no_result_is_one_too(undoer: DataUndoer) -> None:
    assert undoer.undo(function("returns", arguments={"what": "none"}), ROLLOUT)["result"] is None


@pytest.mark.parametrize(
    ("name", "said"), [("fails", "KeyError: 'no such partition'"), ("quits", "ended with SystemExit")]
)
def test_a_function_that_fails_fails_the_data_rollback(undoer: DataUndoer, name: str, said: str) -> None:
    with pytest.raises(DataRollbackError, match=said):
        undoer.undo(function(name), ROLLOUT)


def test_a_function_that_takes_too_long_fails_it_too(undoer: DataUndoer) -> None:
    began = time.monotonic()
    try:
        with pytest.raises(DataRollbackError, match="took more than 1 s and may still go on"):
            undoer.undo(function("hangs", timeout_seconds=1), ROLLOUT)
        assert time.monotonic() - began < 10
    finally:
        held.set()


def test_a_function_that_only_promises_has_not_run(undoer: DataUndoer) -> None:
    with pytest.raises(DataRollbackError, match="gave a coroutine: nothing has run"):
        undoer.undo(function("gives_a_promise"), ROLLOUT)


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (function("missing"), "can't be imported here: AttributeError"),
        (DataRollback(DataRollbackKind.CALLABLE, "no.such.module:undo"), "ModuleNotFoundError"),
        (function("no_function"), "is a int, must be a function"),
        (function("promises"), "coroutine or generator"),
        (function("yields"), "coroutine or generator"),
        (function("drop_rows"), "missing a required argument: 'since'"),
        (function("drop_rows", arguments={"since": "x", "till": "y"}), "unexpected keyword argument 'till'"),
        (DataRollback(DataRollbackKind.CALLABLE, "os:getcwd"), "can't be called with its arguments and rollout"),
    ],
)
def test_a_function_that_could_not_be_called_refuses_the_rollout(
    undoer: DataUndoer, step: DataRollback, said: str
) -> None:
    with pytest.raises(NotReadyError, match=said):
        undoer.pin(step)
    with pytest.raises(DataRollbackError):
        undoer.undo(step, ROLLOUT)
