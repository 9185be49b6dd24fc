"""kill -9, and whether there was anybody to get it."""

import time
from contextlib import suppress

import psutil

_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.002
_WORKER = "LocalExecutor"  # in the title of its workers
_GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def descendants(pid: int) -> list[psutil.Process]:
    """Everybody whom a process has started, parents first."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def strike(*processes: psutil.Process) -> bool:
    """Kill all of these; whether one of them was alive."""
    return sum(_struck(each) for each in processes) > 0


def strike_worker(pid: int) -> bool:
    """Kill the worker that runs a task, and the task with all that it has started; whether there was one.

    The worker is LocalExecutor's process, which supervises the task's and takes the next one afterwards. The task is
    stopped first, so that its worker stays with it: one that waits for work holds the lock of the executor's queue, and
    dead it would keep it from the others for good.

    Args:
        pid: The task's process, as Airflow's database has it.
    """
    try:
        task = psutil.Process(pid)
        task.suspend()
    except psutil.NoSuchProcess:
        return False
    try:
        worker = task.parent()
        if not _stopped(task) or worker is None or _WORKER not in " ".join(worker.cmdline()):
            return False
        whole = [worker, *worker.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    else:
        return strike(*whole)
    finally:
        with suppress(psutil.NoSuchProcess):
            task.resume()


def _struck(process: psutil.Process) -> bool:
    try:
        alive = process.status() not in _GONE
        process.kill()
    except psutil.NoSuchProcess:
        return False
    return alive


def _stopped(process: psutil.Process) -> bool:
    """Wait until it stands still; False when it has ended instead."""
    end = time.monotonic() + _STOP_SECONDS
    while (status := process.status()) not in _GONE and time.monotonic() < end:
        if status == psutil.STATUS_STOPPED:
            return True
        time.sleep(_POLL_SECONDS)
    return False
