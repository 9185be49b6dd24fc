"""New units of the two arms against the stages' shares."""

from collections.abc import Sequence

from model_rollouts.core.evidence import Look
from model_rollouts.core.sample_ratio import log_e_mismatch_over
from model_rollouts.core.verdict import Measured


class SampleRatioTally:
    """Counts new units by stage; a stage whose share leaves nothing to deal says nothing.

    Args:
        shares: The challenger's part of the dealt units in each stage of the plan, in percent.
        stage: Position of the stage that is judged.
    """

    def __init__(self, shares: Sequence[float], stage: int) -> None:
        self._shares, self._stage = tuple(shares), stage
        self._units: dict[int, list[int]] = {}

    def add(self, looks: list[Look]) -> None:
        """Take further looks."""
        for look in looks:
            if look.champion_units is None or look.challenger_units is None or not 0 < self._shares[look.stage] < 100:  # noqa: PLR2004 - percent
                continue
            units = self._units.setdefault(look.stage, [0, 0])
            units[0] += look.challenger_units.new
            units[1] += look.champion_units.new

    def measure(self) -> Measured:
        """The gate's numbers over the looks so far."""
        periods = [(b, a, self._shares[stage] / 100) for stage, (b, a) in self._units.items()]
        challenger, champion = sum(b for b, _, _ in periods), sum(a for _, a, _ in periods)
        planned = sum((b + a) * share for b, a, share in periods)
        return Measured(
            effect=challenger / planned if planned else None,
            log_e_harm=log_e_mismatch_over(periods),
            log_e_pass=0.0,
            challenger_bad=0,
            challenger_n=challenger,
            champion_bad=0,
            champion_n=champion,
            stage_n=sum(self._units.get(self._stage, [0, 0])),
            detail={"planned_units": planned},
        )

    def bounds(self, log_harm: float, log_pass: float) -> tuple[float | None, float | None]:
        """None: an assignment is right or it is not."""
        return None, None
