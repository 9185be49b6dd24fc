"""What came of the rollouts: pure functions from what was recorded to a table, a file and an exit code."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from demo.cases import Case
from model_rollouts.core.rollout import Event, EventKind, Rollout, State

_ACTIONS = {State.PROMOTED: "cut_over", State.ROLLED_BACK: "roll_back", State.HOLDING: "hold"}


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage as it went. Times are ISO 8601, UTC; None where it has not happened."""

    stage: int
    share: float
    opened_at: str
    closed_at: str | None
    verdict: str | None
    reason: str
    mlflow_run_id: str | None

    @property
    def seconds(self) -> float | None:
        """How long it was open."""
        if self.closed_at is None:
            return None
        return (datetime.fromisoformat(self.closed_at) - datetime.fromisoformat(self.opened_at)).total_seconds()


@dataclass(frozen=True, slots=True)
class RolloutReport:
    """One rollout as it went.

    Attributes:
        rollout_id: Its id in the store.
        model: Registered model name.
        challenger: Variant name.
        version: Version number.
        pattern: Which pattern.
        expected: The action that it must come to.
        action: The action that it came to; `none` when it has not ended.
        reason: Why.
        seconds: From the trigger to the end.
        stages: In order.
        replayed: What `rollouts replay` finds different from the live decisions; "" when they come out the same.
    """

    rollout_id: str
    model: str
    challenger: str
    version: str
    pattern: str
    expected: str
    action: str
    reason: str
    seconds: float
    stages: Sequence[StageReport] = field(default_factory=tuple)
    replayed: str = ""

    @property
    def ok(self) -> bool:
        """Whether the decision was the right one."""
        return self.action == self.expected

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        data = asdict(self)
        data["expected_action"] = data.pop("expected")
        data["ok"] = self.ok
        data["mlflow_run_ids"] = [stage.mlflow_run_id for stage in self.stages if stage.mlflow_run_id]
        return data


def report_of(
    rollout: Rollout,
    events: Sequence[Event],
    mlflow_runs: dict[int, str],
    *,
    challenger: str,
    expected: str,
    seconds: float,
    replayed: str = "",
) -> RolloutReport:
    """Put together what the store and Airflow say.

    Args:
        rollout: As it is now.
        events: Its audit, oldest first.
        mlflow_runs: Run id of each stage.
        challenger: Variant name.
        expected: The action that it must come to.
        seconds: From the trigger to the end.
        replayed: What a replay from the log finds different.
    """
    return RolloutReport(
        rollout_id=rollout.id,
        model=rollout.model,
        challenger=challenger,
        version=rollout.challenger,
        pattern=str(rollout.plan.pattern),
        expected=expected,
        action=_ACTIONS.get(rollout.state, "none"),
        reason=rollout.reason,
        seconds=round(seconds, 1),
        stages=tuple(_stages(rollout, events, mlflow_runs)),
        replayed=replayed,
    )


def _stages(rollout: Rollout, events: Sequence[Event], mlflow_runs: dict[int, str]) -> list[StageReport]:
    reports = []
    for position, event in enumerate(events):
        if event.kind is not EventKind.STAGE_OPENED or event.stage is None:
            continue
        ends = (EventKind.CLEARED, EventKind.HELD, EventKind.ROLLED_BACK)
        end = next((e for e in events[position + 1 :] if e.kind in ends), None)
        reports.append(
            StageReport(
                stage=event.stage,
                share=rollout.plan.stage(event.stage).share,
                opened_at=event.at.isoformat(),
                closed_at=end.at.isoformat() if end else None,
                verdict=_verdict(end),
                reason=end.reason if end else "",
                mlflow_run_id=mlflow_runs.get(event.stage),
            )
        )
    return reports


def _verdict(end: Event | None) -> str | None:
    """The verdict on record with the event; what the event means where it carries none."""
    if end is None:
        return None
    recorded = end.evidence.get("verdict")
    if isinstance(recorded, str):
        return recorded
    return {EventKind.CLEARED: "pass", EventKind.HELD: "inconclusive"}.get(end.kind, "fail")


def problems(expected: Sequence[Case], reports: Sequence[RolloutReport]) -> list[str]:
    """What went other than it must; nothing for a good run.

    Args:
        expected: Rollouts that were to be, in order.
        reports: What there is, in the same order.
    """
    found = [
        f"{report.pattern} of {report.challenger} must come to {report.expected}, came to {report.action}: "
        f"{report.reason}"
        for report in reports
        if not report.ok
    ]
    found += [f"{report.pattern} of {report.challenger}: {report.replayed}" for report in reports if report.replayed]
    return found + [f"{case.title} was not rolled out" for case in expected[len(reports) :]]


def to_json(
    reports: Sequence[RolloutReport], found: Sequence[str], seconds: float, steps: dict[str, float]
) -> dict[str, Any]:
    """The content of summary.json."""
    return {
        "ok": not found,
        "problems": list(found),
        "rollouts": [report.to_dict() for report in reports],
        "seconds": round(seconds, 1),
        "steps": steps,
    }


def to_table(reports: Sequence[RolloutReport]) -> Table:
    """For a person."""
    table = Table(title="Rollouts", show_lines=True)
    for column in ("pattern", "challenger", "version", "expected", "action", "ok", "stages: share, seconds", "reason"):
        table.add_column(column, overflow="fold")
    for report in reports:
        stages = [f"{s.share:g} %, " + ("open" if s.seconds is None else f"{s.seconds:.0f} s") for s in report.stages]
        mark = "[green]yes[/]" if report.ok else "[red]NO[/]"
        row = (
            report.pattern,
            report.challenger,
            report.version,
            report.expected,
            report.action,
            mark,
            "\n".join(stages),
        )
        table.add_row(*row, escape(report.reason))
    return table
