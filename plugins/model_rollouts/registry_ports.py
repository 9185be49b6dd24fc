"""What the registry's watch needs from the world."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from model_rollouts.core.registry_events import Intention, RecordedChange
from model_rollouts.core.registry_snapshot import RegistryChange, Snapshot


class RegistrySnapshots(Protocol):
    """The registry as it is now, read without a client library."""

    def snapshots(self, models: Collection[str] | None = None) -> Mapping[str, Snapshot]:
        """Model -> what it says; models that are not there are left out. None: all models.

        Raises:
            NotReadyError: The registry can't be read; a part of it is never taken for the whole.
        """


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of a model last.

    Attributes:
        snapshot: The registry's word.
        revision: Grows by one with each look that found something, and with each decision.
    """

    snapshot: Snapshot
    revision: int


class RegistryChanges(Protocol):
    """Changes that were seen in the registry, each recorded once, decided once and handled once."""

    def seen(self, models: Collection[str] | None = None) -> Mapping[str, Seen]:
        """Model -> what was seen last; models that were never looked at are left out. None: all models."""

    def began(self) -> datetime | None:
        """When the first model was looked at, UTC; None: never."""

    def see(self, snapshot: Snapshot, changes: Sequence[RegistryChange], expected_revision: int, at: datetime) -> None:
        """Keep what is seen now and what changed, in one transaction.

        Args:
            snapshot: The registry's word, read after `expected_revision` was.
            changes: What differs from the last one.
            expected_revision: What the changes were worked out from; 0: the model was never looked at.
            at: Now, UTC.

        Raises:
            StaleRevisionError: Somebody else has looked, or decided, since.
        """

    def pending(self, model: str | None = None) -> list[RecordedChange]:
        """Changes that are not handled, oldest first."""

    def with_runs(self, model: str, limit: int = 50) -> list[RecordedChange]:
        """Changes of a model that a DAG run was decided for, newest first."""

    def decide(self, model: str, expected_revision: int, decisions: Mapping[int, tuple[Intention, str]]) -> None:
        """Put down what is to be done about changes: by id, the intention and its run id ("" for none).

        Raises:
            StaleRevisionError: Somebody else has looked, or decided, since.
        """

    def handle(self, change_id: int, outcome: str, at: datetime) -> bool:
        """Put down what came of a change. False: somebody else has; theirs stays."""


class DagRuns(Protocol):
    """Airflow, as far as a change in the registry needs it."""

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> bool:
        """Make a run; False when it is there already.

        Raises:
            UnknownDagError: There is no such DAG.
            RunRefusedError: The DAG is paused or broken, or refuses the values.
            Exception: Airflow can't be asked; asking again may help.
        """

    def unfinished(self, dag_id: str, run_id: str) -> bool:
        """Whether there is such a run and it waits or goes on."""
