"""Runs one command and ends everything it ever started, whatever happens to whoever asked for it.

Started by `processes.py` as `python -I -S guard.py <grace seconds> <command...>`, in a session of its own, with a pipe
as standard input whose other end only the driver holds. The command's whole family ends when

- the command itself ends (Airflow standalone leaves some thirty children behind),
- the guard gets SIGTERM, or
- the pipe closes: the driver is gone, even by kill -9, which no handler of its own could see.

On Linux the guard is the subreaper of its descendants: one that left its process group, or lost its parent, is still
found. Elsewhere the process group has to do. The standard library only: every service pays for its guard.
"""

import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.05


def main() -> int:
    """Run the command; gives its exit code, or 128 + n when signal n ended it."""
    grace, command = float(sys.argv[1]), sys.argv[2:]
    adopts = _adopt_orphans()
    asked, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    try:
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=_NO_INPUT, setsigdef=_HANDLED)
    except OSError as error:
        print(f"{command[0]} can't be started: {error}", file=sys.stderr)
        return 127
    code: int | None = None
    while code is None and not _told_to_stop(asked):
        code = _reap(child)
    _end_family(grace, adopts, child if code is None else None)
    return code if code is not None else 128 + signal.SIGTERM


# The command starts with nothing to read and with no signal of the guard's.
_NO_INPUT = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
_HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def _adopt_orphans() -> bool:
    """Become the parent of descendants that lose theirs. Linux only."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def _told_to_stop(asked: int) -> bool:
    """Wait for a signal or for the driver's end; True for a signal that asks to stop, and for the driver's end."""
    ready, _, _ = select.select([asked, 0], [], [])
    if 0 in ready and not os.read(0, 1024):
        return True
    return asked in ready and any(number != signal.SIGCHLD for number in os.read(asked, 64))


def _reap(child: int) -> int | None:
    """Collect whoever has ended; the command's exit code if it was among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            code = 128 - code if code < 0 else code


def _end_family(grace: float, adopts: bool, child: int | None) -> None:
    """Ask everybody to end, wait for `grace` seconds, then kill until nobody is left."""
    until = time.monotonic() + grace
    # The command first and alone: a server that is asked politely ends its own workers in order.
    if child is not None:
        _signal([child], signal.SIGTERM)
        half = time.monotonic() + grace / 2
        while time.monotonic() < half and _reap(child) is None:
            time.sleep(_POLL_SECONDS)
    while family := _family(adopts):
        _signal(family, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        _reap(0)


def _family(adopts: bool) -> list[int]:
    """Everybody who descends from the guard and is alive, by /proc; by process group where there is none."""
    if not adopts:
        return _group()
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    # The command's name, in brackets, may hold anything; what follows the last one is well-formed.
                    state, parent = file.read().rpartition(")")[2].split()[:2]
            except OSError:
                continue  # ended meanwhile
            if state != "Z":
                parents[int(name)] = int(parent)
    family = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family and pid not in family}:
        family |= more
    return sorted(family - {os.getpid()})


def _group() -> list[int]:
    """The guard's process group as one negative pid, while anybody else is in it."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return []
    return [-os.getpgrp()]


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        try:
            if pid < 0 and number == signal.SIGKILL:
                os.killpg(-pid, number)  # ends the guard as well: nothing is left for it to do
            else:
                os.kill(pid, number)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    sys.exit(main())
