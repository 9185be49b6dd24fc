"""A process's connections: no more than it has files for, and none that keeps one for nothing.

Uvicorn has a limit for the time between requests alone. Whoever sends half a head, or nothing, or does not read its
answers, would keep a file open for ever, and the spool could open none any more.
"""

import asyncio
import resource

import structlog

_HEAD_SECONDS = 10.0
_LOOKS = 10  # in that time
_STALLED_LOOKS = 30
_RESERVE = 256  # open files that the spool, the log, the store and the versions' servers need

_log = structlog.get_logger(__name__)


class Connections:
    """One timer looks after all of them, and only while any of them waits for a request's head.

    It counts looks, not seconds: while the process was held up it has read nothing, which is nobody else's fault.

    Args:
        most: Connections that may be open at once.
        head_seconds: After this a connection is closed that has not sent a whole head since it was made, or since the
            first byte that came after the request before; a tenth of it late at most. After three times that one is
            closed whose caller takes nothing of what was answered.
    """

    def __init__(self, most: int, head_seconds: float = _HEAD_SECONDS) -> None:
        self._most = most
        self._look_seconds = head_seconds / _LOOKS
        self._waiting: dict[asyncio.Transport, int] = {}  # and in which look it began
        self._stalled: dict[
            asyncio.Transport, tuple[int, int]
        ] = {}  # since which look, and what there was to send then
        self._look = 0
        self._looking = False
        self._refused = 0
        self._too_large = 0

    def has_room(self, open_now: int) -> bool:
        """Whether there may be one more.

        Args:
            open_now: How many there are.
        """
        if open_now < self._most:
            return True
        self._refused += 1
        self._keep_looking()
        return False

    def waits(self, transport: asyncio.Transport) -> None:
        """It waits for a head, or for the rest of one; again and again makes no difference."""
        self._waiting.setdefault(transport, self._look)
        self._keep_looking()

    def begins(self, transport: asyncio.Transport) -> None:
        """It has its head."""
        self._waiting.pop(transport, None)

    def stalls(self, transport: asyncio.Transport) -> None:
        """What is to be sent waits for the caller to read."""
        self._stalled.setdefault(transport, (self._look, transport.get_write_buffer_size()))
        self._keep_looking()

    def flows(self, transport: asyncio.Transport) -> None:
        """The caller reads again."""
        self._stalled.pop(transport, None)

    def forget(self, transport: asyncio.Transport) -> None:
        """It is gone."""
        self._waiting.pop(transport, None)
        self._stalled.pop(transport, None)

    def sends_too_much(self) -> None:
        """A request is larger than it may be."""
        self._too_large += 1
        self._keep_looking()

    def _keep_looking(self) -> None:
        if not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(self._look_seconds, self._sweep)

    def _sweep(self) -> None:
        self._looking = False
        self._look += 1
        late = [transport for transport, since in self._waiting.items() if self._look - since > _LOOKS]
        deaf = []
        for transport, (since, left) in list(self._stalled.items()):
            now_left = transport.get_write_buffer_size()
            if now_left < left:
                self._stalled[transport] = (self._look, now_left)
            elif self._look - since > _STALLED_LOOKS:
                deaf.append(transport)
        for transport in (*late, *deaf):
            self.forget(transport)
            transport.abort()
        if late or deaf or self._refused or self._too_large:
            _log.warning(
                "connections_closed",
                without_a_request=len(late),
                not_reading=len(deaf),
                too_large=self._too_large,
                too_many=self._refused,
                most=self._most,
            )
            self._refused = self._too_large = 0
        if self._waiting or self._stalled:
            self._keep_looking()


def within_open_files(most: int) -> int:
    """As many connections, or fewer where the process may not open enough files; it takes all that it can get.

    Args:
        most: Connections that are to be possible.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError) as error:  # some kernels have a lower bound of their own
        _log.warning("open_files_not_raised", soft=soft, hard=hard, error=str(error))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return most
    fit = max(files - _RESERVE, files // 2)
    if fit < most:
        _log.warning("fewer_connections", open_files=files, connections=fit, wanted=most)
    return min(most, fit)
