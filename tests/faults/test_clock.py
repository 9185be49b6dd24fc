"""Clocks that jump: a gateway's, by a library that moves its wall clock alone, and the one that verdicts are made by.

libfaketime would do for the former, but with the monotonic clock left as it is Python's `sleep` fails under it.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.faults.callers import Callers
from tests.faults.moves import Team
from tests.faults.promises import check_audit, check_deals, check_log, logged
from tests.faults.record import FULL, shown
from tests.faults.stack import GATEWAYS, Stack

from model_rollouts.core.decision import Verdict
from model_rollouts.core.rollout import State

pytestmark = pytest.mark.timeout(400)

STEPS = (3600, 0, -3600, 0, 86_400, -30, 0) if FULL else (3600, -3600, 0)
STEP_SECONDS = 4.0 if FULL else 1.5
RATE = 60.0


@contextmanager
def _jumping(stack: Stack, folder: Path) -> Iterator[Callable[[int], None]]:
    """Both gateways with a wall clock of their own; gives what sets it, in seconds from the true one."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("there is no C compiler, which makes the clock that jumps: apt-get install gcc libc6-dev")
    library, ahead = folder / "wall_clock.so", folder / "ahead"
    source = Path(__file__).with_name("wall_clock.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    ahead.write_bytes(bytes(8))
    own = {"LD_PRELOAD": str(library), "WALL_CLOCK_FILE": str(ahead)}

    def jump(seconds: int) -> None:
        with ahead.open("r+b") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))

    def restart() -> None:
        for name in GATEWAYS:
            assert stack.kill(name), f"{name} was down already"
            stack.wait_ready(name)

    plain = {name: dict(stack.parts[name].env) for name in GATEWAYS}
    for name in GATEWAYS:
        stack.parts[name].env |= own
    restart()
    try:
        yield jump
    finally:
        for name in GATEWAYS:
            stack.parts[name].env = plain[name]
        restart()


@pytest.mark.skipif(not FULL, reason="FAULTS=small does without a compiler")
def test_a_gateways_clock_that_jumps_loses_no_answer_and_doubles_none(stack: Stack, tmp_path: Path) -> None:
    name = "jumping"
    team = Team.of(stack, name)
    held = (
        "no caller without an answer; every answer logged once, also by one that is killed and starts with a clock "
        "that is behind; units keep their version; moves of the traffic are followed while the clock is wrong"
    )
    with shown("the gateways' wall clock jumps (preloaded library)", held) as line, _jumping(stack, tmp_path) as jump:
        team.wait_followed()
        rollout = team.open(team.start("2", 50, 100))
        team.wait_followed()
        with Callers(stack.gateway_urls, name, RATE, name) as callers:
            for seconds in STEPS:
                jump(seconds)
                time.sleep(STEP_SECONDS)  # of load with that clock
                team.wait_followed(20)
            jump(-600)
            assert stack.kill(GATEWAYS[0]), "the gateway was down already"
            stack.wait_ready(GATEWAYS[0])
            team.clear(rollout)
            rollout = team.open(rollout, 1)
            team.wait_followed(20)
            jump(0)
        team.wait_logged()
        rows = logged(stack.log_dir, name)
        check_log(rows, callers.requests, kills=1)
        events = check_audit(team.parts.store, name)
        assert check_deals(rows, events, {rollout.id: rollout}) > 0
        assert not callers.lost
        assert set(callers.left) <= {"broken", "503"}, f"callers saw {callers.left}"
        spread = rows["ts"].max() - rows["ts"].min()
        assert spread > timedelta(seconds=max(STEPS) - min(STEPS)), "the clock has not jumped"
        line.times = len(STEPS) + 2
        line.result = f"{len(callers.requests):,} requests, times over {spread}"
    team.parts.service.roll_back(rollout.id, "test", "the end")


def test_a_deciders_clock_that_jumps_passes_nothing(stack: Stack) -> None:
    name = "decider"
    team = Team.of(stack, name)
    held = (
        "forward: past the deadline it is inconclusive, never passed; back: it waits; right again, after looks of "
        "times to come were closed: it says so, passes nothing and holds"
    )
    with shown("the clock that verdicts are made by jumps (the service's own clock)", held) as line:
        rollout = team.open(team.start("2", 50, 100, bake=1.0, deadline=600.0, look=5.0))
        team.wait_followed()
        Callers(stack.gateway_urls, name, 20.0, name).run_for(8.0)
        team.wait_logged()
        seen = {}
        for hours in (-2, 0, 2, -2, 0):
            team.parts.service.clock = lambda hours=hours: datetime.now(UTC) + timedelta(hours=hours)
            seen[hours] = team.parts.service.look(rollout.id)
            assert seen[hours].verdict is not Verdict.PASS, f"{hours} hours ahead it passed"
            assert team.now(rollout).state is State.BAKING, "a look moves nothing"
        assert seen[-2].verdict is Verdict.WAIT
        assert seen[2].verdict is Verdict.INCONCLUSIVE
        assert (seen[0].verdict, seen[0].blind) == (Verdict.WAIT, True)
        assert "a clock was ahead" in seen[0].reason
        line.times = 4
        line.result = ", ".join(f"{hours:+d} h: {found.verdict}" for hours, found in seen.items())
    team.parts.service.roll_back(rollout.id, "test", "the end")
