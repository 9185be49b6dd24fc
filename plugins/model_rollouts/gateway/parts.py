"""All parts of one serving process: made here, wired here, started and stopped together."""

import asyncio
import gc
import threading
from dataclasses import dataclass
from functools import partial
from typing import Self

from model_rollouts.gateway import environment
from model_rollouts.gateway.breakers import Breakers
from model_rollouts.gateway.callers import Callers
from model_rollouts.gateway.dataplane import DataPlane
from model_rollouts.gateway.follower import Follower
from model_rollouts.gateway.loading import MlflowLoader
from model_rollouts.gateway.log_writer import open_writer
from model_rollouts.gateway.memory import MB, MemoryLimit
from model_rollouts.gateway.metrics import Metrics, Recorder
from model_rollouts.gateway.metrics_families import Sources
from model_rollouts.gateway.mirror import Mirror
from model_rollouts.gateway.missing_evidence import MissingEvidence
from model_rollouts.gateway.reporter import Reporter
from model_rollouts.gateway.serving import Leave
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.shipments import left_behind, quoted
from model_rollouts.gateway.spool import Spool
from model_rollouts.gateway.upstream import Upstreams
from model_rollouts.wiring import Wiring

_REPORTS = "reports.json"
_GC_THRESHOLD = (20_000, 20, 20)  # requests leave little that only the collector finds; looking for it takes time


@dataclass(frozen=True)
class Parts:
    """What a process is made of.

    Attributes:
        settings: Of this process.
        leave: How far its end is.
        follower: Who serves what.
        plane: Answers calls.
        spool: The way to the log.
        mirror: Scores a second time.
        reporter: Tells the store what was found out.
        metrics: What is counted.
        upstreams: Versions with servers of their own.
        loader: Loads the others.
        callers: Who may call.
    """

    settings: GatewaySettings
    leave: Leave
    follower: Follower
    plane: DataPlane
    spool: Spool
    mirror: Mirror
    reporter: Reporter
    metrics: Metrics
    upstreams: Upstreams
    loader: MlflowLoader
    callers: Callers

    @classmethod
    def of(cls, settings: GatewaySettings, leave: Leave) -> Self:
        """Make them; none has started.

        Raises:
            SpoolInUseError: Another process runs under the same gateway id.
            TokensError: The file of tokens can't be read.
        """
        wiring = Wiring(settings)
        actor = f"gateway {settings.gateway_id}"
        recorder = Recorder(lambda model: follower.follows(model))  # noqa: PLW0108  # made below
        in_process = MlflowLoader(
            settings.mlflow_tracking_uri,
            settings.max_batch_rows,
            settings.max_waiting_rows,
            settings.batch_wait_ms / 1000,
            recorder.batch,
            settings.flavours,
        )
        upstreams = Upstreams(in_process, settings, recorder.batch)
        kept = settings.spool_dir / quoted(settings.gateway_id) / _REPORTS
        others = partial(left_behind, settings.spool_dir, {settings.gateway_id, *settings.sibling_ids}, _REPORTS)
        reporter = Reporter(lambda: wiring.service, actor, settings.retry_seconds, kept, others)
        follower = Follower(
            poll=lambda: wiring.store.all_traffic(),  # noqa: PLW0108  # the store is opened with the first poll, not now
            adopt=lambda model: wiring.service.adopt(model, actor=actor),
            loader=upstreams,
            models=settings.models,
            poll_seconds=settings.poll_seconds,
            retry_seconds=settings.retry_seconds,
            settled=_FreezeOnce(),
            memory=MemoryLimit(settings.max_memory_mb * MB, upstreams.size) if settings.max_memory_mb else None,
            on_evicted=lambda *evicted: _roll_back_evicted(follower, reporter, *evicted),
        )
        spool = Spool(
            settings.spool_dir,
            settings.gateway_id,
            partial(open_writer, wiring.log_root),
            settings.flush_seconds,
            settings.max_spool_bytes,
            on_failure=settings.on_log_failure,
            on_unlogged=MissingEvidence(follower.in_force, reporter.hold).unlogged,
            siblings=settings.sibling_ids,
        )
        mirror = Mirror(spool, follower.in_force, recorder, settings)
        breakers = Breakers(settings.breaker_failures, settings.challenger_timeout_seconds, reporter.roll_back)
        plane = DataPlane(follower, spool, mirror, breakers, recorder, settings)
        callers = Callers.of(settings, recorder.caller)
        sources = Sources(
            follower, spool, mirror, breakers.tripped, upstreams.problems, lambda: callers.problem is None
        )
        metrics = Metrics(settings.gateway_id, recorder, sources)
        return cls(settings, leave, follower, plane, spool, mirror, reporter, metrics, upstreams, in_process, callers)

    async def start(self) -> None:
        """Begin; needs the running loop."""
        self.spool.start()
        await asyncio.to_thread(_import_mlflow)
        self.reporter.start()
        self.upstreams.start()
        self.follower.start()
        self.mirror.start()
        self.metrics.start()
        self.callers.start()
        await asyncio.to_thread(environment.packages)  # now, and not while callers wait

    async def close(self) -> None:
        """Finish what is open, and commit what was answered."""
        self.callers.stop()
        self.follower.stop()
        await self.mirror.close(self.leave.remaining())
        await self.upstreams.close()
        await self.metrics.close()
        await asyncio.to_thread(self.loader.close)
        await asyncio.to_thread(self.spool.close)
        await asyncio.to_thread(self.reporter.stop)  # last: what was done until now may be worth a report


def _import_mlflow() -> None:
    """Before any thread needs it: two that import it at once deadlock, and leave half of it behind for good."""
    import mlflow.pyfunc  # noqa: F401


def _roll_back_evicted(follower: Follower, reporter: Reporter, model: str, version: str, reason: str) -> None:
    """A challenger that this process could not keep loaded is no candidate for all of the traffic."""
    traffic = follower.in_force(model)
    if traffic is not None and traffic.rollout_id is not None and traffic.challenger == version:
        evidence = {"evicted": {"version": version, "stage": traffic.stage, "reason": reason}}
        reporter.roll_back(traffic.rollout_id, f"version {version} of {model} can't be kept loaded: {reason}", evidence)


class _FreezeOnce:
    """Takes what is loaded out of the garbage collector's sight, so that it never stalls a request to look at it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if not self._done:
                gc.collect()
                gc.freeze()
                gc.set_threshold(*_GC_THRESHOLD)
                self._done = True
