"""Closes looks: counts what is due from the prediction log, each part once, as soon as it can be known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Metric
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Rollout
from model_rollouts.ports import LooksAtOnce, PredictionLog, StageWindow, Window

_SKEW = timedelta(minutes=1)  # so much may the clocks of two machines differ; more is a clock that is wrong
_PRIOR = timedelta(days=30)  # what a unit was worth before the rollout, for CUPED

Spans = Mapping[int, tuple[datetime, datetime | None]]
"""When each stage's traffic moved, and when it moved on (None: it has not)."""


@dataclass(frozen=True, slots=True)
class Due:
    """What can be closed by now.

    Attributes:
        looks: Looks, and labels of looks, that the store does not have yet.
        failure: What could not be counted, though the requests could; "" when nothing is missing. Such looks tell harm
            and must not be kept: what is kept is never counted again.
    """

    looks: list[Look]
    failure: str = ""


def due_looks(log: PredictionLog, rollout: Rollout, spans: Spans, kept: Sequence[Look], now: datetime) -> Due:
    """Looks that can be closed by now, and those whose labels have matured: all that the store does not have yet.

    Args:
        log: Where they are counted from.
        rollout: The rollout.
        spans: Its stages so far.
        kept: The looks that the store has.
        now: UTC.

    Raises:
        Exception: Whatever the log raises when requests can't be counted; nothing is closed then.
    """
    return _Closing(log, rollout, spans, kept).due(now)


def has_due(rollout: Rollout, spans: Spans, kept: Sequence[Look], now: datetime) -> bool:
    """Whether `due_looks` would count anything. Arguments as there; the log is not asked."""
    found = _windows(rollout.plan, spans, {_at(look): look for look in kept}, now)
    return bool(found.fresh or found.ripe)


def batch_looks(log: PredictionLog, rollout: Rollout, batches: Sequence[StageWindow], kept: int) -> list[Look]:
    """Looks of batches of logged requests: all of a batch is known at once, its labels included.

    Args:
        log: Shows each batch, whenever its requests were made, in the batch's window.
        rollout: The rollout.
        batches: All batches of the stage so far, in order, from its first one.
        kept: How many of them, from the first on, have looks.

    Raises:
        Exception: Whatever the log raises; nothing is closed then.
    """
    closing, fresh = _Closing(log, rollout, {}, []), batches[kept:]
    if fresh:
        closing.count_all(batches, fresh)
    return [closing.looks[_place(w)] for w in fresh]


class _Closing:
    def __init__(self, log: PredictionLog, rollout: Rollout, spans: Spans, kept: Sequence[Look]) -> None:
        self.log, self.rollout, self.plan = log, rollout, rollout.plan
        self.spans = spans
        self.looks = {_at(look): look for look in kept}
        self.touched: set[tuple[int, int]] = set()
        self.failures: list[str] = []

    def due(self, now: datetime) -> Due:
        found = _windows(self.plan, self.spans, self.looks, now)
        log, maturity = self.log, timedelta(seconds=self.plan.label_maturity_seconds)
        if not self.looks and len(found.closed) > 1 and isinstance(log, LooksAtOnce):
            with log.at_once(self.rollout.model, self.rollout.id, found.closed, maturity) as self.log:
                return self._counted(found)
        return self._counted(found)

    def _counted(self, found: "_Windows") -> Due:
        closed, fresh = found.closed, found.fresh
        if fresh:
            self._count_requests(fresh)
            self._try(lambda: self._count_units(closed, fresh))
            self._try(lambda: self._count_pairs(closed, fresh))
        if found.ripe:
            maturity = timedelta(seconds=self.plan.label_maturity_seconds)
            self._try(lambda: self._count_labels(found.mature, found.ripe, maturity))
        return Due([self.looks[place] for place in sorted(self.touched)], "; ".join(self.failures))

    def count_all(self, closed: Sequence[StageWindow], fresh: Sequence[StageWindow]) -> None:
        """Count every part of looks at once."""
        self._count_requests(fresh)
        self._count_units(closed, fresh)
        self._count_pairs(closed, fresh)
        self._count_labels(closed, fresh, timedelta(seconds=self.plan.label_maturity_seconds))

    def _try(self, count: Callable[[], None]) -> None:
        """Count a part that harm can be seen without."""
        try:
            count()
        except Exception as error:  # whatever an engine raises: what was counted before it still tells harm
            self.failures.append(f"{type(error).__name__}: {error}"[:500])

    def _count_requests(self, fresh: Sequence[StageWindow]) -> None:
        for stage, part in _by_stage(fresh).items():
            counts = self.log.request_counts(self.rollout.model, self.rollout.id, stage, part)
            for window, (champion, challenger) in zip(part, counts, strict=True):
                self._put(Look(stage, window.index, champion, challenger))

    def _count_units(self, closed: Sequence[StageWindow], fresh: Sequence[StageWindow]) -> None:
        first, wanted = closed.index(fresh[0]), {_place(w) for w in fresh}
        units = self.log.unit_counts(self.rollout.model, self.rollout.id, closed, first)
        for w, (champion, challenger) in zip(closed[first:], units, strict=True):
            if _place(w) in wanted:
                self._add(_place(w), champion_units=champion, challenger_units=challenger)

    def _count_pairs(self, closed: Sequence[StageWindow], fresh: Sequence[StageWindow]) -> None:
        model, rollout_id, first = self.rollout.model, self.rollout.id, closed.index(fresh[0])
        for stage, part in _by_stage(fresh).items():
            gate = self.plan.stage(stage).gate(Metric.AGREEMENT)
            if gate is None:
                continue
            pairs = self.log.pair_counts(model, rollout_id, stage, part, gate.tolerance)
            by_index = dict(zip([window.index for window in part], pairs, strict=True))
            sums = self.log.pair_clusters(model, rollout_id, closed, first, gate.tolerance)
            for w, clusters in zip(closed[first:], sums, strict=True):
                if w.stage == stage and w.window.index in by_index:
                    self._add(_place(w), pairs=by_index[w.window.index], pair_clusters=clusters)

    def _count_labels(self, mature: Sequence[StageWindow], ripe: Sequence[StageWindow], maturity: timedelta) -> None:
        model, rollout_id = self.rollout.model, self.rollout.id
        first, wanted = mature.index(ripe[0]), {_place(w) for w in ripe}
        try:
            labels = self.log.label_evidence(model, rollout_id, mature, first, maturity)
        except Exception:  # without what units did before, which takes the memory, the counts still tell harm
            for w, (champion, challenger) in zip(
                ripe, self.log.label_evidence(model, rollout_id, ripe, 0, maturity), strict=True
            ):
                self._add(_place(w), champion_labels=champion.counts, challenger_labels=challenger.counts)
            raise
        for w, (champion, challenger) in zip(mature[first:], labels, strict=True):
            if _place(w) in wanted:
                self._add(
                    _place(w),
                    champion_labels=champion.counts,
                    challenger_labels=challenger.counts,
                    champion_label_clusters=champion.clusters,
                    challenger_label_clusters=challenger.clusters,
                )
        if any(stage.gate(Metric.VALUE) for stage in self.plan.stages):
            prior = (self.rollout.created_at - _PRIOR, self.rollout.created_at)
            values = self.log.value_sums(model, rollout_id, mature, first, maturity, prior)
            for w, sums in zip(mature[first:], values, strict=True):
                if _place(w) in wanted:
                    self._add(_place(w), values=sums)

    def _add(self, place: tuple[int, int], **parts: Any) -> None:
        self._put(replace(self.looks[place], **parts))

    def _put(self, look: Look) -> None:
        self.looks[_at(look)] = look
        self.touched.add(_at(look))


def next_due(plan: Plan, stage: int, judged_from: datetime, spans: Spans, now: datetime) -> datetime:
    """The first time after now at which a look at a rollout can tell anything new.

    A look is closed, labels have matured, or a time comes that the verdict depends on. What somebody does, and a log
    that can't be read now, are not among it.

    Args:
        plan: The rollout's plan.
        stage: Position of the open (or last) stage.
        judged_from: When its time began to count.
        spans: The stages so far.
        now: UTC.
    """
    length, grace = timedelta(seconds=plan.look_seconds), timedelta(seconds=plan.grace_seconds)
    maturity = timedelta(seconds=plan.label_maturity_seconds)
    times = [
        judged_from + timedelta(seconds=seconds)
        for seconds in (
            plan.stage(stage).bake_seconds,
            plan.stage(stage).deadline_seconds,
            *(plan.deadline_of(stage, gate) for gate in plan.stage(stage).gates),
        )
    ]
    for position, (opened, closed) in spans.items():
        if plan.stage(position).offline:
            continue
        for delay in (grace, maturity + grace):
            count = max(0, (now - opened - delay) // length) + 1  # the first whole look that ends late enough
            if closed is None or opened + count * length <= closed:
                times.append(opened + count * length + delay)
        if closed is not None:
            times.append(closed + length + maturity + grace)  # nothing can come after it
    after = [time for time in times if time > now]
    return min(after, default=now + length)


def closed_ahead(plan: Plan, spans: Spans, looks: Sequence[Look], now: datetime) -> str:
    """That looks of times to come are closed already, by a clock that was ahead; empty where it is not so.

    A closed look is never counted again: until its time has come nothing that is asked is seen by the gates.

    Args:
        plan: The rollout's plan.
        spans: Its stages so far.
        looks: Those that are kept.
        now: UTC.
    """
    length = timedelta(seconds=plan.look_seconds)
    live = [look for look in looks if look.stage in spans and not plan.stage(look.stage).offline]
    last = max((spans[look.stage][0] + (look.index + 1) * length for look in live), default=now)
    if last <= now + _SKEW:
        return ""
    return (
        f"looks until {last:%Y-%m-%d %H:%M:%S} are closed and it is {now:%Y-%m-%d %H:%M:%S}: a clock was ahead, and "
        "what is asked until then is not judged; roll back and start anew"
    )


def seen_looks(plan: Plan, spans: Spans, looks: Sequence[Look], resumed: Sequence[datetime]) -> int:
    """How many looks had begun when the rollout was last resumed: a person has seen what signals said of them."""
    if not resumed:
        return 0
    length, last = timedelta(seconds=plan.look_seconds), max(resumed)

    def began(look: Look) -> datetime:
        """Looks of an offline stage are batches, not of the clock: they are as old as their stage."""
        opened = spans[look.stage][0]
        return opened if plan.stage(look.stage).offline else opened + look.index * length

    return sum(began(look) < last for look in looks)


def windows(opened: datetime, until: datetime, look_seconds: float) -> list[Window]:
    """Whole looks between two times."""
    length = timedelta(seconds=look_seconds)
    count = max(0, (until - opened) // length)
    return [Window(i, opened + i * length, opened + (i + 1) * length) for i in range(count)]


@dataclass(frozen=True, slots=True)
class _Windows:
    """Looks that have ended: all of them, those not counted yet, those whose labels are due, and not counted yet."""

    closed: list[StageWindow]
    fresh: list[StageWindow]
    mature: list[StageWindow]
    ripe: list[StageWindow]


def _windows(plan: Plan, spans: Spans, looks: Mapping[tuple[int, int], Look], now: datetime) -> _Windows:
    grace, maturity = timedelta(seconds=plan.grace_seconds), timedelta(seconds=plan.label_maturity_seconds)
    whole = [
        StageWindow(stage, window)
        for stage, (opened, closed) in sorted(spans.items())
        for window in windows(opened, min(closed or now, now), plan.look_seconds)
    ]
    ended = [w for w in whole if w.window.end + grace <= now]
    mature = [w for w in ended if w.window.end + maturity + grace <= now]
    fresh = [w for w in ended if _place(w) not in looks]
    return _Windows(ended, fresh, mature, [w for w in mature if not _is_matured(looks.get(_place(w)))])


def _is_matured(look: Look | None) -> bool:
    return look is not None and look.matured


def _at(look: Look) -> tuple[int, int]:
    return look.stage, look.index


def _place(window: StageWindow) -> tuple[int, int]:
    return window.stage, window.window.index


def _by_stage(parts: Sequence[StageWindow]) -> dict[int, list[Window]]:
    stages: dict[int, list[Window]] = {}
    for part in parts:
        stages.setdefault(part.stage, []).append(part.window)
    return stages
