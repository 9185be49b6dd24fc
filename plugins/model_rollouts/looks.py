"""Closes looks: counts what is due from the prediction log, each part once, as soon as it can be known."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from model_rollouts.core.evidence import Look
from model_rollouts.core.gates import Metric
from model_rollouts.core.rollout import Rollout
from model_rollouts.ports import PredictionLog, StageWindow, Window

_PRIOR = timedelta(days=30)  # what a unit was worth before the rollout, for CUPED

Spans = Mapping[int, tuple[datetime, datetime | None]]
"""When each stage's traffic moved, and when it moved on (None: it has not)."""


def due_looks(log: PredictionLog, rollout: Rollout, spans: Spans, kept: Sequence[Look], now: datetime) -> list[Look]:
    """Looks that can be closed by now, and those whose labels have matured: all that the store does not have yet.

    Args:
        log: Where they are counted from.
        rollout: The rollout.
        spans: Its stages so far.
        kept: The looks that the store has.
        now: UTC.

    Raises:
        Exception: Whatever the log raises when it can't be read; nothing is closed then.
    """
    return _Closing(log, rollout, spans, kept).due(now)


class _Closing:
    def __init__(self, log: PredictionLog, rollout: Rollout, spans: Spans, kept: Sequence[Look]) -> None:
        self.log, self.rollout, self.plan = log, rollout, rollout.plan
        self.spans = spans
        self.looks = {(look.stage, look.index): look for look in kept}
        self.touched: set[tuple[int, int]] = set()

    def due(self, now: datetime) -> list[Look]:
        grace = timedelta(seconds=self.plan.grace_seconds)
        maturity = timedelta(seconds=self.plan.label_maturity_seconds)
        whole = [
            StageWindow(stage, window)
            for stage, (opened, closed) in sorted(self.spans.items())
            for window in windows(opened, min(closed or now, now), self.plan.look_seconds)
        ]
        closed = [w for w in whole if w.window.end + grace <= now]
        self._count_requests(closed, [w for w in closed if _place(w) not in self.looks])
        mature = [w for w in closed if w.window.end + maturity + grace <= now]
        self._count_labels(mature, [w for w in mature if not self.looks[_place(w)].matured], maturity)
        return [self.looks[place] for place in sorted(self.touched)]

    def _count_requests(self, closed: Sequence[StageWindow], fresh: Sequence[StageWindow]) -> None:
        if not fresh:
            return
        model, rollout_id = self.rollout.model, self.rollout.id
        for stage, part in _by_stage(fresh).items():
            counts = self.log.request_counts(model, rollout_id, stage, part)
            for window, (champion, challenger) in zip(part, counts, strict=True):
                self._put(Look(stage, window.index, champion, challenger))
            if gate := self.plan.stage(stage).gate(Metric.AGREEMENT):
                pairs = self.log.pair_counts(model, rollout_id, stage, part, gate.tolerance)
                for window, pair in zip(part, pairs, strict=True):
                    self._put(replace(self.looks[stage, window.index], pairs=pair))
        first = closed.index(fresh[0])
        if gate := self.plan.stage(fresh[-1].stage).gate(Metric.AGREEMENT):
            sums = self.log.pair_clusters(model, rollout_id, closed, first, gate.tolerance)
            for w, clusters in zip(closed[first:], sums, strict=True):
                if w in fresh:
                    self._put(replace(self.looks[_place(w)], pair_clusters=clusters))
        units = self.log.unit_counts(model, rollout_id, closed, first)
        for w, (champion_units, challenger_units) in zip(closed[first:], units, strict=True):
            if w in fresh:
                look = self.looks[_place(w)]
                self._put(replace(look, champion_units=champion_units, challenger_units=challenger_units))

    def _count_labels(self, mature: Sequence[StageWindow], ripe: Sequence[StageWindow], maturity: timedelta) -> None:
        if not ripe:
            return
        model, rollout_id = self.rollout.model, self.rollout.id
        first = mature.index(ripe[0])
        clusters = self.log.label_clusters(model, rollout_id, mature, first, maturity)
        by_place = {_place(w): sums for w, sums in zip(mature[first:], clusters, strict=True)}
        values = {}
        if any(stage.gate(Metric.VALUE) for stage in self.plan.stages):
            prior = (self.rollout.created_at - _PRIOR, self.rollout.created_at)
            sums = self.log.value_sums(model, rollout_id, mature, first, maturity, prior)
            values = {_place(w): value for w, value in zip(mature[first:], sums, strict=True)}
        for stage, part in _by_stage(ripe).items():
            labels = self.log.label_counts(model, rollout_id, stage, part, maturity)
            for window, (champion, challenger) in zip(part, labels, strict=True):
                place = (stage, window.index)
                self._put(
                    replace(
                        self.looks[place],
                        champion_labels=champion,
                        challenger_labels=challenger,
                        champion_label_clusters=by_place[place][0],
                        challenger_label_clusters=by_place[place][1],
                        values=values.get(place),
                    )
                )

    def _put(self, look: Look) -> None:
        self.looks[look.stage, look.index] = look
        self.touched.add((look.stage, look.index))


def windows(opened: datetime, until: datetime, look_seconds: float) -> list[Window]:
    """Whole looks between two times."""
    length = timedelta(seconds=look_seconds)
    count = max(0, (until - opened) // length)
    return [Window(i, opened + i * length, opened + (i + 1) * length) for i in range(count)]


def _place(window: StageWindow) -> tuple[int, int]:
    return window.stage, window.window.index


def _by_stage(parts: Sequence[StageWindow]) -> dict[int, list[Window]]:
    stages: dict[int, list[Window]] = {}
    for part in parts:
        stages.setdefault(part.stage, []).append(part.window)
    return stages
