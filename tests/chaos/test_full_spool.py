"""A spool without room under load: answers are refused, or given and counted, as MODEL_ROLLOUTS_ON_LOG_FAILURE says."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.client import Asked, Client
from tests.chaos.world import FULL, drained, failed, logged, p99, say, status

from bench.serving import MODEL, GatewayProcess, serving

pytestmark = pytest.mark.timeout(1800 if FULL else 300)

RATE = 800.0 if FULL else 400.0
FULL_SECONDS = 15.0 if FULL else 1.5  # of load once there is no room
BACK_SECONDS = 20.0  # until all that was kept is in the log, once that is back
SPOOL_BYTES = 1_048_576  # the least that can be set
DISK_BYTES = 400 * 1024
_LONG = "x" * 150  # of the request ids, so that it fills sooner


@contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own with little room."""
    folder.mkdir()
    options = f"size={DISK_BYTES}"
    subprocess.run([_tool("mount"), "-t", "tmpfs", "-o", options, "chaos", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([_tool("umount"), "--lazy", str(folder)], check=True)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def _can_mount(folder: Path) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        with _small_disk(folder):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _full(registry: str, root: Path, kind: str, what: str) -> Iterator[GatewayProcess]:
    """A gateway whose log takes nothing, and whose spool has little room: on its disk, or by its setting."""
    more: dict[str, Any] = {"MODEL_ROLLOUTS_ON_LOG_FAILURE": what}
    if kind == "bound":
        more["MODEL_ROLLOUTS_MAX_SPOOL_BYTES"] = str(SPOOL_BYTES)
        with serving(root, registry, **more) as (gateway, _):
            yield gateway
        return
    with _small_disk(root / "disk"):
        more["MODEL_ROLLOUTS_SPOOL_DIR"] = str(root / "disk")
        with serving(root, registry, **more) as (gateway, _):
            yield gateway


def _until_full(gateway: GatewayProcess, what: str) -> list[Asked]:
    """Load until the first answers are refused, or given and not logged, and a while longer."""
    with Client(f"{gateway.url}/models/{MODEL}/invocations", RATE, f"full-{what}-{_LONG}") as client:
        if what == "refuse":
            gateway.wait(lambda: any(each.status == 503 for each in client.asked), 60)
        else:
            gateway.wait(lambda: bool(status(gateway)["spool"]["unlogged"]), 60)
        time.sleep(FULL_SECONDS)
    return client.asked


_CASES = [(kind, what) for kind in ("disk", "bound") for what in ("refuse", "serve")]


@pytest.mark.parametrize(("kind", "what"), _CASES if FULL else [_CASES[0], _CASES[3]])
def test_when_the_spool_is_full_answers_are_refused_or_counted_as_unlogged(
    registry: str, tmp_path: Path, kind: str, what: str
) -> None:
    if kind == "disk" and not _can_mount(tmp_path / "try"):
        pytest.skip("a small disk takes the right to mount one: run as root, with CAP_SYS_ADMIN in a container")
    (tmp_path / "log").write_text("no folder")
    with _full(registry, tmp_path, kind, what) as gateway:
        asked = _until_full(gateway, what)
        said = status(gateway)["spool"]
        (tmp_path / "log").unlink()
        gateway.wait(lambda: drained(gateway), BACK_SECONDS)
        after = Client(f"{gateway.url}/models/{MODEL}/invocations", 100.0, "back").run_for(1.0)
        gateway.wait(lambda: drained(gateway), BACK_SECONDS)
        unlogged = status(gateway)["spool"]["unlogged"]
    answered = [each for each in asked if each.answered]
    refused = [each for each in asked if not each.answered]
    rows = logged(tmp_path, MODEL)
    names = set(rows["request_id"])
    missing = unlogged.get(MODEL, {}).get("rows", 0)
    say(
        f"full-{kind}-{what}",
        requests=len(asked),
        answered=len(answered),
        refused=len(refused),
        unlogged=missing,
        spool_bytes=said["bytes"],
        p99_ms=p99(asked),
    )
    assert not failed(after), "once there is room again all is as before"
    assert not rows.duplicated("request_id").any()
    assert {each.request_id for each in after} <= names
    assert {each.request_id for each in refused}.isdisjoint(set(rows[rows["served"]]["request_id"]))
    if what == "refuse":
        assert {each.status for each in refused} == {503}
        assert {each.retry_after for each in refused} == {"1"}
        assert {each.request_id for each in answered} <= names, "nothing is answered that is not logged"
        assert missing == 0
    else:
        assert not refused
        kept = {each.request_id for each in answered} & names
        assert missing == len(answered) - len(kept) > 0
        assert unlogged[MODEL]["reason"]
