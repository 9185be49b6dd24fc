"""The metrics by name, made when Prometheus asks, from the counts and from what the parts say of themselves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

_PREFIX = "model_rollouts_gateway_"
_STATES = ("ready", "loading", "failed")
_ROLES = ("champion", "challenger", "previous")

_log = structlog.get_logger(__name__)


class Histogram:
    """Counts by upper bound; the last one is of what is above all of them."""

    __slots__ = ("bounds", "buckets", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1)
        self.total = 0.0

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus has it: bound and how many are at or below it."""
        running, pairs = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], list(self.buckets), strict=True):
            running += count
            pairs.append((bound, float(running)))
        return pairs


@dataclass(slots=True)
class Counts:
    """What requests leave behind."""

    rows: dict[tuple[str, str, str, str, bool], int] = field(default_factory=dict)
    latency: dict[tuple[str, str, str], Histogram] = field(default_factory=dict)
    requests: dict[tuple[str, int], int] = field(default_factory=dict)
    callers: dict[tuple[str, str], int] = field(default_factory=dict)
    fallbacks: dict[tuple[str, str], int] = field(default_factory=dict)
    overloads: dict[tuple[str, str], int] = field(default_factory=dict)
    batches: dict[tuple[str, str], Histogram] = field(default_factory=dict)


class FollowerSource(Protocol):
    """See `Follower`."""

    @property
    def models(self) -> list[str]:
        """See `Follower`."""

    @property
    def healthy(self) -> bool:
        """See `Follower`."""

    def follows(self, model: str) -> bool:
        """See `Follower`."""

    def status(self, model: str) -> dict[str, Any]:
        """See `Follower`."""

    def store_status(self) -> dict[str, Any]:
        """See `Follower`."""


class SpoolSource(Protocol):
    """See `Spool`."""

    def status(self) -> dict[str, Any]:
        """See `Spool`."""


class MirrorSource(Protocol):
    """See `Mirror`."""

    def status(self, model: str | None = None) -> dict[str, int]:
        """See `Mirror`."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The parts that know how they are.

    Attributes:
        follower: Models, versions, the traffic.
        spool: The way to the log.
        mirror: What is scored a second time.
        tripped: Whether a rollout's breaker is (`Breakers.tripped`).
        upstreams: (model, version) -> why its own server can't score now; None: it can (`Upstreams.problems`).
        tokens_ok: Whether the file of tokens, as it is now, is in force; True where there is none.
    """

    follower: FollowerSource
    spool: SpoolSource
    mirror: MirrorSource
    tripped: Callable[[str | None], bool] = lambda _: False
    upstreams: Callable[[], Mapping[tuple[str, str], str | None]] = dict
    tokens_ok: Callable[[], bool] = lambda: True


class Families(Collector):
    """Everything but what the process is made of.

    Args:
        gateway_id: The process.
        counts: What requests leave behind.
        sources: The parts.
        lag: Seconds that the event loop was late, at most, lately.
    """

    def __init__(self, gateway_id: str, counts: Counts, sources: Sources, lag: Callable[[], float]) -> None:
        self._gateway_id = gateway_id
        self._counts = counts
        self._sources = sources
        self._lag = lag
        self._failed = 0

    def describe(self) -> list[Metric]:
        """Nothing: names are checked by the tests, and the parts may not have started."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families. A part that can't say how it is costs its own families, and is counted.

        Any thread may call it, so what requests change meanwhile is copied first.
        """
        for part in (self._of_requests, self._of_models, self._of_log, self._of_process):
            try:
                families = list(part())
            except Exception:
                self._failed += 1
                _log.exception("metrics_part_failed", part=part.__name__)
            else:
                yield from families
        yield _counter("metrics_failures", "Parts of a scrape that failed", {(): self._failed})

    def _of_requests(self) -> Iterator[Metric]:
        counts = self._counts
        rows = {(m, v, a, s, str(served).lower()): n for (m, v, a, s, served), n in dict(counts.rows).items()}
        labels = ("model", "version", "arm")
        yield _counter("predictions", "Rows scored, or failed on", rows, *labels, "status", "served")
        yield _histogram("latency_seconds", "From taking a request to a version's answer", counts.latency, *labels)
        requests = {(model, str(code)): count for (model, code), count in dict(counts.requests).items()}
        yield _counter("requests", "Requests for predictions, by HTTP status", requests, "model", "code")
        callers = dict(counts.callers)
        yield _counter(
            "caller_requests", "Calls by the name of their token, and whether they may", callers, "token", "answer"
        )
        for name, text, values in (
            ("fallbacks", "Rows that the champion answered for a challenger", counts.fallbacks),
            ("overloads", "Rows refused because too many wait for a version", counts.overloads),
        ):
            yield _counter(name, text, values, "model", "version")
        yield _histogram("batch_rows", "Rows in one call of a version", counts.batches, "model", "version")

    def _of_models(self) -> Iterator[Metric]:
        follower, mirror = self._sources.follower, self._sources.mirror
        statuses = {(model,): follower.status(model) for model in follower.models if follower.follows(model)}
        followed = {key: status["revision"] for key, status in statuses.items()}
        routed = {key: status["routed_revision"] for key, status in statuses.items()}
        shares = {key: status["share"] for key, status in statuses.items()}
        tripped = {key: self._sources.tripped(status["rollout_id"]) for key, status in statuses.items()}
        yield _gauge("traffic_followed_revision", "Revision of the traffic row, as last read", followed, "model")
        known = {key: revision for key, revision in routed.items() if revision is not None}
        yield _gauge("traffic_routed_revision", "Revision that requests are routed by", known, "model")
        yield _gauge("traffic_share_percent", "The challenger's share of the units", shares, "model")
        yield _gauge("breaker_open", "Whether the breaker has taken the challenger out", tripped, "model")
        states = {
            (model, version, _role(status, version), state): float(said.startswith(state))
            for (model,), status in statuses.items()
            for version, said in status["versions"].items()
            for state in _STATES
        }
        yield _gauge("version_state", "1 for the state a version is in", states, "model", "version", "role", "state")
        up = {key: problem is None for key, problem in self._sources.upstreams().items()}
        yield _gauge("upstream_up", "Whether a version's own server is ready", up, "model", "version")
        mirrored = {key: mirror.status(key[0]) for key in statuses}
        waiting = {key: status["waiting"] for key, status in mirrored.items()}
        yield _gauge("mirror_waiting_requests", "Requests that wait to be mirrored", waiting, "model")
        for name, text in (("mirrored", "Requests scored a second time"), ("dropped", "Requests not mirrored")):
            done = {key: status[name] for key, status in mirrored.items()}
            yield _counter(f"mirror_{name}_requests", text, done, "model")

    def _of_log(self) -> Iterator[Metric]:
        spool = self._sources.spool.status()
        yield _gauge("spool_bytes", "Answered rows that the log has not taken", {(): spool["bytes"]})
        yield _gauge("spool_max_bytes", "Spool size at which logging fails", {(): spool["max_bytes"]})
        yield _gauge("spool_segments", "Segments that wait for the log", {(): spool["segments"]})
        yield _gauge("log_up", "Whether the log took the last commit", {(): spool["error"] is None})
        lag = spool["flushed_seconds_ago"]
        yield _gauge("log_lag_seconds", "Since everything was in the log", {} if lag is None else {(): lag})
        slowest = spool["slowest_write_ms"] / 1000
        yield _gauge("spool_slowest_write_seconds", "Slowest write of the last ten to twenty seconds", {(): slowest})
        unlogged = {(model,): about["rows"] for model, about in spool["unlogged"].items()}
        yield _counter("unlogged_rows", "Rows answered that the log will never have", unlogged, "model")

    def _of_process(self) -> Iterator[Metric]:
        follower = self._sources.follower
        about = InfoMetricFamily(f"{_PREFIX.rstrip('_')}", "The process")
        about.add_metric([], {"gateway_id": self._gateway_id})
        yield about
        store = follower.store_status()
        age = store["polled_seconds_ago"]
        yield _gauge("tokens_file_ok", "Whether the file of tokens is in force", {(): self._sources.tokens_ok()})
        yield _gauge("healthy", "Whether every configured model is served", {(): follower.healthy})
        yield _gauge("store_up", "Whether the traffic table could be read", {(): store["ok"]})
        yield _gauge("store_age_seconds", "Since the table was read", {} if age is None else {(): age})
        yield _gauge("event_loop_lag_seconds", "Most the event loop was late in half a minute", {(): self._lag()})


def _gauge(name: str, text: str, values: Mapping[Any, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, float(value))
    return family


def _counter(name: str, text: str, values: Mapping[Any, int], *labels: str) -> Metric:
    family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in dict(values).items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, text: str, values: Mapping[Any, Histogram], *labels: str) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=labels)
    for key, histogram in dict(values).items():
        family.add_metric(key, histogram.cumulative(), histogram.total)
    return family


def _role(status: Mapping[str, Any], version: str) -> str:
    return next((role for role in _ROLES if status.get(role) == version), "")
