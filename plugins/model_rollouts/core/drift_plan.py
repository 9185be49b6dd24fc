"""What a rollout's plan says about drift: limits and roles by column, and which comparisons count."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

from model_rollouts.core.checks import choice, names, number
from model_rollouts.core.errors import PlanError

LONGEST_REFERENCE = 366 * 86_400.0


class DriftRole(StrEnum):
    """What drift of a column does."""

    HOLD = "hold"  # drift, and not being able to tell, keep the stage from being left
    REPORT = "report"
    IGNORE = "ignore"  # not even compared


class Comparison(StrEnum):
    """What is compared with what."""

    TRAINING = "training"  # the challenger's inputs now, with the data it was trained on (else: the champion's before)
    BEFORE = "before"  # the challenger's predictions now, with the champion's of before the rollout
    CHAMPION = "champion"  # the challenger's inputs and predictions, with the champion's of the same time


@dataclass(frozen=True, slots=True)
class DriftLimits:
    """From where on a distance is drift. None: it is shown and has no limit.

    Attributes:
        psi: Population stability index, beyond what chance alone adds to it.
        js: Jensen-Shannon distance, 0 to 1, the same.
        wasserstein: Wasserstein distance in standard deviations of the reference, the same.
        missing: Difference of the shares of rows without a value, 0 to 1, either way.
    """

    psi: float | None = 0.2
    js: float | None = None
    wasserstein: float | None = 0.1
    missing: float | None = 0.1

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        for name, high in (("psi", 100), ("js", 1), ("wasserstein", 1e6), ("missing", 1)):
            if getattr(self, name) is not None:
                number(f"drift limit {name}", getattr(self, name), 1e-6, high)


@dataclass(frozen=True, slots=True)
class ColumnRule:
    """What the plan says about one column.

    Attributes:
        role: None: the plan's.
        limits: Limits by name, None for none; those that are not named are the plan's.
    """

    role: DriftRole | None = None
    limits: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DriftPlan:
    """Drift in a rollout's plan.

    Attributes:
        role: What drift does where the column has no role of its own.
        default: Limits where the column has none of its own.
        columns: Rules by the log's column: f_<input>, prediction, score.
        holds: The comparisons in which a column of role hold holds; others are reported.
        reference_seconds: Length of the champion's time before the rollout. None: as long as the stage has lasted.
        level: Bound on calling drift, in a whole report of one stage, where nothing drifted.
    """

    role: DriftRole = DriftRole.REPORT
    default: DriftLimits = field(default_factory=DriftLimits)
    columns: Mapping[str, ColumnRule] = field(default_factory=dict)
    holds: tuple[Comparison, ...] = (Comparison.CHAMPION,)
    reference_seconds: float | None = None
    level: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what contradicts a bound.

        Raises:
            PlanError: The message states the value and the bound.
        """
        if not isinstance(self.role, DriftRole) or not isinstance(self.default, DriftLimits):
            raise PlanError(f"drift has role {self.role!r} and default {self.default!r}; use DriftPlan.from_dict")
        if not self.holds or not all(isinstance(each, Comparison) for each in self.holds):
            raise PlanError(f"drift.holds is {self.holds!r}, must name at least one of {', '.join(Comparison)}")
        number("drift.level", self.level, 1e-6, 0.2)
        if self.reference_seconds is not None:
            number("drift.reference_seconds", self.reference_seconds, 1, LONGEST_REFERENCE)
        for column in self.columns:
            self.limits_of(column)

    def role_of(self, column: str) -> DriftRole:
        """What drift of a column does."""
        rule = self.columns.get(column)
        return self.role if rule is None or rule.role is None else rule.role

    def limits_of(self, column: str) -> DriftLimits:
        """The limits of a column."""
        rule = self.columns.get(column, ColumnRule())
        own = {f.name: rule.limits.get(f.name, getattr(self.default, f.name)) for f in fields(DriftLimits)}
        return DriftLimits(**own)

    def to_dict(self) -> dict[str, Any]:
        """JSON types, as `from_dict` takes them."""
        columns = {
            column: dict(rule.limits) | ({} if rule.role is None else {"role": rule.role.value})
            for column, rule in self.columns.items()
        }
        return {
            "role": self.role.value,
            "default": {f.name: getattr(self.default, f.name) for f in fields(DriftLimits)},
            "columns": columns,
            "holds": [each.value for each in self.holds],
            "reference_seconds": self.reference_seconds,
            "level": self.level,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DriftPlan":
        """Build from JSON types, such as {"default": {"psi": 0.2}, "columns": {"f_x": {"psi": 0.1, "role": "hold"}}}.

        Raises:
            PlanError: A name is unknown or a value is wrong.
        """
        values = dict(names("drift", data, cls))
        if "role" in values:
            values["role"] = choice("drift.role", values["role"], DriftRole)
        if "default" in values:
            values["default"] = DriftLimits(**names("drift.default", values["default"], DriftLimits))
        if "columns" in values:
            if not isinstance(values["columns"], Mapping):
                raise PlanError(f"drift.columns is {values['columns']!r}, must be an object of rules by column")
            values["columns"] = {column: _rule(column, rule) for column, rule in values["columns"].items()}
        if "holds" in values:
            if not isinstance(values["holds"], list | tuple):
                raise PlanError(f"drift.holds is {values['holds']!r}, must be a list")
            values["holds"] = tuple(choice("drift.holds", each, Comparison) for each in values["holds"])
        return cls(**values)


def _rule(column: object, data: object) -> ColumnRule:
    if not isinstance(column, str) or not (column.startswith("f_") or column in ("prediction", "score")):
        raise PlanError(f"drift.columns names {column!r}, must name columns of the log: f_<input>, prediction or score")
    if not isinstance(data, Mapping):
        raise PlanError(f"drift of column {column} is {data!r}, must be an object of limits and a role")
    limits = {name: value for name, value in data.items() if name != "role"}
    DriftLimits(**names(f"drift of column {column}", limits, DriftLimits))
    return ColumnRule(choice(f"role of column {column}", data["role"], DriftRole) if "role" in data else None, limits)
