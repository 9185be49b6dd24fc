"""Segments on their way from a spool's folder to the log, and whose folder is whose."""

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote, unquote

import structlog

from model_rollouts.adapters.json_lines import JsonLines
from model_rollouts.gateway.segments import SegmentLog

Table = Literal["predictions", "outcomes"]
_TABLES: tuple[Table, ...] = ("predictions", "outcomes")
_ROLL_BYTES = 8 * 1024 * 1024
_SENDING_SECONDS = 1.0  # an answer that has not gone out so long after its segment was closed counts as not served
_SENDING_POLL_SECONDS = 0.002
_AGAIN_SECONDS = 30.0  # between two tries with what another id left behind

_log = structlog.get_logger(__name__)


class LogWriter(Protocol):
    """Appends to the log, recognising what it has appended before."""

    def append(self, model: str, table: Table, rows: Sequence[Mapping[str, Any]], version: int) -> bool:
        """Commit rows; False when this version was committed already."""


OpenWriter = Callable[[str], LogWriter]


class Shipment:
    """The segments of one gateway id on their way to the log.

    Args:
        folder: That id's.
        lock: Its descriptor; see `try_lock`.
        gateway_id: Who wrote them.
        open_writer: A writer for an application id.
    """

    def __init__(self, folder: Path, lock: int, gateway_id: str, open_writer: OpenWriter) -> None:
        self.gateway_id = gateway_id
        self.torn = 0
        self.damaged = 0
        self._commit_began: float | None = None
        self._folder = folder
        self._lock = lock
        self._open_writer = open_writer
        self._writer: LogWriter | None = None
        self._logs: Mapping[tuple[str, Table], SegmentLog] = {}  # never changed, only replaced: other threads read it
        self._attempted: set[tuple[str, Table, int]] = set()
        for model in sorted(path.name for path in folder.iterdir() if path.is_dir()):
            for table in _TABLES:
                if (folder / model / table).is_dir():
                    self.log(unquote(model), table)

    @property
    def bytes(self) -> int:
        """Size of what the log does not have yet."""
        return sum(log.size for log in self._logs.values())

    @property
    def segments(self) -> int:
        """Sealed segments that the log does not have yet."""
        return sum(len(log.sealed()) for log in self._logs.values())

    def oldest_seconds(self, model: str) -> float:
        """How long the oldest row of a model has been here, of either table; 0: the log has all of them."""
        return max((log.oldest_seconds for (of, _), log in self._logs.items() if of == model), default=0.0)

    @property
    def slowest_write_seconds(self) -> float:
        """Of the writes lately; see `SegmentLog`."""
        return max((log.slowest_write_seconds for log in self._logs.values()), default=0.0)

    @property
    def commit_seconds(self) -> float:
        """How long the commit has taken that is under way; 0: none is."""
        began = self._commit_began
        return 0.0 if began is None else time.monotonic() - began

    def log(self, model: str, table: Table) -> SegmentLog:
        """The segments of a model's table."""
        known = self._logs.get((model, table))
        if known is not None:
            return known
        folder = self._folder / quoted(model) / table
        log = SegmentLog(folder, _ROLL_BYTES, marked=table == "predictions")
        self._attempted.update((model, table, number) for number in log.inherited)
        self._logs = {**self._logs, (model, table): log}
        return log

    def ship(self) -> list[str]:
        """Commit everything, each table's segments in order; the errors of the tables that are held up."""
        errors: dict[tuple[str, Table], str] = {}
        self._commit_sealed(errors)
        # Sealed only now: while the log is away, one segment grows instead of many small ones.
        for key, log in self._logs.items():
            if key not in errors:
                log.seal()
        self._commit_sealed(errors)
        return list(errors.values())

    def _commit_sealed(self, errors: dict[tuple[str, Table], str]) -> None:
        """Commit the sealed segments of the tables without errors; answers under way are waited for once, for all."""
        sealed = [(key, log, log.sealed()) for key, log in self._logs.items() if key not in errors]
        until = time.monotonic() + _SENDING_SECONDS
        for (model, table), log, numbers in sealed:
            try:
                for number in numbers:
                    self._commit(model, table, log, number, until)
            except Exception as error:
                errors[model, table] = f"{table} of {model}: {type(error).__name__}: {error}"[:500]

    def _commit(self, model: str, table: Table, log: SegmentLog, number: int, until: float) -> None:
        while not log.all_sent(number) and time.monotonic() < until:
            time.sleep(_SENDING_POLL_SECONDS)
        contents = log.read(number)
        rows, tried = contents.rows, (model, table, number)
        if rows:
            self._hand_over(tried, rows)
        if contents.torn_bytes:
            self.torn += 1
            _log.warning("torn_line_cut", model=model, table=table, segment=number, bytes=contents.torn_bytes)
        if rows.damaged:
            log.keep_aside(number)
            self.damaged += rows.damaged
            _log.error("damaged_lines_kept_aside", model=model, table=table, segment=number, lines=rows.damaged)
        log.drop(number)
        self._attempted.discard(tried)

    def _hand_over(self, tried: tuple[str, Table, int], rows: JsonLines) -> None:
        model, table, number = tried
        known = tried in self._attempted
        self._commit_began = time.monotonic()
        try:
            if self._writer is None:
                self._writer = self._open_writer(self.gateway_id)
            self._attempted.add(tried)  # first: the log may have taken it even when the call fails
            if self._writer.append(model, table, rows, number):
                return
        finally:
            self._commit_began = None
        # Decoded now, to see what is damaged: the log did not look at rows that it has already.
        if rows.decoded() and not known:
            self._attempted.discard(tried)
            raise RuntimeError(
                f"the log has seen segment {number} of {self.gateway_id}, which was never sent: the clock went "
                "back and the spool's counter is lost. Set another MODEL_ROLLOUTS_GATEWAY_ID"
            )

    def release(self) -> None:
        """Let go of the folder."""
        for log in self._logs.values():
            log.seal()
        os.close(self._lock)


class Orphans:
    """What other ids left behind in the folder of all spools, and no process held when this one started.

    A folder is let go of when the log does not take what is in it, so that a process with its id can start meanwhile.

    Args:
        root: Folder of all spools.
        not_of: Ids whose folders are left alone: this process's, and those that start with it.
        open_writer: A writer for an application id.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        root: Path,
        not_of: Collection[str],
        open_writer: OpenWriter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_writer = open_writer
        self._clock = clock
        self._again_at = clock()
        left_alone = {quoted(gateway_id) for gateway_id in not_of}
        folders = sorted(path for path in root.iterdir() if path.is_dir() and path.name not in left_alone)
        self._held = {folder: shipment for folder in folders if (shipment := self._taken(folder))}
        self._let_go: dict[Path, Shipment] = {}
        self._errors: list[str] = []

    def __iter__(self) -> Iterator[Shipment]:
        """Those that are left, as they were last seen."""
        return iter([*self._held.values(), *self._let_go.values()])

    def ship(self) -> list[str]:
        """Commit what is due; the errors of the last try."""
        if self._clock() >= self._again_at:
            for folder in list(self._let_go):
                if shipment := self._taken(folder):  # else a process has come for it, and has it now
                    self._held[folder] = shipment
                del self._let_go[folder]
        if self._held or not self._let_go:
            self._errors = []
        for folder, shipment in list(self._held.items()):
            self._errors += shipment.ship()
            shipment.release()
            if shipment.segments:
                self._let_go[folder] = shipment
                self._again_at = self._clock() + _AGAIN_SECONDS
            del self._held[folder]
        return self._errors

    def release(self) -> None:
        """Let go of all folders."""
        for shipment in self._held.values():
            shipment.release()

    def _taken(self, folder: Path) -> Shipment | None:
        lock = try_lock(folder)
        if lock is None:
            return None
        shipment = Shipment(folder, lock, unquote(folder.name), self._open_writer)
        if shipment.segments:
            return shipment
        shipment.release()
        return None


def left_behind(root: Path, not_of: Collection[str], name: str) -> Iterator[Path]:
    """A file of each id whose folder no process holds; this process holds it while the file is looked at.

    Args:
        root: Folder of all spools.
        not_of: Ids whose folders are left alone.
        name: Of the file.
    """
    left_alone = {quoted(gateway_id) for gateway_id in not_of}
    for file in sorted(root.glob(f"*/{name}")):
        if file.parent.name in left_alone or (lock := try_lock(file.parent)) is None:
            continue
        try:
            yield file
        finally:
            os.close(lock)


def try_lock(folder: Path) -> int | None:
    """The lock's descriptor, or None while a process holds it. The kernel lets go when the process dies."""
    folder.mkdir(exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def quoted(name: str) -> str:
    """A name as that of a folder."""
    return quote(name, safe="").replace(".", "%2E")  # a name of dots alone would be another folder
