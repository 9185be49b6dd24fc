"""A team with many models: a rollout of each in the middle of a stage, an hour of looks behind it, and traffic."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from bench.page_world import looks
from model_rollouts.adapters import sql_tables as tables
from model_rollouts.adapters.delta_writer import DeltaLogWriter
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_rows import from_look
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core import rollout as steps
from model_rollouts.core.evidence import Look
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.plan import Plan
from model_rollouts.core.rollout import Cause, Change, Rollout
from model_rollouts.core.unit_evidence import UnitCounts

PAST_LOOKS, MATURITY, GRACE = 60, 600.0, 2.0
ROWS, OLD_COMMITS = 200, 12  # of a commit; of a model's table before the measurement
_SEED = 5
_SHARE = 25
_UNITS = 1_000_000
_MADE = """
CREATE TABLE bench_made (rollout_id text, stage integer, look integer, labels boolean, at timestamptz);
CREATE FUNCTION bench_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO bench_made VALUES (NEW.rollout_id, NEW.stage, NEW.look, TG_OP = 'UPDATE', clock_timestamp());
  RETURN NULL;
END $$;
CREATE TRIGGER bench_note AFTER INSERT OR UPDATE ON looks FOR EACH ROW EXECUTE FUNCTION bench_note();
"""


def plan_of(look_seconds: float) -> Plan:
    """A canary that is watched for longer than any measurement."""
    parameters = CanaryParameters(
        steps=(_SHARE, 100), look_seconds=look_seconds, grace_seconds=GRACE, label_maturity_seconds=MATURITY,
        bake_seconds=86_400.0, deadline_seconds=2 * 86_400.0,
    )  # fmt: skip
    return plan_canary(parameters)


def fill_store(url: str, count: int, look_seconds: float, *, together: bool) -> list[Rollout]:
    """Make the tables, and a rollout a model with its looks so far, whose labels are there where they are due.

    Args:
        url: An empty database.
        count: How many models.
        look_seconds: Length of a look.
        together: All rollouts began at the same moment, so that their looks are due at the same moment.
    """
    store = SqlStore(url)
    store.migrate()
    rng = np.random.default_rng(_SEED)
    plan = plan_of(look_seconds)
    now = datetime.now(UTC)
    past = timedelta(seconds=PAST_LOOKS * look_seconds)
    rollouts, rows = [], []
    past_rows: list[dict[str, Any]] = []  # the same numbers for all: making them takes longer than writing them
    for number in range(count):
        ahead = 0.0 if together else look_seconds * number / count
        mature = PAST_LOOKS - int((MATURITY + GRACE) // look_seconds) - 1
        rollout = _open(store, f"model-{number:04d}", plan, now - past - timedelta(seconds=ahead))
        rollouts.append(rollout)
        past_rows = past_rows or [from_look("", _split(look)) for look in looks(rng, rollout, PAST_LOOKS)]
        rows += [
            row | {"rollout_id": rollout.id} | ({} if row["look"] < mature else {"labels": None}) for row in past_rows
        ]
    database = Database(url)
    with database.write() as connection:
        for first in range(0, len(rows), 2000):
            connection.execute(sa.insert(tables.looks), rows[first : first + 2000])
        connection.exec_driver_sql(_MADE)
    database.close()
    store.close()
    return rollouts


def _split(look: Look) -> Look:
    """The look with new units as the share deals them; else the first verdict would be on the assignment."""
    champion, challenger = UnitCounts(new=200 - 2 * _SHARE), UnitCounts(new=2 * _SHARE)
    return replace(look, champion_units=champion, challenger_units=challenger)


def _open(store: SqlStore, model: str, plan: Plan, at: datetime) -> Rollout:
    """Take a rollout to its first stage."""

    def take(change: Change | None) -> Change:
        if change is None:
            raise ValueError(f"a step of {model} changes nothing")
        store.apply(change)
        return change

    run = {"dag_id": "canary", "run_id": f"manual__{model}"}
    traffic = take(steps.adopt(model, "1", Cause("bench", at, "adopted"))).traffic
    if traffic is None:
        raise ValueError(f"{model} has no traffic")
    begun = take(steps.start(f"{model}-now", plan, "2", "salt", traffic, Cause("bench", at, "started", {"run": run})))
    if begun.rollout is None or begun.traffic is None:
        raise ValueError(f"{model} has no rollout")
    opened = take(steps.open_stage(begun.rollout, begun.traffic, 0, Cause("bench", at, "opened", {"run": run})))
    if opened.rollout is None:
        raise ValueError(f"{model} has no stage")
    return opened.rollout


class Traffic:
    """What a gateway would log: a commit of requests at a time for each model, and their outcomes.

    Args:
        root: The log.
        rollouts: The rollouts whose models get requests.
    """

    def __init__(self, root: Path, rollouts: list[Rollout]) -> None:
        self.root, self.rollouts = root, rollouts
        self.writer = DeltaLogWriter(root, "bench")
        self.rng = np.random.default_rng(_SEED)
        self.batch = 0

    def fill_past(self, now: datetime) -> None:
        """Tables with some commits each: one is written, the others are copies, as all ask for their own rows only."""
        first = self.rollouts[0].model
        for number in range(OLD_COMMITS):
            self._commit(first, None, now - timedelta(minutes=OLD_COMMITS - number), 60.0)
        for rollout in self.rollouts[1:]:
            shutil.copytree(self.root / first, self.root / rollout.model)

    def commit(self, number: int, start: datetime, seconds: float) -> None:
        """Requests of one model over a span of time."""
        self._commit(self.rollouts[number].model, self.rollouts[number], start, seconds)

    def _commit(self, model: str, rollout: Rollout | None, start: datetime, seconds: float) -> None:
        self.batch += 1
        at = start.timestamp() * 1e6 + np.sort(self.rng.uniform(0, seconds * 1e6, ROWS))
        predictions, outcomes = [], []
        for i in range(ROWS):
            unit = int(self.rng.integers(_UNITS))
            arm = "challenger" if rollout and unit % 100 < _SHARE else "champion"
            request, label = f"{model}-{self.batch}-{i}", int(self.rng.integers(2))
            failed = self.rng.random() < 0.01
            row: dict[str, Any] = {
                "request_id": request, "ts": int(at[i]), "model": model, "version": "2" if arm == "challenger" else "1",
                "arm": arm, "cohort": arm if rollout else None, "served": True,
                "unit_id": f"u{unit}",
                "status": "error" if failed else "ok", "error": "KeyError" if failed else None,
                "latency_ms": float(self.rng.lognormal(2, 0.3)), "prediction": None if failed else str(label),
                "score": None, "gateway_id": "bench", "traffic_revision": 3,
                "rollout_id": rollout.id if rollout else None, "stage": 0 if rollout else None,
                "features": {"distance": float(i), "hour": 3.0, "carrier": "AA"},
            }  # fmt: skip
            predictions.append(row)
            outcomes.append({"request_id": request, "ts": int(at[i]) + 1_000_000, "label": str(label)})
        self.writer.append(model, "predictions", predictions, self.batch)
        self.writer.append(model, "outcomes", outcomes, self.batch)
