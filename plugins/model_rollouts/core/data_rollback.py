"""What must be undone with a model: named in the plan, done when the rollout is rolled back, in order."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from model_rollouts.core.checks import choice, names, number, whole
from model_rollouts.core.errors import PlanError

_CALLABLE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_GIVEN = "rollout"  # the argument that every callable gets
_LONGEST_SECONDS = 86_400.0


class DataRollbackKind(StrEnum):
    """How data is undone."""

    DAG = "dag"  # a DAG is triggered, and its end waited for
    DELTA_RESTORE = "delta_restore"  # a Delta table goes back to a version
    CALLABLE = "callable"  # a function is called


@dataclass(frozen=True, slots=True)
class DataRollback:
    """One thing to undo.

    Attributes:
        kind: How.
        target: DAG id, path or URI of the Delta table, or `package.module:function`.
        version: Delta: the version to go back to. None: the one that the table has when the rollout starts, which is
            put down in the plan then.
        arguments: DAG: its conf. Callable: keyword arguments; it also gets `rollout` (a mapping: id, model, champion,
            challenger). JSON types.
        timeout_seconds: Longest time that it may take.
    """

    kind: DataRollbackKind
    target: str
    version: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 600.0

    def __post_init__(self) -> None:
        """Refuse what can't be done.

        Raises:
            PlanError: The message states the value and what it must be.
        """
        if not isinstance(self.kind, DataRollbackKind):
            raise PlanError(f"kind of a data rollback is {self.kind!r}, must be a DataRollbackKind")
        if not isinstance(self.target, str) or not self.target.strip():
            raise PlanError(f"target of a data rollback is {self.target!r}, must name what to undo")
        if self.kind is DataRollbackKind.CALLABLE and not _CALLABLE.fullmatch(self.target):
            raise PlanError(f"target of a data rollback is {self.target!r}, must be like package.module:function")
        if self.version is not None:
            if self.kind is not DataRollbackKind.DELTA_RESTORE:
                raise PlanError(f"version of a data rollback is {self.version}, must be left out for {self.kind}")
            whole("version of a data rollback", self.version, 0, 2**63 - 1)
        if not isinstance(self.arguments, Mapping) or not all(isinstance(key, str) for key in self.arguments):
            raise PlanError(f"arguments of a data rollback is {self.arguments!r}, must be a mapping of names to values")
        if self.arguments and self.kind is DataRollbackKind.DELTA_RESTORE:
            raise PlanError("arguments of a data rollback must be left out for delta_restore: they have no effect")
        self._check_arguments()
        number("timeout_seconds of a data rollback", self.timeout_seconds, 1, _LONGEST_SECONDS)

    def _check_arguments(self) -> None:
        """Refuse what would not come back from the record as it went in, or clash with what a callable is given."""
        try:
            kept = json.loads(json.dumps(dict(self.arguments), allow_nan=False))
        except (TypeError, ValueError, RecursionError) as error:
            raise PlanError(f"arguments of a data rollback must be of JSON types: {error}") from error
        if kept != self.arguments:
            raise PlanError(
                f"arguments of a data rollback is {self.arguments!r}, must be of JSON types: lists, not tuples, and "
                "names of text"
            )
        if self.kind is DataRollbackKind.CALLABLE and _GIVEN in self.arguments:
            raise PlanError(
                f"arguments of a data rollback name {_GIVEN!r}, which a callable is given anyway: rename it"
            )
        object.__setattr__(self, "arguments", kept)  # nobody who holds the mapping can change the plan any more

    @property
    def name(self) -> str:
        """For people: what is undone."""
        at = f" to version {self.version}" if self.version is not None else ""
        return f"{self.kind} {self.target}{at}"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DataRollback":
        """Build from JSON types.

        Raises:
            PlanError: A name is unknown or a value is wrong.
        """
        values = dict(names("data rollback", data, cls))
        values["kind"] = choice("kind of a data rollback", values["kind"], DataRollbackKind)
        return cls(**values)
