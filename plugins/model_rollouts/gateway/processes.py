"""Several gateway processes on one port: starts them, starts those again that die, ends them together.

Each process has an id, a spool and an address of its own (the port's successors), because operators ask every process
how it is (MODEL_ROLLOUTS_GATEWAY_URL holds those addresses), and takes its part of the shared port's connections
(`serving.py`) once it can answer. The supervisor itself serves nothing and loads nothing.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

import structlog

from model_rollouts.gateway.serving import AddressInUseError, bind
from model_rollouts.gateway.settings import GatewaySettings
from model_rollouts.gateway.spool import CLOSE_SECONDS

SUPERVISED = "--supervised"

_FIRST_WAIT, _MOST_WAIT = 0.5, 30.0
_STEADY_SECONDS = 60.0  # who lived this long starts again at once
_LOOK_SECONDS = 0.1
_COMMIT_SECONDS = CLOSE_SECONDS + 5.0  # after the drain, for what is left in the spool and to be reported

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Worker:
    number: int
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    start_at: float = 0.0
    wait: float = _FIRST_WAIT


class Supervisor:
    """Keeps processes running.

    Args:
        settings: Of all of them; `port` is the one that they share, `processes` how many they are.
        command: What each one is; told by its environment who it is, and to end when its standard input does.
    """

    def __init__(self, settings: GatewaySettings, command: Sequence[str] = ()) -> None:
        self._settings = settings
        self._command = command or (sys.executable, "-m", "model_rollouts.gateway.main", SUPERVISED)
        self._workers = [_Worker(number) for number in range(settings.processes)]
        self._stop = threading.Event()

    def run(self) -> bool:
        """Supervise until SIGTERM or SIGINT; whether all processes then ended by themselves.

        Raises:
            AddressInUseError: Somebody else listens on the shared port or on a process's own.
        """
        host, port = self._settings.host, self._settings.port
        ports = [port + 1 + worker.number for worker in self._workers]
        for each in (port, *ports):  # alone: SO_REUSEPORT would join another gateway without a word
            for probe in bind(host, each):
                probe.close()
        reserved = bind(host, port, shared=True)  # nobody else gets it while no process is ready
        before = {sig: signal.signal(sig, self._ask_to_stop) for sig in (signal.SIGTERM, signal.SIGINT)}
        try:
            _log.info("supervisor_started", port=port, own_ports=ports)
            while not self._stop.is_set():
                for worker in self._workers:
                    self._look_after(worker)
                self._stop.wait(_LOOK_SECONDS)
            return self._end()
        finally:
            for worker in self._workers:
                if worker.process is not None and worker.process.poll() is None:
                    worker.process.kill()
                    worker.process.wait()
            for sig, handler in before.items():
                signal.signal(sig, handler)
            for held in reserved:
                held.close()

    def stop(self) -> None:
        """End, as on SIGTERM. For threads and tests."""
        self._stop.set()

    def _ask_to_stop(self, _: int, __: FrameType | None) -> None:
        self._stop.set()

    def _look_after(self, worker: _Worker) -> None:
        now = time.monotonic()
        if worker.process is not None:
            code = worker.process.poll()
            if code is None:
                return
            _close_stdin(worker.process)
            worker.process = None
            if now - worker.started >= _STEADY_SECONDS:
                worker.wait = _FIRST_WAIT
            worker.start_at = now + worker.wait
            _log.error("process_ended", gateway_id=self._id(worker), code=code, restart_seconds=worker.wait)
            worker.wait = min(2 * worker.wait, _MOST_WAIT)
        if now >= worker.start_at:
            worker.process, worker.started = self._start(worker), now

    def _id(self, worker: _Worker) -> str:
        return f"{self._settings.gateway_id}-{worker.number}"

    def _start(self, worker: _Worker) -> "subprocess.Popen[bytes]":
        port = self._settings.port + 1 + worker.number
        own = {
            "MODEL_ROLLOUTS_GATEWAY_ID": self._id(worker),
            "MODEL_ROLLOUTS_PORT": str(port),
            "MODEL_ROLLOUTS_SHARED_PORT": str(self._settings.port),
            "MODEL_ROLLOUTS_PROCESSES": "1",
            "MODEL_ROLLOUTS_SIBLING_IDS": json.dumps([self._id(each) for each in self._workers]),
        }
        _log.info("process_starts", gateway_id=self._id(worker), port=port)
        return subprocess.Popen(self._command, env=os.environ | own, stdin=subprocess.PIPE)

    def _end(self) -> bool:
        """Have all of them end; those that are not done in time are killed."""
        settings = self._settings
        seconds = settings.drain_notice_seconds + settings.drain_seconds + _COMMIT_SECONDS
        running = [(worker, worker.process) for worker in self._workers if worker.process is not None]
        for _, process in running:
            process.send_signal(signal.SIGTERM)
        until, clean = time.monotonic() + seconds, True
        for worker, process in running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _log.error("process_killed", gateway_id=self._id(worker), after_seconds=seconds)
                process.kill()
                process.wait()
                clean = False
            _close_stdin(process)
        return clean


def supervise(settings: GatewaySettings) -> None:
    """Run several gateway processes until SIGTERM; they share the port, and each has one of its own beside it.

    Args:
        settings: Of all of them.

    Raises:
        SystemExit: The address is taken, or a process had to be killed.
    """
    try:
        clean = Supervisor(settings).run()
    except AddressInUseError as error:
        raise SystemExit(str(error)) from error
    if not clean:
        raise SystemExit(
            "a gateway process did not end in time and was killed; its spool is committed at the next start"
        )


def _close_stdin(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()
