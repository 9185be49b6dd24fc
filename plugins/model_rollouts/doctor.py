"""Looks at everything that a rollout needs, one thing after the other, and says what is wrong with it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from queue import Empty, Queue
from threading import Thread
from typing import TYPE_CHECKING, Any

from model_rollouts.core.errors import RolloutError
from model_rollouts.logged_until import logged_until
from model_rollouts.ports import Window
from model_rollouts.wiring import Wiring

if TYPE_CHECKING:
    from model_rollouts.core import evidence
    from model_rollouts.core.rollout import Rollout

_SECONDS = 30.0
_RECENT = timedelta(hours=1)
_FITTING = timedelta(days=2)
_COUNTED = 5  # looks whose requests are counted again
_MOST_ROLLOUTS = 10_000
_DAGS = ("canary", "reconcile")
_SHORTEST_SECRET = 16
_SAID_CHARS = 400


class Health(StrEnum):
    """How something is."""

    OK = "ok"
    WARNING = "warning"  # rollouts work; something that people may count on does not
    FAILED = "failed"  # rollouts do not work
    UNUSED = "unused"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Its name.
        health: How it is.
        detail: What was found.
        remedy: What to do, or "".
    """

    what: str
    health: Health
    detail: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


Look = Callable[[Wiring], Sequence[Finding]]


def examine(parts: Wiring, seconds: float = _SECONDS) -> Iterator[Finding]:
    """Look at everything, the store first; what does not answer within the time has failed.

    Args:
        parts: What to look at.
        seconds: Time for each of them.
    """
    for what, look, remedy in _LOOKS:
        said: Queue[Sequence[Finding] | Exception] = Queue()
        # A thread for each: one that hangs is left behind, and neither the next one nor the end is kept waiting.
        Thread(target=_ask, args=(look, parts, said), name=f"look at {what}", daemon=True).start()
        try:
            answer = said.get(timeout=seconds)
        except Empty:
            yield Finding(what, Health.FAILED, f"no answer within {seconds:g} s", remedy)
            continue
        if isinstance(answer, Exception):
            yield Finding(what, Health.FAILED, _said(answer), "" if isinstance(answer, RolloutError) else remedy)
        else:
            yield from answer


def _ask(look: Look, parts: Wiring, said: "Queue[Sequence[Finding] | Exception]") -> None:
    try:
        said.put(look(parts))
    except Exception as error:
        said.put(error)


def _store(parts: Wiring) -> list[Finding]:
    models = parts.store.all_traffic()
    where = _without_password(parts.settings.store_url)
    if not models:
        return [
            Finding(
                "store",
                Health.WARNING,
                f"{where} has no model",
                "start a gateway, or the first rollout: either adopts the registry's champion",
            )
        ]
    return [Finding("store", Health.OK, f"{where}: {', '.join(traffic.model for traffic in models)}")]


def _registry(parts: Wiring) -> list[Finding]:
    from model_rollouts.adapters.mlflow_client import make_client

    uri = parts.settings.mlflow_tracking_uri
    found = make_client(uri).search_registered_models(max_results=1000)
    where = _without_password(uri)
    findings = [Finding("registry", Health.OK, f"{where}: {len(found)} registered models")]
    for traffic in parts.store.all_traffic():
        try:
            named = parts.registry.resolve(traffic.model, "champion").version
        except RolloutError as error:
            named = ""
            said = str(error)
        else:
            said = f"its alias champion is at version {named}, and version {traffic.champion} answers requests"
        if named != traffic.champion:
            remedy = f"rollouts sync {traffic.model}, unless the alias was moved to start a rollout"
            findings.append(Finding(f"aliases of {traffic.model}", Health.WARNING, said, remedy))
    return findings


def _gateways(parts: Wiring) -> list[Finding]:
    findings = []
    for traffic in parts.store.all_traffic():
        what = f"gateways of {traffic.model}"
        try:
            versions = parts.gateway.versions(traffic.model)
            routed = parts.gateway.routed(traffic.model)
            logged = logged_until(parts.gateway.backlog, traffic.model, parts.service.clock())
        except RolloutError as error:
            findings.append(Finding(what, Health.FAILED, str(error), "start it, or mend its address"))
            continue
        wanted = [version for version in (traffic.champion, traffic.challenger) if version is not None]
        bad = [f"version {version} is {versions.get(version, 'not there')}" for version in wanted]
        bad = [text for text in bad if not text.endswith(" is ready")]
        behind = [f"{name} is at {revision}" for name, revision in routed.items() if revision != traffic.revision]
        if bad:
            findings.append(Finding(what, Health.FAILED, "; ".join(bad), "its log says why (version_failed)"))
        elif behind:
            detail = f"the traffic row has revision {traffic.revision}; {', '.join(behind)}"
            findings.append(Finding(what, Health.WARNING, detail, "look again: a change takes a second"))
        elif logged.late:
            hint = "see `spool` there; no look is closed without its rows"
            findings.append(Finding(what, Health.WARNING, logged.missing, hint))
        else:
            findings.append(Finding(what, Health.OK, f"{len(routed)} processes, versions {', '.join(wanted)} ready"))
    return findings or [Finding("gateways", Health.UNUSED, "no model to ask them about")]


def _log(parts: Wiring) -> list[Finding]:
    now = datetime.now(UTC)
    where = "PostgreSQL" if parts.settings.log_url else str(parts.settings.log_dir)
    findings = []
    for traffic in parts.store.all_traffic():
        what = f"log of {traffic.model}"
        counts = parts.monitoring_log.monitored(traffic.model, traffic.champion, now - _RECENT, now, timedelta(0))
        said = f"{where}: {counts.requests:,} requests of version {traffic.champion} in the last hour"
        if counts.requests:
            findings.append(Finding(what, Health.OK, said))
        else:
            remedy = "send requests through the gateway; if there are some, see its spool's error in /status"
            findings.append(Finding(what, Health.WARNING, said, remedy))
    return findings or [Finding("log", Health.UNUSED, f"{where}: no model to look for")]


def _fit(parts: Wiring) -> list[Finding]:
    """Whether log and store are of the same time: after a restore one of them may be older than the other."""
    from model_rollouts.adapters.log_fit import routed

    now = datetime.now(UTC)
    findings = []
    for traffic in parts.store.all_traffic():
        known = {rollout.id for rollout in parts.store.rollouts(traffic.model, limit=_MOST_ROLLOUTS)}
        said, rows = [], routed(parts.log_root, traffic.model, now - _FITTING, now + _FITTING)
        for row in rows:
            name = f"rollout {row.rollout_id}" if row.rollout_id else "no rollout"
            if row.rollout_id and row.rollout_id not in known and len(known) < _MOST_ROLLOUTS:
                said.append(f"rows of {name}, which the store does not know, until {row.newest:%Y-%m-%d %H:%M:%S}")
            elif row.revision > traffic.revision:
                until = f"until {row.newest:%Y-%m-%d %H:%M:%S}"
                said.append(
                    f"rows of {name} were routed by revision {row.revision} ({until}), and the store is at "
                    f"{traffic.revision}"
                )
        active = parts.store.active(traffic.model)
        if active is not None and (gone := _counted_and_gone(parts, active)):
            said.append(gone)
        if said:
            remedy = "one of the two was restored from a backup: docs/backup.md says what follows"
            findings.append(Finding(f"log and store of {traffic.model}", Health.WARNING, "; ".join(said), remedy))
    return findings


def _counted_and_gone(parts: Wiring, rollout: "Rollout") -> str:
    """That requests of a rollout were counted which the log has no longer, by its last looks: each in its own time."""
    spans, log = parts.service.spans(rollout), parts.service.log
    looks = [
        look
        for look in parts.store.looks(rollout.id)
        if _requests(look) and look.stage in spans and not rollout.plan.stage(look.stage).offline
    ]
    length = timedelta(seconds=rollout.plan.look_seconds)
    counted = found = 0
    times: list[datetime] = []
    for look in sorted(looks, key=lambda look: (look.stage, look.index))[-_COUNTED:]:
        begin = spans[look.stage][0] + look.index * length
        window = Window(look.index, begin, begin + length)
        ((champion, challenger),) = log.request_counts(rollout.model, rollout.id, look.stage, [window])
        have = champion.requests + challenger.requests
        if have < _requests(look):
            counted, found, times = counted + _requests(look), found + have, [*times, begin, begin + length]
    if not times:
        return ""
    return (
        f"{counted:,} requests of {rollout.id} between {min(times):%Y-%m-%d %H:%M:%S} and "
        f"{max(times):%Y-%m-%d %H:%M:%S} were counted, and the log has {f'{found:,}' if found else 'none'} of them"
    )


def _requests(look: "evidence.Look") -> int:
    return look.champion.requests + look.challenger.requests


def _engine(parts: Wiring) -> list[Finding]:
    if parts.settings.engine == "spark":
        from model_rollouts.adapters.spark_engine import SparkEngine

        return [Finding("engine", Health.OK, f"Spark {SparkEngine(parts.settings.spark_master).check()} answers")]
    if parts.settings.log_url:
        from model_rollouts.adapters.postgres_log import PostgresLog

        with PostgresLog(parts.settings.log_url).connect() as connection:
            version = connection.execute("SHOW server_version").fetchone()
        detail = f"{parts.settings.engine}, with PostgreSQL {version and version[0]}"
        return [Finding("engine", Health.OK, detail)]
    import duckdb

    with duckdb.connect() as database:
        version = database.execute("SELECT version()").fetchone()
    return [Finding("engine", Health.OK, f"DuckDB {version and version[0]} answers")]


def _files(parts: Wiring) -> list[Finding]:
    folder = parts.settings.expectations_dir
    missing = [name for name in ("predictions.json", "outcomes.json") if not (folder / name).is_file()]
    if missing:
        remedy = "set MODEL_ROLLOUTS_EXPECTATIONS_DIR to the folder with the suites"
        return [Finding("data checks", Health.FAILED, f"{folder} has no {', '.join(missing)}", remedy)]
    return [Finding("data checks", Health.OK, f"suites in {folder}")]


def _airflow(parts: Wiring) -> list[Finding]:
    url = parts.settings.airflow_url
    if not url:
        detail = "MODEL_ROLLOUTS_AIRFLOW_URL is not set; only data rollbacks by a DAG need it"
        return [Finding("airflow", Health.UNUSED, detail)]
    airflow = parts.airflow()
    states = {dag_id: airflow.dag(dag_id) for dag_id in _DAGS}
    absent = [dag_id for dag_id, found in states.items() if found is None]
    paused = [dag_id for dag_id, found in states.items() if found is not None and found.get("is_paused")]
    if absent:
        detail = f"{url} has no DAG {', '.join(absent)}"
        return [Finding("airflow", Health.WARNING, detail, "put the project's dags/ into its DAG folder")]
    if paused:
        return [Finding("airflow", Health.WARNING, f"{', '.join(paused)}: paused at {url}", "airflow dags unpause")]
    return [Finding("airflow", Health.OK, f"{url}: {', '.join(states)} are there")]


def _webhook(parts: Wiring) -> list[Finding]:
    secret = parts.settings.webhook_secret
    size = len(secret.get_secret_value()) if secret else 0
    if not size:
        return [Finding("webhook", Health.UNUSED, "no secret: the registry is polled")]
    if size < _SHORTEST_SECRET:
        remedy = f"set MODEL_ROLLOUTS_WEBHOOK_SECRET to {_SHORTEST_SECRET} characters or more, in MLflow, too"
        return [Finding("webhook", Health.WARNING, f"the secret has {size} characters and takes nothing", remedy)]
    return [Finding("webhook", Health.OK, "deliveries with the secret's signature are taken")]


_LOOKS: tuple[tuple[str, Look, str], ...] = (
    ("store", _store, "see that the database of MODEL_ROLLOUTS_STORE_URL can be reached"),
    ("registry", _registry, "see that MLflow answers at MLFLOW_TRACKING_URI"),
    ("gateways", _gateways, "see that every process of MODEL_ROLLOUTS_GATEWAY_URL answers"),
    ("engine", _engine, "see that the engine of MODEL_ROLLOUTS_ENGINE is installed and can be reached"),
    ("log", _log, "see that the log of MODEL_ROLLOUTS_LOG_DIR or MODEL_ROLLOUTS_LOG_URL can be read"),
    ("log and store", _fit, "see that the log can be read"),
    ("data checks", _files, ""),
    ("airflow", _airflow, "see that MODEL_ROLLOUTS_AIRFLOW_URL answers, and its user or token"),
    ("webhook", _webhook, ""),
)


def _without_password(url: str) -> str:
    import os

    from model_rollouts.logs import Hiding

    return Hiding(os.environ).text(url)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    text = lines[0] if isinstance(error, RolloutError | ValueError) else f"{type(error).__name__}: {lines[0]}"
    return _without_password(text)[:_SAID_CHARS]
