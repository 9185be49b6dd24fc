"""The tokens of a file, read again when it changes, so that tokens come and go while callers are served."""

import os
import stat
import threading
from pathlib import Path

import structlog

from model_rollouts.gateway.tokens import Token, TokensError, parse_tokens

_LOOK_SECONDS = 1.0
_MOST_BYTES = 262_144

_log = structlog.get_logger(__name__)

_Mark = tuple[int, int, int, int]  # what changes with a file


class TokenFile:
    """One file of tokens. A file that can't be read, or is none, leaves those that were read before in force.

    Args:
        path: See `tokens.parse_tokens`.
        look_seconds: Time between two looks at it.

    Raises:
        TokensError: It can't be read now: nobody could be let in, and nobody kept out knowingly.
    """

    def __init__(self, path: Path, look_seconds: float = _LOOK_SECONDS) -> None:
        self._path = path
        self._look_seconds = look_seconds
        self._tokens, self._mark = read_file(path)
        self._problem: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def tokens(self) -> tuple[Token, ...]:
        """Those in force."""
        return self._tokens

    @property
    def problem(self) -> str | None:
        """Why the file as it is now is not in force; None: it is."""
        return self._problem

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._watch, name="tokens", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def look(self) -> None:
        """Read the file, if it has changed or could not be read."""
        try:
            if self._problem is None and _mark_of(os.stat(self._path)) == self._mark:
                return
            tokens, mark = read_file(self._path)
        except (TokensError, OSError) as error:
            problem = str(error)
            if problem != self._problem:
                _log.error("tokens_not_read", file=str(self._path), error=problem, in_force=len(self._tokens))
            self._problem = problem
            return
        self._mark = mark
        if tokens != self._tokens or self._problem is not None:
            before, now = {token.name for token in self._tokens}, {token.name for token in tokens}
            _log.info("tokens_read", tokens=sorted(now), new=sorted(now - before), gone=sorted(before - now))
        self._tokens, self._problem = tokens, None

    def _watch(self) -> None:
        while not self._stop.wait(self._look_seconds):
            try:
                self.look()
            except Exception:  # this thread must not end: a token that was taken away would go on to be good
                _log.exception("tokens_look_failed", file=str(self._path))


def read_file(path: Path) -> tuple[tuple[Token, ...], _Mark]:
    """The tokens of a file, and what it looked like.

    Args:
        path: Of the file.

    Raises:
        TokensError: It can't be read, is none, or anybody on the machine could write to it.
    """
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            content = file.read(_MOST_BYTES + 1) if stat.S_ISREG(about.st_mode) else None
    except OSError as error:
        raise TokensError(f"{path} can't be read: {error.strerror}; make it with: rollouts token new --file") from error
    if content is None:
        raise TokensError(f"{path} is no regular file")
    if about.st_mode & stat.S_IWOTH:
        raise TokensError(f"{path} can be written by everybody on this machine; run: chmod o-w {path}")
    if len(content) > _MOST_BYTES:
        raise TokensError(f"{path} has more than {_MOST_BYTES} bytes")
    try:
        return parse_tokens(content.decode()), _mark_of(about)
    except UnicodeDecodeError as error:
        raise TokensError(f"{path} is no text in UTF-8") from error
    except TokensError as error:
        raise TokensError(f"{path}: {error}") from error


def _mark_of(about: os.stat_result) -> _Mark:
    return about.st_mtime_ns, about.st_size, about.st_ino, about.st_mode
