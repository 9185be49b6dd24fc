"""What the service needs from the world, as small Protocols. Adapters implement them."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from model_rollouts.core.baseline import Baseline
from model_rollouts.core.data_rollback import DataRollback
from model_rollouts.core.evidence import ArmLabels, Look, RequestCounts
from model_rollouts.core.golden import GoldenCase
from model_rollouts.core.monitoring import MonitoredCounts
from model_rollouts.core.rollout import Change, Event, Rollout
from model_rollouts.core.traffic import Traffic
from model_rollouts.core.unit_evidence import ClusterSums, PairCounts, UnitCounts, ValueSums


class RolloutStore(Protocol):
    """Rollouts, traffic and events; the one place that moves traffic."""

    def traffic(self, model: str) -> Traffic | None:
        """The model's row, or None when the model was never adopted."""

    def all_traffic(self) -> list[Traffic]:
        """Every model's row, by model name."""

    def rollout(self, rollout_id: str) -> Rollout:
        """One rollout.

        Raises:
            NotFoundError: There is none of this id.
        """

    def rollouts(self, model: str | None = None, limit: int = 100) -> list[Rollout]:
        """Newest first, active and ended."""

    def active(self, model: str) -> Rollout | None:
        """The rollout that holds the model's lease, if any."""

    def apply(self, change: Change) -> None:
        """Write rollout, traffic and event in one transaction.

        Raises:
            StaleRevisionError: The traffic or the rollout has moved on since it was read.
            ActiveRolloutError: The change starts a rollout and the model has an active one; names it.
        """

    def events(self, model: str | None = None, rollout_id: str | None = None) -> list[Event]:
        """The audit, oldest first."""


class EvidenceStore(Protocol):
    """Closed looks. Written once, never changed."""

    def save_looks(self, rollout_id: str, looks: Sequence[Look]) -> None:
        """Keep looks that are not there yet, and labels of looks that have none yet. The first writer wins."""

    def looks(self, rollout_id: str) -> list[Look]:
        """In order of stage and index."""

    def looks_since(self, rollout_id: str, last: tuple[int, int], unlabelled: tuple[int, int] | None) -> list[Look]:
        """Looks that came after those that are known, and known ones that have their labels by now, in order.

        Args:
            rollout_id: The rollout.
            last: (stage, index) of the last look that is known.
            unlabelled: The same of the first one whose labels are not known; None: all are.
        """

    def look_counts(self, rollout_id: str) -> tuple[int, int]:
        """(how many looks there are, how many of them, from the first on, have their labels), without reading them."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version in the registry.

    Attributes:
        model: Registered model name.
        version: Its number, as text.
        aliases: Aliases that point to it.
        run_id: The run that made it, or "".
        model_id: MLflow 3's id of the logged model, or "".
        inputs: Name and MLflow type of each input column, in order; None when it has no signature, or one
            without named columns.
        optional: Names of the inputs that may be left out.
        tags: Its tags.
    """

    model: str
    version: str
    aliases: tuple[str, ...] = ()
    run_id: str = ""
    model_id: str = ""
    inputs: tuple[tuple[str, str], ...] | None = None
    optional: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)


class Registry(Protocol):
    """Which version has which role, as people see it."""

    def resolve(self, model: str, version_or_alias: str) -> ModelVersion:
        """A version by its number ("3") or by an alias ("challenger").

        Raises:
            NotFoundError: No such model, version or alias; the message says which, and what there is.
        """

    def set_roles(self, model: str, roles: Mapping[str, str | None]) -> None:
        """Point aliases at versions; None takes the alias away. Repeating it changes nothing."""

    def tag(self, model: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""


@dataclass(frozen=True, slots=True)
class Window:
    """One look's time: [start, end), UTC."""

    index: int
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class StageWindow:
    """One look of one stage."""

    stage: int
    window: Window


@runtime_checkable
class LooksAtOnce(Protocol):
    """A log that can read the looks of a whole rollout one time for all parts of their evidence."""

    def at_once(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], maturity: timedelta
    ) -> "AbstractContextManager[PredictionLog]":
        """The log, for who counts all of these looks now. Its numbers are the same.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All closed looks of the rollout in order of time, from its first one.
            maturity: A label or value counts up to this long after its request.
        """


class PredictionLog(Protocol):
    """Reads evidence from the log. Only rows whose arm is their cohort count (see docs/contracts.md)."""

    def request_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window]
    ) -> list[tuple[RequestCounts, RequestCounts]]:
        """(champion, challenger) for each window, in order; zeros where there are no rows.

        Raises:
            Exception: The log can't be read. Never zeros for a failed query.
        """

    def unit_counts(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int
    ) -> list[tuple[UnitCounts, UnitCounts]]:
        """(champion, challenger) for each of `windows[fresh:]`, in order.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All closed looks of the rollout in order of time, from its first one: units that have been seen
                and requests that they have made before are counted from them.
            fresh: The first position to give results for.
        """

    def label_evidence(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int, maturity: timedelta
    ) -> list[tuple[ArmLabels, ArmLabels]]:
        """(champion, challenger) for each of `windows[fresh:]`, in order, with labels as known now.

        A label counts up to `maturity` after its request. See `unit_counts`.
        """

    def pair_counts(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window], tolerance: float | None
    ) -> list[PairCounts]:
        """Requests that both versions answered, for each window of the champion's answers, in order.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            stage: Position of the stage.
            windows: The looks.
            tolerance: The most that two answers that agree may differ by, as numbers; None: they agree as texts.
        """

    def pair_clusters(
        self, model: str, rollout_id: str, windows: Sequence[StageWindow], fresh: int, tolerance: float | None
    ) -> list[ClusterSums]:
        """Repeat requests of units among the pairs, for each of `windows[fresh:]`; see `unit_counts`, `pair_counts`."""

    def value_sums(
        self,
        model: str,
        rollout_id: str,
        windows: Sequence[StageWindow],
        fresh: int,
        maturity: timedelta,
        prior: tuple[datetime, datetime],
    ) -> list[ValueSums]:
        """Business values for each of `windows[fresh:]`, in order; see `unit_counts`.

        Args:
            model: Registered model name.
            rollout_id: The rollout.
            windows: All matured looks of the rollout in order of time, from its first one.
            fresh: The first position to give results for.
            maturity: A value counts up to this long after its request.
            prior: Time before the rollout, [start, end), that tells what a unit was worth then.
        """

    def baseline(self, model: str, version: str, start: datetime, end: datetime, maturity: timedelta) -> Baseline:
        """What a version did as champion in [start, end), in or out of rollouts."""


@dataclass(frozen=True, slots=True)
class ProbeAnswer:
    """What one version answered to one request that no caller sent.

    Attributes:
        gateway: Which serving process answered.
        status: "ok", "error" or "timeout".
        prediction: Canonical text of the answer, as in the prediction log; None when it failed.
        score: The score, where the version gives one.
        error: What went wrong, or "".
    """

    gateway: str
    status: str
    prediction: str | None = None
    score: float | None = None
    error: str = ""


class Gateways(Protocol):
    """The serving processes, all of them."""

    def versions(self, model: str) -> Mapping[str, str]:
        """State of each version: "ready" only where every process has it, else the worst: "loading" or "failed: ...".

        Raises:
            NotReadyError: A process does not answer; the message names it.
        """

    def routed(self, model: str) -> Mapping[str, int | None]:
        """Process -> revision of the traffic row that it routes by; None while it routes by none.

        Raises:
            NotReadyError: A process does not answer.
        """

    def backlog(self, model: str) -> Mapping[str, float]:
        """Process -> seconds for which its oldest row of the model has been waiting for the log; 0: it has all.

        Raises:
            NotReadyError: A process does not answer: what it has not logged is not known.
        """

    def probe(self, model: str, version: str, inputs: Sequence[Mapping[str, Any]]) -> list[list[ProbeAnswer]]:
        """Have every process score rows on one version; nothing of it is evidence, or reaches a caller.

        Args:
            model: Registered model name.
            version: A version that is loaded.
            inputs: Rows: value by input column.

        Returns:
            For each process, one answer a row, in order.

        Raises:
            NotReadyError: A process does not answer, or has not loaded the version.
        """

    def environments(self) -> Mapping[str, Mapping[str, str]]:
        """Process -> installed packages and their versions; "python" is among them.

        Raises:
            NotReadyError: A process does not answer.
        """


class StageRuns(Protocol):
    """One MLflow run a stage, linked to the challenger's version; it keeps the stage's artifacts."""

    def open(self, rollout: Rollout, stage: int) -> str:
        """The run's id; opening it again gives the same run."""

    def log(self, run_id: str, files: Sequence[Path], metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add artifacts, metrics and tags."""

    def close(self, run_id: str, verdict: Mapping[str, Any]) -> None:
        """End the run, with the decision as artifact `decision.json`."""


class GoldenRequests(Protocol):
    """Requests with known answers, for core/golden.py to judge by."""

    def recorded(self, model: str, version: str, n: int, now: datetime) -> list[GoldenCase]:
        """Recent distinct requests that a version answered as champion, with what it answered.

        Args:
            model: Registered model name.
            version: Version number or alias.
            n: Most requests.
            now: Current time, UTC.

        Returns:
            Up to n cases, the same ones each time for the same log; fewer, or none, where the log has no more.

        Raises:
            NotReadyError: The version's inputs can't be made again from the log; says why.
            NotFoundError: There is no such version.
        """

    def load_file(self, path: Path) -> list[GoldenCase]:
        """The cases of a file of JSON lines; see adapters/golden.py.

        Raises:
            PlanError: It can't be read, is empty, or a line is wrong; names every such line by its number.
        """


class DataUndo(Protocol):
    """Undoes data with a model. Slow, and free to fail: never to be waited for before traffic has moved."""

    def pin(self, step: DataRollback) -> DataRollback:
        """The step as it must be put down when a rollout starts: a Delta table's current version, and proof of being.

        Raises:
            NotReadyError: The table, the callable or the DAG is not there, or can't be asked for; says which.
        """

    def undo(self, step: DataRollback, rollout: Mapping[str, Any]) -> dict[str, Any]:
        """Do it, and wait for its end. Doing a DAG's step again for the same rollout triggers nothing anew.

        Args:
            step: What to undo.
            rollout: JSON types: "id", "model", "champion", "challenger", and "position" of the step in the plan.

        Returns:
            What was done, in JSON types, with a sentence under "detail".

        Raises:
            DataRollbackError: It failed, or took longer than the step's time limit; says what is left to do by hand.
        """


class MonitoringLog(Protocol):
    """What the log tells of a version that serves."""

    def monitored(
        self, model: str, version: str, start: datetime, end: datetime, maturity: timedelta
    ) -> MonitoredCounts:
        """One version's answers as champion in [start, end), in or out of rollouts.

        A label or value is due when its request is `maturity` old at the end.

        Raises:
            Exception: The log can't be read. Never zeros for a failed query.
        """
