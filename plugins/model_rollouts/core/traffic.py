"""Who answers a model's requests: the one row that gateways route by."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who answers a model's requests. One row a model.

    Attributes:
        model: Registered model name.
        champion: Version that serves.
        challenger: Version that is kept loaded beside it, or None.
        share: The challenger's share of the units, in percent.
        control_percent: At a share of 100: percentage of requests that the champion also answers.
        rollout_id: The rollout that set it, or None.
        stage: Its stage, or None.
        salt: Deals the units.
        previous: Version that is kept warm as the rollback target, or None.
        revision: Grows by one with each change.
        mirror_percent: At a share of 0: percentage of requests that the challenger also answers, unseen by callers.
        control_group: Whether only a group of champion units as large as the challenger's counts as the champion's.
    """

    model: str
    champion: str
    challenger: str | None = None
    share: float = 0.0
    control_percent: float = 0.0
    rollout_id: str | None = None
    stage: int | None = None
    salt: str = ""
    previous: str | None = None
    revision: int = 1
    mirror_percent: float = 0.0
    control_group: bool = False

    def __post_init__(self) -> None:
        """Refuse a row that no gateway could route by.

        Raises:
            ValueError: The message states the value and the bound.
        """
        bounds = (
            ("share", self.share, 100),
            ("control_percent", self.control_percent, 50),
            ("mirror_percent", self.mirror_percent, 100),
        )
        for name, value, high in bounds:
            if not 0 <= value <= high:
                raise ValueError(f"traffic of {self.model}: {name} is {value}, must be between 0 and {high}")
        if self.challenger is None and self.share:
            raise ValueError(f"traffic of {self.model}: share is {self.share} without a challenger, must be 0")
        if self.challenger == self.champion:
            raise ValueError(f"traffic of {self.model}: version {self.champion} is champion and challenger at once")

    def shares(self) -> dict[str, float]:
        """Percent of the units that each version answers; always sums to 100."""
        if self.challenger is None:
            return {self.champion: 100.0}
        return {self.champion: 100.0 - self.share, self.challenger: self.share}
