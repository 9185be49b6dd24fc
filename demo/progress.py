"""Status lines: what is being done, what has been, and how long each took."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.status import Status


class Progress:
    """Shared by the threads that start things. A terminal also shows what is being waited for, live."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()
        self._open: dict[str, float] = {}
        self._status: Status | None = None
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(f"[dim]{self.elapsed:6.1f} s[/]  {text}", highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; it is on record, and said, when it has succeeded."""
        began = time.monotonic()
        with self._lock:
            self._open[name] = began
        if not self.console.is_terminal:
            self.say(f"[dim]{name} ...[/]")
        self._show()
        try:
            yield
            took = time.monotonic() - began
            with self._lock:
                self.seconds[name] = round(took, 1)
            self.say(f"[green]{name}[/] ready after {took:.1f} s")
        finally:
            with self._lock:
                self._open.pop(name, None)
            self._show()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show the live line while inside."""
        with self.console.status("") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def waiting(self, text: str) -> None:
        """Replace the live line."""
        if self._status is not None:
            self._status.update(text)

    def _show(self) -> None:
        with self._lock:
            names = list(self._open)
        self.waiting("waiting for " + ", ".join(names) if names else "")
