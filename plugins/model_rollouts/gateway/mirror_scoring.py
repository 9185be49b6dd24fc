"""What a version makes of mirrored requests: one by itself, or several in one call."""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from model_rollouts.gateway.answers import Failure, failure
from model_rollouts.gateway.follower import Serving
from model_rollouts.gateway.inputs import Inputs
from model_rollouts.gateway.loading import Version
from model_rollouts.gateway.payload import Payload, joined
from model_rollouts.gateway.protocols import Codec
from model_rollouts.gateway.records import Context
from model_rollouts.gateway.routing import Arm
from model_rollouts.gateway.scorer import Results, call_ms
from model_rollouts.gateway.scoring_protocol import Document
from model_rollouts.gateway.settings import GatewaySettings


@dataclass(slots=True)
class Mirrored:
    """Rows of a request that are scored a second time.

    Attributes:
        context: The request.
        serving: The state that it was answered by.
        arm: Who scores now.
        indices: Rows of the request.
        document: The request, decoded.
        payload: All its rows, as the champion reads them.
        size: Bytes of its body.
        around_ms: What the caller waited besides the call of the version that answered it: reading, the version's
            turn, what else the process did. With the other version the caller would have waited as long for that,
            and would never have waited in the mirror's queue.
        codec: What its caller asked in, which a challenger's answer has to fit.
    """

    context: Context
    serving: Serving
    arm: Arm
    indices: tuple[int, ...]
    document: Document
    payload: Payload
    size: int
    around_ms: float
    codec: Codec

    @property
    def version(self) -> Version | None:
        """Who scores now, if it is still there."""
        return self.serving.challenger if self.arm is Arm.CHALLENGER else self.serving.champion

    @property
    def may_join(self) -> bool:
        """Whether it takes next to no time to score, and may be scored together with others."""
        version = self.version
        return (
            version is not None
            and len(self.indices) <= version.scorer.quick_rows
            and not self.document.params
            and self.payload.key is not None
            and version.reader == self.serving.champion.reader
        )

    def joins(self, other: "Mirrored") -> bool:
        """Whether the two, which both may, can be scored in one call."""
        return self.serving is other.serving and self.arm is other.arm and self.payload.key == other.payload.key

    @property
    def model(self) -> str:
        """Registered model name."""
        return self.serving.traffic.model


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a version made of mirrored requests.

    Attributes:
        results: One a row, request after request.
        latency_ms: What reading and the call took, for each of them; from asking to the end, where there was not one
            call.
        payloads: How it read each request; None: it could not.
        crowded: It never came to it, because too much waited. A version that hangs or is too slow has failed instead.
    """

    results: Results
    latency_ms: float
    payloads: Sequence[Payload | None]

    @property
    def crowded(self) -> bool:
        return any(isinstance(r, Failure) and r.overloaded and r.status == "error" for r in self.results)


class _CrowdedError(Exception):
    """It is the mirroring that was too much, not the version that failed."""


class MirrorScorer:
    """Asks versions.

    Args:
        settings: Bounds and time limits.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._inputs = Inputs(settings)
        self._timeouts = {
            Arm.CHAMPION: settings.champion_timeout_seconds,
            Arm.CHALLENGER: settings.mirror_timeout_seconds,
        }
        # Not the loop's own threads: callers' large bodies are read there.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="mirror")

    def close(self) -> None:
        """Read no more."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    async def ask(self, version: Version, group: Sequence[Mirrored]) -> Outcome:
        """What a version makes of requests: of one, or of several that join each other."""
        return await (self._ask(version, group[0]) if len(group) == 1 else self._ask_together(version, group))

    async def _ask_together(self, version: Version, group: Sequence[Mirrored]) -> Outcome:
        started = time.perf_counter()
        parts = [m.payload if len(m.indices) == m.payload.rows else m.payload.take(m.indices) for m in group]
        results = await version.scorer.score(joined(parts), {}, self._timeouts[group[0].arm])
        took = call_ms(results)
        return Outcome(results, _ms_since(started) if took is None else took, [m.payload for m in group])

    async def _ask(self, version: Version, mirrored: Mirrored) -> Outcome:
        """What the version makes of the rows. The champion could read them, so whatever goes wrong is its failure."""
        within, rows, started = self._timeouts[mirrored.arm], len(mirrored.indices), time.perf_counter()
        try:
            payload, waited = await self._read(version, mirrored, within)
            started += waited
            reading_ms = _ms_since(started)
            asked, params = payload.take(mirrored.indices), mirrored.document.params
            results = await version.scorer.score(asked, params, within)
        except _CrowdedError:
            return Outcome([Failure("error", "the thread that reads was busy", overloaded=True)], 0.0, [None])
        except TimeoutError:
            reason = f"the input was not read within {within:g} s"
            return Outcome([Failure("timeout", reason)] * rows, _ms_since(started), [None])
        except Exception as error:
            return Outcome([failure(error)] * rows, _ms_since(started), [None])
        took = call_ms(results)
        return Outcome(results, _ms_since(started) if took is None else reading_ms + took, [payload])

    async def _read(self, version: Version, mirrored: Mirrored, within: float) -> tuple[Payload, float]:
        """The rows as the version reads them, and the seconds that they had to wait for the thread to do so.

        Raises:
            TimeoutError: Reading took too long.
            _CrowdedError: The thread was busy with others for all that time.
        """
        if version.reader == mirrored.serving.champion.reader:
            return mirrored.payload, 0.0
        offered = time.perf_counter()
        reading = self._readers.submit(self._read_again, version, mirrored)
        try:
            payload, began = await asyncio.wait_for(asyncio.wrap_future(reading), within)
        except TimeoutError:
            if reading.cancelled():
                raise _CrowdedError from None
            raise
        return payload, began - offered

    def _read_again(self, version: Version, mirrored: Mirrored) -> tuple[Payload, float]:
        began = time.perf_counter()
        return self._inputs.again(version, mirrored.document, mirrored.payload.rows), began


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
