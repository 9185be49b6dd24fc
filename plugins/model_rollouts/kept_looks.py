"""Looks of the rollouts that a process watches, kept in memory: only what is new is read from the store."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from model_rollouts.core.evidence import Look
from model_rollouts.core.ledger import Ledger
from model_rollouts.core.packed import bytes_of, packed
from model_rollouts.core.plan import Plan
from model_rollouts.ports import EvidenceStore

MOST_BYTES = 512 * 1024 * 1024
_IDLE_SECONDS = 3600.0


@dataclass(slots=True)
class _Entry:
    looks: list[Look]
    nbytes: int
    used: float
    ledger: Ledger | None = None


class KeptLooks:
    """Safe for several threads. What it gives is what the store has.

    A look is written once and only ever gains its labels, so what is known need not be read again. That the store has
    as many looks and labels as are known is asked each time: one that was restored from a backup is read anew.

    Memory is bounded: a rollout whose looks do not fit beside those of the others is read from the store each time. The
    oldest are not put out for it, as all are asked for in turn, and each would be put out before it is asked for again.

    Args:
        evidence: The store.
        most_bytes: What all looks may take, about.
        clock: Seconds.
    """

    def __init__(
        self, evidence: EvidenceStore, most_bytes: int = MOST_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.evidence = evidence
        self._most_bytes = most_bytes
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._lock = threading.Lock()

    def looks(self, rollout_id: str) -> list[Look]:
        """The rollout's looks, in order of stage and index. The list is the caller's own."""
        with self._lock:
            entry = self._entries.get(rollout_id)
        known = entry.looks if entry else []
        merged = self._merged(rollout_id, known)
        if merged is not known:
            self._put(rollout_id, merged)
        elif entry is not None:
            entry.used = self._clock()
        return list(merged)

    def ledger(self, rollout_id: str, plan: Plan, looks: list[Look]) -> Ledger:
        """The rollout's tallies with these looks in them; made anew when they do not fit. One caller at a time."""
        with self._lock:
            entry = self._entries.get(rollout_id)
        ledger = (entry.ledger if entry else None) or Ledger(plan)
        try:
            ledger.take(looks)
        except ValueError:  # fewer looks than before: the store was restored from a backup
            ledger = Ledger(plan)
            ledger.take(looks)
        with self._lock:
            if entry := self._entries.get(rollout_id):
                entry.ledger = ledger
        return ledger

    @property
    def nbytes(self) -> int:
        """What all looks take, about."""
        with self._lock:
            return sum(entry.nbytes for entry in self._entries.values())

    def _merged(self, rollout_id: str, known: list[Look]) -> list[Look]:
        """What is known with what is new; the very same list where nothing is."""
        matured = _matured(known)
        count, labelled = self.evidence.look_counts(rollout_id)
        if (count, labelled) == (len(known), matured):
            return known
        if known and count >= len(known) and labelled >= matured:
            first = known[matured] if matured < len(known) else None
            fresh = self.evidence.looks_since(
                rollout_id, (known[-1].stage, known[-1].index), (first.stage, first.index) if first else None
            )
            merged = _with(known, fresh)
            # another process may have added more since they were counted
            if len(merged) >= count and _matured(merged) >= labelled:
                return merged
        return [packed(look) for look in self.evidence.looks(rollout_id)]

    def _put(self, rollout_id: str, looks: list[Look]) -> None:
        nbytes, now = sum(bytes_of(look) for look in looks), self._clock()
        with self._lock:
            old = self._entries.pop(rollout_id, None)
            if sum(entry.nbytes for entry in self._entries.values()) + nbytes > self._most_bytes:
                for other in [key for key, entry in self._entries.items() if entry.used < now - _IDLE_SECONDS]:
                    del self._entries[other]
            if sum(entry.nbytes for entry in self._entries.values()) + nbytes <= self._most_bytes:
                self._entries[rollout_id] = _Entry(looks, nbytes, now, old.ledger if old else None)


def _matured(looks: list[Look]) -> int:
    """How many looks, from the first on, have their labels."""
    return next((at for at, look in enumerate(looks) if not look.matured), len(looks))


def _with(known: list[Look], fresh: list[Look]) -> list[Look]:
    places = {(look.stage, look.index): packed(look) for look in fresh}
    merged = [places.pop((look.stage, look.index), look) for look in known]
    return merged + [places[place] for place in sorted(places)]
