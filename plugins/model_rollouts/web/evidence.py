"""What the page shows of a rollout's looks, added up behind the callers' backs.

A request never adds up more than it can in a moment: a worker takes what is new of each rollout that somebody looks at,
a piece at a time and in turns, and requests get what there is so far. Ten thousand looks that nobody has looked at
before take the worker many seconds; each later look takes milliseconds.
"""

import contextlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from model_rollouts.core.evidence import Look, latency_edge_ms
from model_rollouts.core.packed import bytes_of, packed

if TYPE_CHECKING:
    from model_rollouts.core.course import Course, Point
    from model_rollouts.core.decision import Decision
    from model_rollouts.core.gates import Metric
    from model_rollouts.core.plan import Plan

logger = logging.getLogger(__name__)

MOST_POINTS = 200
_PIECE = 200  # looks that are taken at a time: some tenths of a second
_FRESH_SECONDS = 0.7  # what is younger is not added up again
_MOST_BYTES = 200_000_000  # kept in memory, of all rollouts together; a look takes 4 to 8 kilobytes
_MOST_ROLLOUTS = 500
_FORGET_SECONDS = 1800.0  # a rollout that nobody has looked at for so long is let go
_ARMS = ("champion", "challenger")
_QUANTILES = (0.5, 0.95, 0.99)
_LABEL_COUNTS = ("due", "labelled", "wrong")
_COUNTS = ("requests", "errors", *_LABEL_COUNTS)


class LookSource(Protocol):
    """Reads looks a part at a time."""

    def looks_after(self, rollout_id: str, stage: int, look: int, most: int) -> list[Look]:
        """The looks that follow one, in order of stage and index."""

    def labelled_from(self, rollout_id: str, stage: int, look: int, until: tuple[int, int], most: int) -> list[Look]:
        """Looks that have labels, from one to another, both included, in order."""

    def look_counts(self, rollout_id: str) -> dict[int, int]:
        """How many looks each stage has."""


@dataclass(frozen=True, slots=True)
class Judging:
    """What a verdict needs besides the looks.

    Attributes:
        stage: The stage to judge; None: there is none to judge.
        elapsed: Seconds that it has been judged for.
        resumptions: How many of given looks had begun each time that the rollout was resumed; signals leave those out.
    """

    stage: int | None
    elapsed: float
    resumptions: Callable[[Sequence[Look]], Sequence[int]]


@dataclass(slots=True)
class Arms:
    """Sums of one stage, by arm."""

    sums: dict[str, dict[str, int]] = field(default_factory=lambda: {arm: dict.fromkeys(_COUNTS, 0) for arm in _ARMS})
    latency: dict[str, dict[int, int]] = field(default_factory=lambda: {arm: {} for arm in _ARMS})

    def add(self, look: Look) -> None:
        """Take what belongs to requests."""
        for arm in _ARMS:
            counts, own, histogram = getattr(look, arm), self.sums[arm], self.latency[arm]
            own["requests"] += counts.requests
            own["errors"] += counts.errors
            for index, n in counts.latency.items():
                histogram[index] = histogram.get(index, 0) + n

    def add_labels(self, look: Look) -> None:
        """Take what belongs to labels."""
        for arm in _ARMS:
            if labels := getattr(look, f"{arm}_labels"):
                for name in _LABEL_COUNTS:
                    self.sums[arm][name] += getattr(labels, name)

    def told(self) -> dict[str, Any]:
        """In JSON types."""
        found: dict[str, Any] = {}
        for arm in _ARMS:
            times = {f"p{q * 100:g}": _quantile(self.latency[arm], q) for q in _QUANTILES}
            found[arm] = {**self.sums[arm], "latency_ms": times}
        return found


@dataclass(frozen=True, slots=True)
class View:
    """What there is so far.

    Attributes:
        looks: How many looks have been added up.
        of: How many there are.
        arms: By stage: sums of each arm, in JSON types.
        points: By metric: what its gate knew after each look, thinned.
        decision: The verdict as of now; None while looks are missing, or where there is none.
        failure: Why it could not be brought up to date; "" where it could.
    """

    looks: int = 0
    of: int = 1  # at least, before it is known
    arms: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    points: "Mapping[Metric, Sequence[Point]]" = field(default_factory=dict)
    decision: "Decision | None" = None
    failure: str = ""

    @property
    def complete(self) -> bool:
        """Whether all looks are in it."""
        return self.looks >= self.of and not self.failure


class Evidence:
    """Views of rollouts, kept up while somebody looks.

    Args:
        source: Where looks are read from.
        piece: Looks that are taken at a time.
        most_bytes: What looks may take in memory, of all rollouts together. One rollout is kept whatever it takes.
    """

    def __init__(self, source: LookSource, piece: int = _PIECE, most_bytes: int = _MOST_BYTES) -> None:
        self._source, self._piece, self._most_bytes = source, piece, most_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollouts-evidence")

    def view(self, rollout_id: str, plan: "Plan", judging: Callable[[], Judging], wait: float) -> View:
        """What there is so far; brings it up to date for at most `wait` seconds.

        Args:
            rollout_id: The rollout.
            plan: Its plan.
            judging: Tells what the verdict needs, when it is made.
            wait: Seconds to wait for what is new.
        """
        with self._lock:
            kept = self._kept.pop(rollout_id, None) or _Kept(rollout_id, plan)
            self._kept[rollout_id] = kept
            kept.seen_at = time.monotonic()
            self._forget()
            if kept.done is None and time.monotonic() - kept.updated_at >= _FRESH_SECONDS:
                kept.done = Future()
                self._worker.submit(self._work, kept, judging)
            done = kept.done
        if done is not None:
            with contextlib.suppress(TimeoutError):
                done.result(timeout=wait)
        return kept.view

    def _work(self, kept: "_Kept", judging: Callable[[], Judging]) -> None:
        """One piece; the next one waits for its turn behind other rollouts."""
        try:
            more = kept.take_piece(self._source, self._piece, judging)
        except Exception as error:  # whatever a store raises is shown, and tried again with the next request
            logger.warning("looks of %s can't be added up: %s: %s", kept.rollout_id, type(error).__name__, error)
            kept.fail(type(error).__name__)  # its text may name hosts and users; the log has it
            more = False
        if more:
            self._worker.submit(self._work, kept, judging)
            return
        with self._lock:
            done, kept.done, kept.updated_at = kept.done, None, time.monotonic()
            self._forget()
        if done is not None:
            done.set_result(None)

    def _forget(self) -> None:
        """The least recently seen ones go when they are too many, too large, or long unseen. The newest stays."""
        while len(self._kept) > 1:
            idle = next((name for name, kept in self._kept.items() if kept.done is None), None)
            if idle is None or idle == next(reversed(self._kept)):
                return
            too_many = len(self._kept) > _MOST_ROLLOUTS
            too_large = sum(kept.nbytes for kept in self._kept.values()) > self._most_bytes
            if not (too_many or too_large or time.monotonic() - self._kept[idle].seen_at > _FORGET_SECONDS):
                return
            del self._kept[idle]


class _Kept:
    """One rollout's looks and sums. Only the worker changes them."""

    def __init__(self, rollout_id: str, plan: "Plan") -> None:
        self.rollout_id, self.plan = rollout_id, plan
        self.view = View()
        self.done: Future[None] | None = None
        self.updated_at = self.seen_at = -1e9
        self._clear()

    def _clear(self) -> None:
        self.looks: list[Look] = []
        self.nbytes = 0
        self._course: Course | None = None
        self._arms: dict[int, Arms] = {}
        self._points: dict[Metric, list[Point]] = {}
        self._wanted: set[int] | None = None
        self._labelled = 0  # looks whose labels are in the sums, from the first on

    def fail(self, why: str) -> None:
        """Keep what there is, and say why it is not newer."""
        self.view = View(
            self.view.looks, self.view.of, self.view.arms, self.view.points, self.view.decision, failure=why
        )

    def take_piece(self, source: LookSource, piece: int, judging: Callable[[], Judging]) -> bool:
        """Take some of what is new; gives whether there is more."""
        from model_rollouts.core.course import Course, thinned

        counts = source.look_counts(self.rollout_id)
        total = sum(counts.values())
        if total < len(self.looks):  # the store was restored from a backup
            self._clear()
        if self._course is None:
            self._course = Course(self.plan)
        if self._wanted is None:  # the first time, only what will be shown is worked out
            ends, running = [], 0
            for _, count in sorted(counts.items()):
                running += count
                ends.append(running)
            self._wanted = set(thinned(total, ends, MOST_POINTS * 3 // 4))
        cold = max(self._wanted, default=0)
        last = (self.looks[-1].stage, self.looks[-1].index) if self.looks else (-1, -1)
        fresh = [packed(look) for look in source.looks_after(self.rollout_id, *last, piece)]
        begin = len(self.looks)
        self.looks.extend(fresh)
        self.nbytes += sum(bytes_of(look) for look in fresh)
        for look in fresh:
            self._arms.setdefault(look.stage, Arms()).add(look)
        grown = self._take_labels(source, piece)
        now = judging()
        resumed = now.resumptions(self.looks)
        for count in range(begin + 1, len(self.looks) + 1):
            if count in self._wanted or count > max(cold, len(self.looks) - 3):
                self._record(count, resumed)
        if grown and not fresh and self.looks:
            self._record(len(self.looks), resumed)
        more = len(fresh) == piece or self._labels_left
        self._show(max(total, len(self.looks)), None if more else now)
        return more

    def _take_labels(self, source: LookSource, piece: int) -> bool:
        """Put in the labels that have arrived for looks that are there already, in order."""
        before = self._labelled
        self._labels_left = False
        while self._labelled < len(self.looks) and self.looks[self._labelled].matured:
            self._add_labels()
        if self._labelled < len(self.looks):
            first, last = self.looks[self._labelled], self.looks[-1]
            found = source.labelled_from(self.rollout_id, first.stage, first.index, (last.stage, last.index), piece)
            places = {(look.stage, look.index): look for look in found}
            known = self._labelled + sum(look.matured for look in self.looks[self._labelled :])
            for at in range(self._labelled, len(self.looks)):
                old = self.looks[at]
                if not old.matured and (new := places.get((old.stage, old.index))):
                    self.looks[at] = packed(new)
                    self.nbytes += bytes_of(self.looks[at]) - bytes_of(old)
            grown = self._labelled + sum(look.matured for look in self.looks[self._labelled :]) > known
            self._labels_left = grown and len(found) == piece
            while self._labelled < len(self.looks) and self.looks[self._labelled].matured:
                self._add_labels()
        return self._labelled > before

    def _add_labels(self) -> None:
        look = self.looks[self._labelled]
        self._arms[look.stage].add_labels(look)
        self._labelled += 1

    def _record(self, count: int, resumed: Sequence[int]) -> None:
        """Keep what the gates knew after so many looks; signals, what they say since the last time it was resumed."""
        assert self._course is not None  # noqa: S101 - made before anything is recorded, for the type checker
        self._course.take(self.looks[:count])
        stage = self.looks[count - 1].stage
        for gate in self.plan.stage(stage).gates:
            points = self._points.setdefault(gate.metric, [])
            point = self._course.point(gate, stage, max((seen for seen in resumed if seen < count), default=0))
            if points and (points[-1].position, points[-1].stage) == (point.position, point.stage):
                points.pop()
            points.append(point)
            if len(points) > MOST_POINTS:
                self._points[gate.metric] = _halved(points)

    def _show(self, total: int, judging: Judging | None) -> None:
        from model_rollouts.core.decision import decide_from

        decision = None
        if judging is not None and judging.stage is not None and self._course is not None:
            self._course.take(list(self.looks))
            signals_from = max(judging.resumptions(self.looks), default=0)
            decision = decide_from(self._course, judging.stage, judging.elapsed, signals_from)
        self.view = View(
            looks=len(self.looks) if judging is not None else min(len(self.looks), total - 1),
            of=total,
            arms={stage: arms.told() for stage, arms in self._arms.items()},
            points={metric: tuple(points) for metric, points in self._points.items()},
            decision=decision,
        )


def _halved(points: "list[Point]") -> "list[Point]":
    """Every other point; the last one of each stage, and the first that was proof, stay."""
    kept = []
    for at, point in enumerate(points):
        last = at == len(points) - 1 or points[at + 1].stage != point.stage
        first_proof = (point.harm >= 1 or point.proof >= 1) and (
            at == 0 or not (points[at - 1].harm >= 1 or points[at - 1].proof >= 1)
        )
        if at % 2 or last or first_proof:
            kept.append(point)
    return kept[-MOST_POINTS:]


def _quantile(histogram: Mapping[int, int], quantile: float) -> float | None:
    """Upper edge of the quantile's bin, in ms."""
    total, passed = sum(histogram.values()), 0
    for index in sorted(histogram):
        passed += histogram[index]
        if passed >= quantile * total:
            return latency_edge_ms(index + 1)
    return None
