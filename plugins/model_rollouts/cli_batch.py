"""Commands for teams without a gateway: `rollouts compare`, `drift` and `shadow-offline` on their own tables."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from model_rollouts.cli_shared import mapped_log, moment, print_table, told, wiring

_Mapping = Annotated[Path, typer.Option(help="YAML that says which columns are the log's (docs/batch.md).")]
_Model = Annotated[str, typer.Argument(help="The mapping's model.")]
_Champion = Annotated[str, typer.Option(help="Version that plays the champion.")]
_Challenger = Annotated[str, typer.Option(help="Version that plays the challenger.")]
_From = Annotated[str, typer.Option("--from", help="Begin of the period, ISO 8601.")]
_To = Annotated[str | None, typer.Option("--to", help="End of the period, ISO 8601; now when left out.")]
_Out = Annotated[Path | None, typer.Option(help="Folder for the reports; reports_dir/batch when left out.")]


def compare(
    model: _Model,
    mapping: _Mapping,
    champion: _Champion,
    challenger: _Challenger,
    since: _From,
    until: _To = None,
    maturity_days: Annotated[float, typer.Option(help="Days after which a label is due.", min=0, max=90)] = 7.0,
    out: _Out = None,
) -> None:
    """Compare two versions on a team's own table: counts, errors, accuracy, slices, and a canary's verdict."""
    with told():
        from model_rollouts.adapters.batch_comparison import compare_batch

        parts, now = wiring(), datetime.now(UTC)
        log = mapped_log(parts, mapping, model, champion, challenger)
        period = (moment(since), moment(until) if until else now)
        folder = out or parts.settings.reports_dir / "batch"
        maturity = timedelta(days=maturity_days)
        decision, result = compare_batch(log, (champion, challenger), period, maturity, now, folder)
        names = ("requests", "error_rate", "accuracy")
        rows = [_row(arm, version, result.metrics, names) for arm, version in _sides(champion, challenger)]
        print_table(rows, ("arm", "version", *names))
        typer.echo(f"{decision.verdict}: {decision.reason}")
        for file in result.files:
            typer.echo(str(file))


def shadow_offline(
    model: _Model,
    mapping: _Mapping,
    champion: _Champion,
    challenger: Annotated[str, typer.Option(help="Registered version that is asked; it needs no row in the table.")],
    since: _From,
    until: _To = None,
    agreement: Annotated[float, typer.Option(help="Share of equal answers that must be proven.", min=0, max=1)] = 0.98,
    tolerance: Annotated[
        float | None, typer.Option(help="Answers are numbers, equal within this much; as text when left out.", min=0)
    ] = None,
    most: Annotated[int, typer.Option(help="Requests to draw where there are more.", min=1, max=200_000)] = 50_000,
    maturity_days: Annotated[float, typer.Option(help="Days after which a label is due.", min=0, max=90)] = 7.0,
    call_seconds: Annotated[float, typer.Option(help="Most seconds for a call of 500 rows.", min=0.1)] = 60.0,
    out: _Out = None,
) -> None:
    """Ask a challenger for the champion's requests of a team's own table, and compare the answers: a shadow stage."""
    with told():
        from model_rollouts.adapters.batch_offline import ShadowTerms, shadow_batch
        from model_rollouts.adapters.offline_scorer import PyfuncScorer

        parts, now = wiring(), datetime.now(UTC)
        log = mapped_log(parts, mapping, model, champion, challenger, answered=False)
        version = parts.registry.resolve(model, challenger)
        period = (moment(since), moment(until) if until else now)
        terms = ShadowTerms(agreement, tolerance, timedelta(days=maturity_days), most)
        folder = out or parts.settings.reports_dir / "batch"
        uri = parts.settings.mlflow_tracking_uri
        with PyfuncScorer(uri, version, parts.settings.flavours, call_seconds=call_seconds) as scorer:
            found = shadow_batch(log, version, scorer, champion, period, terms, now, folder)
        names = ("requests", "error_rate", "accuracy")
        rows = [_row(arm, known, found.result.metrics, names) for arm, known in _sides(champion, challenger)]
        print_table(rows, ("arm", "version", *names))
        typer.echo(f"{found.asked:,} requests were scored")
        if found.unfit:
            typer.echo(f"{found.unfit:,} could not be, and count as unanswered, such as one that was {found.why}")
        typer.echo(f"{found.decision.verdict}: {found.decision.reason}")
        for file in found.result.files:
            typer.echo(str(file))


def drift(
    model: _Model,
    mapping: _Mapping,
    champion: _Champion,
    challenger: _Challenger,
    since: _From,
    until: _To = None,
    reference_days: Annotated[
        float | None, typer.Option(help="Days of the champion before the period; its length when left out.", min=0.01)
    ] = None,
    out: _Out = None,
) -> None:
    """Drift on a team's own table: the challenger against the champion, and against the champion's time before."""
    with told():
        from model_rollouts.adapters.delta_drift import DeltaDriftLog
        from model_rollouts.adapters.drift_report import StageDrift, drift_of_stage
        from model_rollouts.adapters.mapped_log import ROLLOUT, STAGE
        from model_rollouts.core.drift_plan import DriftPlan

        parts = wiring()
        log = mapped_log(parts, mapping, model, champion, challenger)
        start, end = moment(since), moment(until) if until else datetime.now(UTC)
        before = start - (end - start if reference_days is None else timedelta(days=reference_days))
        of = StageDrift(model, ROLLOUT, STAGE, champion, (start, end), (before, start))
        folder = out or parts.settings.reports_dir / "batch"
        report = drift_of_stage(DeltaDriftLog(log), of, None, DriftPlan(), folder)
        typer.echo(f"{report.finding.state}: {report.finding.detail}")
        for file in report.files:
            typer.echo(str(file))


def _sides(champion: str, challenger: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("champion", champion), ("challenger", challenger)


def _row(arm: str, version: str, metrics: dict[str, float], names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: metrics.get(f"{arm}_{name}") for name in names}
    told_as = {name: "" if value is None else f"{value:,.6g}" for name, value in found.items()}
    return {"arm": arm, "version": version, **told_as}
