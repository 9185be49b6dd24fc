"""What a simulation has to show, at two sizes: the one that was promised, and one that every test run has time for."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

_CHANCE = 0.005  # how often a small study may fail although the promise is kept
_SHRINK = 5


@dataclass
class Study:
    """Compares what was simulated with what was promised, and keeps what it found.

    Attributes:
        full: The size that was promised, and exactly its bounds. Otherwise a fifth of the runs, and each bound widened
            by what chance can add to a rule that keeps its promise.
        found: One line a claim.
    """

    full: bool
    found: list[str] = field(default_factory=list)

    def runs(self, promised: int) -> int:
        """How many rollouts to simulate."""
        return promised if self.full else promised // _SHRINK

    def rate_at_most(self, what: str, hits: npt.ArrayLike, level: float, allowed: float | None = None) -> None:
        """Assert that something happened in at most a share of the rollouts.

        Args:
            what: Named in the report.
            hits: Whether it happened, shape (rollouts,).
            level: The share that the rule promises.
            allowed: The share that the full study may see, where it is not the level itself.
        """
        seen = np.asarray(hits, bool)
        bound = (level if allowed is None else allowed) if self.full else self._upper(len(seen), level)
        rate = float(seen.mean())
        self._claim(f"{what}: {rate:.2%} of {len(seen)}, at most {bound:.2%}", holds=rate <= bound)

    def rate_at_least(self, what: str, hits: npt.ArrayLike, share: float) -> None:
        """Assert that something happened in at least a share of the rollouts."""
        seen = np.asarray(hits, bool)
        bound = share if self.full else 1 - self._upper(len(seen), 1 - share)
        rate = float(seen.mean())
        self._claim(f"{what}: {rate:.2%} of {len(seen)}, at least {bound:.2%}", holds=rate >= bound)

    def rate_above(self, what: str, hits: npt.ArrayLike, share: float) -> None:
        """Assert the opposite of a promise, of a rule that keeps none: the simulation could have told."""
        seen = np.asarray(hits, bool)
        rate = float(seen.mean())
        self._claim(f"(control) {what}: {rate:.2%} of {len(seen)}, above {share:.2%}", holds=rate > share)

    def mean_at_most(self, what: str, values: npt.ArrayLike, bound: float) -> None:
        """Assert a bound on a mean over the rollouts."""
        seen = np.asarray(values, float)
        mean = float(seen.mean())
        if not self.full:
            bound += 2.6 * float(seen.std(ddof=1)) / len(seen) ** 0.5
        self._claim(f"{what}: mean {mean:,.4g} over {len(seen)}, at most {bound:,.4g}", holds=mean <= bound)

    def median_at_most(self, what: str, values: npt.ArrayLike, bound: float) -> None:
        """Assert a bound on the median over the rollouts: at least half are within it."""
        seen = np.asarray(values, float)
        within = float((seen <= bound).mean())
        least = 0.5 if self.full else 1 - self._upper(len(seen), 0.5)
        self._claim(
            f"{what}: median {np.median(seen):,.4g} over {len(seen)}, at most {bound:,.4g}", holds=within >= least
        )

    def _upper(self, runs: int, level: float) -> float:
        return float(binom.isf(_CHANCE, runs, level)) / runs

    def _claim(self, line: str, *, holds: bool) -> None:
        self.found.append(line)
        if not holds:
            raise AssertionError(line)
