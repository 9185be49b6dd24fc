"""What the page asks of the rollout store: lists with filters, and the looks that are new since the last time.

Lists read what a row of them shows, not whole plans; a store of thousands of rollouts is asked many times a minute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from model_rollouts.adapters import sql_tables as tables
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_migrate import require_schema
from model_rollouts.adapters.sql_rows import to_look
from model_rollouts.core.evidence import Look
from model_rollouts.core.rollout import EventKind, State

_T, _R, _L, _E = tables.traffic.c, tables.rollouts.c, tables.looks.c, tables.events.c
_PATTERN = _R.plan["pattern"].as_string()
_RANK = sa.case((_R.state == State.HOLDING.value, 0), (_R.ended_at.is_(None), 1), else_=2)
_MOST_MODELS = 1000
_MOVES = (EventKind.STARTED.value, EventKind.STAGE_OPENED.value)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which rollouts are asked for.

    Attributes:
        patterns: Those that may be seen; None: all.
        states: Only these; empty: all.
        pattern: Only this one.
        model: Only this one.
        text: Part of the id, the model, a version or who started it, in any case.
        limit: Most rows.
        offset: Rows to leave out.
    """

    patterns: tuple[str, ...] | None = None
    states: tuple[str, ...] = ()
    pattern: str = ""
    model: str = ""
    text: str = ""
    limit: int = 50
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout as a list shows it.

    Attributes:
        id: Its id.
        model: Registered model name.
        champion: Version that served when it began.
        challenger: Version that wants to.
        state: Where it is.
        stage: Position of the open (or last) stage.
        revision: Its revision.
        created_at: When it began.
        created_by: Who started it.
        opened_at: When its stage's traffic moved.
        judged_from: When its stage's time began.
        ended_at: When it ended.
        reason: Why it is in its state.
        plan: Its plan, in JSON types, not validated.
        share: The challenger's share now, in percent.
        moved_at: When its state last changed.
    """

    id: str
    model: str
    champion: str
    challenger: str
    state: str
    stage: int
    revision: int
    created_at: datetime
    created_by: str
    opened_at: datetime | None
    judged_from: datetime | None
    ended_at: datetime | None
    reason: str
    plan: Mapping[str, Any]
    share: float
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class Found:
    """One page of a list.

    Attributes:
        rows: Held ones first, which wait for a person; then those that go on, then the newest.
        total: How many there are in all.
        by_state: How many of each state there are, whatever states were asked for.
        models: Names of the models that may be seen, the first thousand.
    """

    rows: Sequence[Row]
    total: int
    by_state: Mapping[str, int]
    models: Sequence[str]


class SqlPage:
    """Reads for the page. Safe for several threads.

    Args:
        url: SQLAlchemy URL of the rollout store.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._checked = False

    def rollouts(self, asked: Asked) -> Found:
        """One page of the rollouts that were asked for."""
        with self._read() as connection:
            where = _conditions(asked)
            counts = connection.execute(
                sa.select(_R.state, sa.func.count()).where(*where).group_by(_R.state).order_by(_R.state)
            ).all()
            by_state = {str(state): int(count) for state, count in counts}
            if asked.states:
                where = [*where, _R.state.in_(asked.states)]
            ids = (
                connection.execute(
                    sa.select(_R.id)
                    .where(*where)
                    .order_by(_RANK, _R.created_at.desc(), _R.id.desc())
                    .limit(asked.limit)
                    .offset(asked.offset)
                )
                .scalars()
                .all()
            )
            rows = self._rows(connection, ids)
            seen = _conditions(Asked(patterns=asked.patterns))
            models = connection.execute(
                sa.select(_R.model).where(*seen).distinct().order_by(_R.model).limit(_MOST_MODELS)
            ).scalars()
            named = [str(model) for model in models]
        total = sum(n for state, n in by_state.items() if not asked.states or state in asked.states)
        return Found(rows, total, by_state, named)

    def ids_of_run(self, dag_id: str, run_id: str) -> list[str]:
        """The rollouts that a DAG run has to do with, newest first.

        A run is on record with what it started, opened or took up.
        """
        run = _E.evidence["run"]
        with self._read() as connection:
            found = connection.execute(
                sa.select(_E.rollout_id)
                .where(
                    _E.rollout_id.is_not(None),
                    run["run_id"].as_string() == run_id,
                    run["dag_id"].as_string() == dag_id,
                    _E.kind.in_([*_MOVES, EventKind.TAKEN_UP.value, EventKind.RESUMED.value]),
                )
                .order_by(_E.id.desc())
            ).scalars()
            return list(dict.fromkeys(str(each) for each in found))

    def looks_after(self, rollout_id: str, stage: int, look: int, most: int) -> list[Look]:
        """The looks that follow one, in order of stage and index."""
        query = (
            sa.select(tables.looks)
            .where(_L.rollout_id == rollout_id, sa.tuple_(_L.stage, _L.look) > sa.tuple_(stage, look))
            .order_by(_L.stage, _L.look)
            .limit(most)
        )
        with self._read() as connection:
            return [to_look(row) for row in connection.execute(query).mappings()]

    def labelled_from(self, rollout_id: str, stage: int, look: int, until: tuple[int, int], most: int) -> list[Look]:
        """Looks that have labels, from one to another, both included, in order."""
        query = (
            sa.select(tables.looks)
            .where(
                _L.rollout_id == rollout_id,
                sa.tuple_(_L.stage, _L.look) >= sa.tuple_(stage, look),
                sa.tuple_(_L.stage, _L.look) <= sa.tuple_(*until),
                _L.labels.is_not(sa.null()),
            )
            .order_by(_L.stage, _L.look)
            .limit(most)
        )
        with self._read() as connection:
            return [to_look(row) for row in connection.execute(query).mappings()]

    def look_counts(self, rollout_id: str) -> dict[int, int]:
        """How many looks each stage has."""
        query = sa.select(_L.stage, sa.func.count()).where(_L.rollout_id == rollout_id).group_by(_L.stage)
        with self._read() as connection:
            return {int(stage): int(count) for stage, count in connection.execute(query)}

    # --- inside

    @staticmethod
    def _rows(connection: sa.Connection, ids: Sequence[str]) -> list[Row]:
        if not ids:
            return []
        columns = [column for column in tables.rollouts.c if column.name != "salt"]
        now = [_T.champion.label("champion_now"), _T.challenger.label("challenger_now"), _T.share.label("share_now")]
        moved = (
            sa.select(_E.rollout_id, sa.func.max(_E.at).label("moved_at"))
            .where(_E.rollout_id.in_(ids), _E.kind.in_(_CHANGES))
            .group_by(_E.rollout_id)
            .subquery()
        )
        query = (
            sa.select(*columns, *now, moved.c.moved_at)
            .select_from(
                tables.rollouts.outerjoin(tables.traffic, _T.model == _R.model).outerjoin(
                    moved, moved.c.rollout_id == _R.id
                )
            )
            .where(_R.id.in_(ids))
        )
        found = {row["id"]: row for row in connection.execute(query).mappings()}
        return [_row(found[each]) for each in ids if each in found]

    def _read(self) -> Any:
        if not self._checked:
            require_schema(self._database)
            self._checked = True
        return self._database.read()


_CHANGES = tuple(
    kind.value
    for kind in (
        EventKind.STARTED,
        EventKind.STAGE_OPENED,
        EventKind.CLEARED,
        EventKind.HELD,
        EventKind.RESUMED,
        EventKind.CUT_OVER,
        EventKind.ROLLED_BACK,
    )
)


def _row(row: sa.RowMapping) -> Row:
    values = dict(row)
    values["moved_at"] = values["moved_at"] or values["ended_at"] or values["opened_at"] or values["created_at"]
    champion, challenger, share = (values.pop(f"{name}_now") for name in ("champion", "challenger", "share"))
    # whatever became of the rollout: others may have moved the version's traffic since
    mine = {challenger: float(share or 0)} | {champion: 100.0 - float(share or 0)} if champion else {}
    return Row(**values, share=mine.get(values["challenger"], 0.0))


def _conditions(asked: Asked) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    wanted = asked.patterns
    if asked.pattern:
        wanted = tuple(p for p in (asked.pattern,) if wanted is None or p in wanted)
    if wanted is not None:
        found.append(_PATTERN.in_(wanted))
    if asked.model:
        found.append(_R.model == asked.model)
    if asked.text:
        columns = (_R.id, _R.model, _R.created_by, _R.challenger, _R.champion)
        found.append(sa.or_(*(column.icontains(asked.text, autoescape=True) for column in columns)))
    return found
