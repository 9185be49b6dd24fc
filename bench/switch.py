"""A blue-green switch and its rollback under load, and what mirroring costs callers.

`python -m bench.switch` (somewhat more than a minute) writes docs/benchmarks/switch.md. A real gateway process, with a
registry and a store of its own, gets 200 requests a second from a client that never waits for it.
"""

import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.load import Answer, Load
from bench.serving import HANGS, MODEL, GatewayProcess, Mover, register, serving
from model_rollouts.adapters.gateway_client import GatewayClient
from model_rollouts.core.gates import Gate, Metric
from model_rollouts.core.plan import FULL_SHARE, Pattern, Plan, Stage

RATE = 200.0
MOST_SECONDS = 1.0  # promised from a decision to the last answer of the wrong version
CYCLES = 10  # a switch and a rollback each
SETTLE_SECONDS = 1.2  # after each decision
MIRROR_SECONDS = 5.0
_WARM_SECONDS = 1.0
_AROUND = 0.5  # seconds before and after a decision
OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "switch.md"

_GATES = (Gate(Metric.ERROR_RATE),)
_BAKE, _DEADLINE = 60.0, 3600.0
SWITCH = Plan(Pattern.GRADUAL, (Stage(float(FULL_SHARE), _GATES, _BAKE, _DEADLINE, control_percent=10.0),))
SHADOW = Plan(Pattern.SHADOW, (Stage(0.0, _GATES, _BAKE, _DEADLINE, mirror_percent=100.0),))


@dataclass(frozen=True)
class Flip:
    """One decision that moves all traffic.

    Attributes:
        what: "switch" or "rollback".
        decided: When the store had it, `time.monotonic()`.
        seconds: From then to the last answer of the version that should no longer answer; 0 when there was none.
        wrong: Such answers after the decision.
        right: Answers of the version that should answer.
    """

    what: str
    decided: float
    seconds: float
    wrong: int
    right: int


@dataclass(frozen=True)
class Switching:
    """What was seen of all flips.

    Attributes:
        flips: Each.
        sent: Requests that the client sent.
        answers: What came of them.
        since: When the client and the gateway had warmed up, `time.monotonic()`.
    """

    flips: Sequence[Flip]
    sent: int
    answers: Sequence[Answer]
    since: float

    @property
    def failed(self) -> int:
        """Requests without an answer, or with one that is not 2xx."""
        return self.sent - sum(answer.ok for answer in self.answers)

    def near(self, *, near: bool) -> list[float]:
        """Milliseconds of the requests around the flips, or of all the others."""
        moments = [flip.decided for flip in self.flips]
        warm = [answer for answer in self.answers if answer.due >= self.since]
        return [a.ms for a in warm if any(abs(a.due - moment) <= _AROUND for moment in moments) is near]


@dataclass(frozen=True)
class Mirroring:
    """What callers saw while a version was, or was not, asked unseen.

    Attributes:
        what: The situation.
        ms: Milliseconds of each request.
        failed: Requests without an answer, or with one that is not 2xx.
        mirrored: Requests that the challenger was asked, too.
        dropped: Requests that it should have been asked and was not.
    """

    what: str
    ms: Sequence[float]
    failed: int
    mirrored: int
    dropped: int


def switch(gateway: GatewayProcess, mover: Mover, cycles: int, rate: float = RATE) -> Switching:
    """Move all traffic to version 2 and back, again and again, while requests come in."""
    decisions: list[tuple[str, str, float]] = []
    with Load(f"{gateway.url}/models/{MODEL}/invocations", rate) as load:
        time.sleep(_WARM_SECONDS)
        since = time.monotonic()
        for _ in range(cycles):
            mover.start(SWITCH, "2")
            gateway.wait(lambda: mover.is_ready(gateway.url))  # green is loaded and warm, or nothing moves
            decisions.append(("switch", "2", mover.open()))
            time.sleep(SETTLE_SECONDS)
            decisions.append(("rollback", "1", mover.roll_back()))
            time.sleep(SETTLE_SECONDS)
        end = time.monotonic()
    ends = [decided for _, _, decided in decisions[1:]] + [end]
    flips = [_flip(load.answers, *decision, until) for decision, until in zip(decisions, ends, strict=True)]
    return Switching(flips, load.sent, load.answers, since)


def mirror(gateway: GatewayProcess, mover: Mover, what: str, challenger: str | None, seconds: float) -> Mirroring:
    """Requests with a version that is asked unseen; None: with none."""
    before = _mirrored(gateway)
    if challenger is not None:
        mover.start(SHADOW, challenger)
        gateway.wait(lambda: mover.is_ready(gateway.url))
        mover.open()
        gateway.wait(lambda: mover.is_ready(gateway.url))
    with Load(f"{gateway.url}/models/{MODEL}/invocations", RATE) as load:
        time.sleep(_WARM_SECONDS)
        since = time.monotonic()
        time.sleep(seconds)
    expected = before["mirrored"] + before["dropped"] + (load.sent if challenger is not None else 0)
    gateway.wait(lambda: _settled(_mirrored(gateway), expected))
    after = _mirrored(gateway)
    if challenger is not None:
        mover.roll_back()
        gateway.wait(lambda: mover.is_ready(gateway.url))
    failed = load.sent - sum(answer.ok for answer in load.answers)
    mirrored, dropped = (after[name] - before[name] for name in ("mirrored", "dropped"))
    return Mirroring(what, [a.ms for a in load.answers if a.due >= since], failed, mirrored, dropped)


def main() -> int:
    """Measure, write the page, and fail when a promise is broken."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-switch-") as folder:
        root = Path(folder)
        with serving(root, register(root)) as (gateway, mover):
            print(f"gateway at {gateway.url}: {CYCLES} switches and rollbacks at {RATE:g} requests a second")
            switching = switch(gateway, mover, CYCLES)
            print("mirroring")
            mirroring = [
                mirror(gateway, mover, "no challenger", None, MIRROR_SECONDS),
                mirror(gateway, mover, "every request mirrored", "2", MIRROR_SECONDS),
                mirror(gateway, mover, "every request mirrored to a version that hangs", HANGS, MIRROR_SECONDS),
            ]
    OUT.write_text(page(switching, mirroring))
    slowest = max(flip.seconds for flip in switching.flips)
    failed = switching.failed + sum(m.failed for m in mirroring)
    print(f"{failed} failed, slowest flip {slowest:.2f} s; wrote {OUT} after {time.monotonic() - began:.0f} s")
    return int(failed > 0 or slowest > MOST_SECONDS)


def page(switching: Switching, mirroring: Sequence[Mirroring]) -> str:
    """The Markdown page."""
    rows = "\n".join(
        f"| {what} | {len(seconds)} | {_quantile(seconds, 0.5):.2f} | {_quantile(seconds, 0.99):.2f} | "
        f"{max(seconds):.2f} | {wrong:.0f} |"
        for what, seconds, wrong in _by_kind(switching.flips)
    )
    places = {"within half a second of a decision": True, "all others": False}
    latencies = "\n".join(_latency_row(name, switching.near(near=near)) for name, near in places.items())
    mirrored = "\n".join(
        f"{_latency_row(m.what, m.ms)} {m.failed} | {m.mirrored:,} | {m.dropped:,} |" for m in mirroring
    )
    return f"""# A switch, a rollback, and mirroring, under load

Written by `python -m bench.switch`; do not edit. One gateway process and one client on a machine with {os.cpu_count()}
cores, with a SQLite store, a model in plain Python and {RATE:g} requests a second that leave on time whatever the
gateway does: a request's time counts from when it was to leave. Absolute times are of this machine.

## Switch and rollback

{len(switching.flips)} decisions, one after the other: all traffic to the new version, and all of it back.
**{switching.failed} of {switching.sent:,} requests failed** (no answer, or one that is not 2xx).

From the decision, when the store had it, to the last answer of the version that should no longer answer, in seconds:

| decision | number | p50 | p99 | max | answers of the wrong version (mean) |
| --- | --- | --- | --- | --- | --- |
{rows}

The gateway looks at the traffic table every 0.2 s by default (`MODEL_ROLLOUTS_POLL_SECONDS`); what remains is requests
that were under way. The promise is {MOST_SECONDS:g} s.

Milliseconds of a request:

| requests | number | p50 | p99 | max |
| --- | --- | --- | --- | --- |
{latencies}

Among the others are those that came in while the new version was loaded, before each switch.

## Mirroring

Callers get the champion's answers. The challenger answers the same requests, unseen; one that hangs times out, is
dropped first, and is counted. Milliseconds of a request, over {MIRROR_SECONDS:g} s each:

| situation | requests | p50 | p99 | max | failed | mirrored | dropped |
| --- | --- | --- | --- | --- | --- | --- | --- |
{mirrored}

Mirrored and dropped count the warm-up, too. Mirroring shares the processor with callers, and nothing else.
"""


def _flip(answers: Sequence[Answer], what: str, expected: str, decided: float, until: float) -> Flip:
    came = [answer for answer in answers if answer.ok and decided < answer.done < until]
    wrong = [answer.done - decided for answer in came if answer.version != expected]
    return Flip(what, decided, max(wrong, default=0.0), len(wrong), len(came) - len(wrong))


def _by_kind(flips: Sequence[Flip]) -> list[tuple[str, list[float], float]]:
    kinds = [(what, [flip for flip in flips if flip.what == what]) for what in ("switch", "rollback")]
    return [(w, [f.seconds for f in those], sum(f.wrong for f in those) / len(those)) for w, those in kinds]


def _latency_row(name: str, ms: Sequence[float]) -> str:
    return f"| {name} | {len(ms):,} | {_quantile(ms, 0.5):.1f} | {_quantile(ms, 0.99):.1f} | {max(ms):.1f} |"


def _quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that a share q of the values does not exceed."""
    return sorted(values)[math.ceil(q * len(values)) - 1]


def _mirrored(gateway: GatewayProcess) -> dict[str, int]:
    (status,) = GatewayClient(gateway.url).statuses(MODEL).values()
    counted: dict[str, int] = status["mirror"]
    return counted


def _settled(counted: Mapping[str, int], expected: int) -> bool:
    return counted["mirrored"] + counted["dropped"] == expected


if __name__ == "__main__":
    sys.exit(main())
