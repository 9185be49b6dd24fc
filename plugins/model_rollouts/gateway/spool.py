"""The log path: rows go to the spool before a request is answered, and from there to the log, exactly once.

A writer thread seals the segments every `flush_seconds` and commits each as one transaction whose version is the
segment's number. A segment that is committed again after a crash is recognised by the log and skipped. Segments of a
table are committed in the order of their numbers, and the first that fails holds up those behind it: the log would
take a lower number that comes later for a repetition. A segment has at most 8 MB and the rows of one request more, so
what has piled up in an outage goes out in pieces of that size, one after the other.

A write goes to the page cache, on the event loop: handing it to a thread would cost every request more than the write
does. A disk that is so slow that the kernel makes writers wait holds up requests; `slowest_write_ms` of the status
shows it.
"""

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import structlog

from model_rollouts.gateway.errors import LogUnavailableError
from model_rollouts.gateway.segments import encoded
from model_rollouts.gateway.sent_marks import Receipt
from model_rollouts.gateway.shipments import OpenWriter, Orphans, Shipment, Table, quoted, try_lock
from model_rollouts.gateway.unlogged import Unlogged, UnloggedRows

CLOSE_SECONDS = 10.0
OnLogFailure = Literal["refuse", "serve"]
_NEARLY = 0.8  # of the largest size
_LONG_SECONDS = 10.0  # a commit that takes longer is told as an error

_log = structlog.get_logger(__name__)


class SpoolInUseError(Exception):
    """Another process writes under the same gateway id."""


class Spool:
    """One process's spool.

    Args:
        root: Folder of all spools of this machine; each gateway id has one of its own in it. What other ids left
            behind, and no process holds, is committed too, under their ids: a host name that changes with every
            container must not strand rows.
        gateway_id: This process, the same after restarts.
        open_writer: A writer for an application id.
        flush_seconds: Time between commits.
        max_bytes: Size at which nothing more is taken.
        on_failure: What becomes of answers whose rows can't be kept: "refuse" raises, so that they are not given;
            "serve" lets them go out and counts their rows. Outcomes are refused in any case: their sender keeps them.
        on_unlogged: Told model, rows and reason of what is served without being logged, on the thread that appends.
        siblings: Ids of processes that are started with this one, and commit what they left behind themselves.

    Raises:
        SpoolInUseError: Another process holds this id.
    """

    def __init__(
        self,
        root: Path,
        gateway_id: str,
        open_writer: OpenWriter,
        flush_seconds: float,
        max_bytes: int,
        *,
        on_failure: OnLogFailure = "refuse",
        on_unlogged: Callable[[str, int, str], None] | None = None,
        siblings: Collection[str] = (),
    ) -> None:
        self._flush_seconds = flush_seconds
        self._max_bytes = max_bytes
        self._serve = on_failure == "serve"
        self._unlogged = UnloggedRows(on_unlogged)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._flushing = threading.Lock()
        self._error: str | None = None
        self._flushed_at: float | None = None
        root.mkdir(parents=True, exist_ok=True)
        own = try_lock(root / quoted(gateway_id))
        if own is None:
            raise SpoolInUseError(
                f"another process uses gateway id {gateway_id} and its spool in {root}; "
                "give each process its own MODEL_ROLLOUTS_GATEWAY_ID"
            )
        self._own = Shipment(root / quoted(gateway_id), own, gateway_id, open_writer)
        self._orphans = Orphans(root, {gateway_id, *siblings}, open_writer)

    def start(self) -> None:
        """Begin to commit, with what earlier processes left behind first."""
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    @property
    def nearly_full(self) -> bool:
        """Whether what room is left should be kept for answers that callers wait for."""
        return self._own.bytes >= _NEARLY * self._max_bytes

    def check(self) -> None:
        """Refuse before anything is scored what could not be logged and so would not be answered.

        Raises:
            LogUnavailableError: The spool is full, and answers are not to be given without being logged.
        """
        if not self._serve:
            self._refuse_when_full()

    def _refuse_when_full(self) -> None:
        size = self._own.bytes
        if size >= self._max_bytes:
            raise LogUnavailableError(
                f"the spool holds {size} bytes that the log has not taken, must be below {self._max_bytes}; "
                f"bring the log back ({self._problem() or 'it is slower than the traffic'})"
            )

    def append(self, model: str, table: Table, rows: Sequence[Mapping[str, Any]]) -> Receipt | None:
        """Put rows where they survive the process: all of them, or none.

        Returns:
            The receipt of predictions that are kept, to be told when their answer has gone out.

        Raises:
            LogUnavailableError: The spool is full, or the disk does not take them; see `on_failure`.
            TypeError: A row holds what is no JSON.
        """
        return self.append_lines(model, table, encoded(rows))

    def append_lines(self, model: str, table: Table, lines: bytes) -> Receipt | None:
        """The same with rows that are JSON lines already, each an object that ends in a newline.

        Raises:
            LogUnavailableError: As for `append`.
            ValueError: The last line has no newline.
        """
        try:
            return self._keep(model, table, lines)
        except LogUnavailableError as error:
            if not self._serve or table != "predictions":
                raise
            self._unlogged.add(model, lines.count(b"\n"), str(error))
            return None

    def _keep(self, model: str, table: Table, lines: bytes) -> Receipt | None:
        self._refuse_when_full()
        try:
            return self._own.log(model, table).append_lines(lines)
        except OSError as error:
            what = "answer" if table == "predictions" else "outcome"
            raise LogUnavailableError(f"the {what} can't be logged: {error}") from error

    def unlogged(self) -> dict[str, Unlogged]:
        """By model, what was answered and is not in the log, since the process started."""
        return self._unlogged.by_model()

    def backlog_seconds(self, model: str) -> float:
        """How long the oldest row of a model has been waiting for the log; 0: none is. Looks wait for it."""
        shipments: list[Shipment] = [self._own, *self._orphans]
        return max(shipment.oldest_seconds(model) for shipment in shipments)

    def status(self) -> dict[str, Any]:
        """Backlog, the last error, seconds since everything was in the log, and what is not in it.

        `slowest_write_ms` is that of the writes of the last ten to twenty seconds.
        """
        shipments = [self._own, *self._orphans]
        age = None if self._flushed_at is None else round(time.monotonic() - self._flushed_at, 3)
        return {
            "bytes": sum(s.bytes for s in shipments),
            "segments": sum(s.segments for s in shipments),
            "max_bytes": self._max_bytes,
            "torn_lines": sum(s.torn for s in shipments),
            "damaged_lines": sum(s.damaged for s in shipments),
            "inherited_from": [s.gateway_id for s in self._orphans],
            "flushed_seconds_ago": age,
            "error": self._problem(),
            "slowest_write_ms": round(self._own.slowest_write_seconds * 1000, 3),
            "unlogged": self._unlogged.status(),
        }

    def _problem(self) -> str | None:
        seconds = max(shipment.commit_seconds for shipment in (self._own, *self._orphans))
        if seconds < _LONG_SECONDS:
            return self._error
        return f"the log has not answered for {seconds:.0f} s; see whether it hangs"

    def flush(self) -> bool:
        """Commit everything that was appended before the call; False when the log does not take it."""
        with self._flushing:
            errors = [*self._own.ship(), *self._orphans.ship()]
        if errors:
            if self._error != errors[0]:
                _log.error("log_away", error=errors[0])
            self._error = errors[0]
            return False
        if self._error:
            _log.info("log_back")
        self._error, self._flushed_at = None, time.monotonic()
        return True

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Commit what is left and let go of the folder. What the log does not take stays for the next start.

        Args:
            seconds: For all of it. Where the log hangs longer, the folder stays locked until the process ends.
        """
        self._stop.set()
        if self._thread is None:
            self.start()
        assert self._thread is not None  # noqa: S101  # for the type checker: it has been started
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.error("spool_left_behind", error=f"not done after {seconds:g} s", bytes=self._own.bytes)
            return
        if self._error is not None:
            _log.error("spool_left_behind", error=self._error, bytes=self._own.bytes)
        self._own.release()
        self._orphans.release()

    def _work(self) -> None:
        last = False
        while True:
            try:
                self.flush()
            except Exception as error:  # nothing may end this thread: rows would pile up unseen
                self._error = f"{type(error).__name__}: {error}"
                _log.exception("flush_failed")
            if last:
                return
            last = self._stop.wait(self._flush_seconds)  # once more then, for what came since
