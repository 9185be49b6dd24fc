"""The usual rules for stopping a rollout, each from its published definition: where would it roll back?

Every rule takes the counts of many rollouts and returns, for each rollout and look, whether it rolls back there. None
is a straw man: levels are one-sided, as only harm is looked for, and each has the tuning that its source gives.
"""

import numpy as np
from scipy.stats import mannwhitneyu, norm

from bench.simulate import ALPHA, Bools, Counts, Floats


def _totals(counts: Counts) -> tuple[Floats, ...]:
    """challenger_bad, challenger_n, champion_bad, champion_n of everything so far."""
    return tuple(np.moveaxis(counts.cumsum(axis=1).astype(float), -1, 0))


def pooled_z(counts: Counts) -> Floats:
    """Two-sample z of proportions with the pooled variance, of everything so far; 0 where undefined."""
    bad, n, champion_bad, champion_n = _totals(counts)
    with np.errstate(all="ignore"):
        pooled = (bad + champion_bad) / (n + champion_n)
        z = (bad / n - champion_bad / champion_n) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / champion_n))
    return np.nan_to_num(z, nan=0.0, posinf=0.0, neginf=0.0)


def z_test_at_every_look(counts: Counts, level: float = ALPHA) -> Bools:
    """The textbook test, looked at whenever there is something new (any introduction; e.g. Fleiss, Statistical Methods
    for Rates and Proportions)."""
    return pooled_z(counts) > norm.ppf(1 - level)


def _failed_checks(counts: Counts, most: float) -> Bools:
    bad, n = counts[..., 0], counts[..., 1]
    return (n > 0) & (bad / np.maximum(n, 1) > most)


def threshold(counts: Counts, most: float = 0.03, failures: int = 5) -> Bools:
    """A check fails when the challenger's error rate in the look is above a bound; rolls back at so many failed checks.

    Flagger's `thresholdRange` and `threshold` ("max number of failed metric checks before rollback",
    docs.flagger.app, Metrics Analysis; 5 in its examples), Argo Rollouts' `failureLimit`.
    """
    return _failed_checks(counts, most).cumsum(axis=1) >= failures


def consecutive_threshold(counts: Counts, most: float = 0.03, failures: int = 5) -> Bools:
    """The same, with so many failed checks in a row: the alert that must hold for some time (Prometheus' `for`)."""
    failed = _failed_checks(counts, most)
    run, hits = np.zeros(len(failed), np.int64), np.zeros_like(failed)
    for look in range(failed.shape[1]):
        run = np.where(failed[:, look], run + 1, 0)
        hits[:, look] = run >= failures
    return hits


def mann_whitney_judge(
    counts: Counts, seed: int, points: int = 50, confidence: float = 0.98, tolerance: float = 0.25
) -> Bools:
    """Rank test of the error rates of single looks, judged once every `points` looks on the looks since then.

    Kayenta's NetflixACAJudge (MannWhitneyClassifier): "High" when the lower end of the 98 % confidence interval of the
    location shift is above 25 % of the Hodges-Lehmann estimate; then the run fails. That end is above a shift if and
    only if the one-sided test of that shift rejects at 1 %. The baseline is as large as the canary, as its manual asks
    for (spinnaker.io, Canary best practices).
    """
    rng = np.random.default_rng(seed)
    bad, n, champion_bad, champion_n = np.moveaxis(counts, -1, 0)
    size = np.minimum(n, champion_n)
    baseline = rng.hypergeometric(champion_bad, champion_n - champion_bad, size) / np.maximum(size, 1)
    canary = bad / np.maximum(n, 1)
    hits = np.zeros(bad.shape, bool)
    for end in range(points, bad.shape[1] + 1, points):
        x, y = canary[:, end - points : end], baseline[:, end - points : end]
        shift = np.median((x[:, :, None] - y[:, None, :]).reshape(len(x), -1), axis=1, keepdims=True)
        # rounded, or values that are equal after the shift would not be seen as ties
        moved, still = np.round(x - tolerance * np.abs(shift), 12), np.round(y, 12)
        with np.errstate(all="ignore"):
            p = mannwhitneyu(moved, still, alternative="greater", method="asymptotic", axis=1).pvalue
        hits[:, end - 1] = np.nan_to_num(p, nan=1.0) < (1 - confidence) / 2
    return hits


def msprt(counts: Counts, tau: float = 0.01, level: float = ALPHA) -> Bools:
    """Mixture sequential probability ratio test of the difference of the rates, normal with the estimated variance.

    Johari, Koomen, Pekelis and Walsh, Always valid inference: continuous monitoring of A/B tests (Operations Research
    2022), with the mixing standard deviation at half of the difference that is looked for.
    """
    bad, n, champion_bad, champion_n = _totals(counts)
    with np.errstate(all="ignore"):
        p, q = bad / n, champion_bad / champion_n
        variance, difference = p * (1 - p) / n + q * (1 - q) / champion_n, p - q
        log_ratio = 0.5 * np.log(variance / (variance + tau**2)) + (tau * difference) ** 2 / (
            2 * variance * (variance + tau**2)
        )
    two_sided = 2 * level  # only the side of harm rolls back
    return (np.nan_to_num(difference) > 0) & (np.nan_to_num(log_ratio, nan=-1, posinf=-1) >= -np.log(two_sided))
