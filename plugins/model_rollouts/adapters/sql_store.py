"""The rollout store: rollouts, traffic, events and looks, on SQLite or PostgreSQL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from model_rollouts.adapters import sql_tables as tables
from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_migrate import Schema, migrate, require_schema, schema_of
from model_rollouts.adapters.sql_rows import (
    from_event,
    from_look,
    from_rollout,
    from_traffic,
    to_event,
    to_look,
    to_rollout,
    to_traffic,
)
from model_rollouts.core.errors import ActiveRolloutError, NotFoundError, StaleRevisionError
from model_rollouts.core.evidence import Look
from model_rollouts.core.rollout import ACTIVE, Change, Event, Rollout
from model_rollouts.core.traffic import Traffic

_IS_ACTIVE = tables.rollouts.c.state.in_(sorted(ACTIVE))


class SqlStore:
    """Implements `RolloutStore` and `EvidenceStore`. Safe for several threads and processes, and across forks.

    Making one opens nothing. The first use checks that the tables are of this version.

    Args:
        url: SQLAlchemy URL: `sqlite:///<file>` or `postgresql://<user>@<host>/<database>`.

    Raises:
        ValueError: The URL is of another kind of database.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._checked = False

    def migrate(self) -> tuple[str | None, str]:
        """Bring the tables to this version; harmless when they are, and while others run. See `sql_migrate.migrate`."""
        return migrate(self._database)

    def schema(self) -> Schema:
        """What the tables are, beside what this version needs. It can be asked whatever they are."""
        return schema_of(self._database)

    def close(self) -> None:
        """Give the connections back. The store can be used again afterwards."""
        self._database.close()

    # --- rollouts and traffic

    def traffic(self, model: str) -> Traffic | None:
        """The model's row, or None when the model was never adopted."""
        with self._read() as connection:
            row = (
                connection.execute(sa.select(tables.traffic).where(tables.traffic.c.model == model)).mappings().first()
            )
        return None if row is None else to_traffic(row)

    def all_traffic(self) -> list[Traffic]:
        """Every model's row, by model name."""
        with self._read() as connection:
            rows = connection.execute(sa.select(tables.traffic).order_by(tables.traffic.c.model)).mappings().all()
        return [to_traffic(row) for row in rows]

    def rollout(self, rollout_id: str) -> Rollout:
        """One rollout.

        Raises:
            NotFoundError: There is none of this id.
        """
        with self._read() as connection:
            query = sa.select(tables.rollouts).where(tables.rollouts.c.id == rollout_id)
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no rollout {rollout_id!r}; `rollouts status` lists those that there are")
        return to_rollout(row)

    def rollouts(self, model: str | None = None, limit: int = 100) -> list[Rollout]:
        """Newest first, active and ended."""
        query = sa.select(tables.rollouts).order_by(tables.rollouts.c.created_at.desc(), tables.rollouts.c.id.desc())
        if model is not None:
            query = query.where(tables.rollouts.c.model == model)
        with self._read() as connection:
            rows = connection.execute(query.limit(limit)).mappings().all()
        return [to_rollout(row) for row in rows]

    def active(self, model: str) -> Rollout | None:
        """The rollout that holds the model's lease, if any."""
        with self._read() as connection:
            return _active(connection, model)

    def apply(self, change: Change) -> None:
        """Write rollout, traffic and event in one transaction.

        Raises:
            StaleRevisionError: The traffic or the rollout has moved on since it was read.
            ActiveRolloutError: The change starts a rollout and the model has an active one; names it.
        """
        try:
            with self._write() as connection:
                _require_expected(connection, change)
                _write_change(connection, change)
        except IntegrityError:
            # A row that both were to insert can't be locked beforehand. Now that the other one's is there, the same
            # check says whose it is; when it has nothing to say, the change itself breaks a rule of the tables.
            with self._write() as connection:
                _require_expected(connection, change)
            raise

    def events(self, model: str | None = None, rollout_id: str | None = None) -> list[Event]:
        """The audit, oldest first."""
        query = sa.select(tables.events).order_by(tables.events.c.id)
        if model is not None:
            query = query.where(tables.events.c.model == model)
        if rollout_id is not None:
            query = query.where(tables.events.c.rollout_id == rollout_id)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [to_event(row) for row in rows]

    # --- evidence

    def save_looks(self, rollout_id: str, looks: Sequence[Look]) -> None:
        """Keep looks that are not there yet, and labels of looks that have none yet. The first writer wins.

        Raises:
            NotFoundError: There is no such rollout.
        """
        # in one order everywhere, so that two writers can't wait for each other in a circle
        rows = [from_look(rollout_id, look) for look in sorted(looks, key=lambda look: (look.stage, look.index))]
        if not rows:
            return
        with self._write() as connection:
            known = sa.select(tables.rollouts.c.id).where(tables.rollouts.c.id == rollout_id)
            if connection.execute(known).first() is None:
                raise NotFoundError(f"there is no rollout {rollout_id!r} to keep looks of")
            insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            connection.execute(insert(tables.looks).on_conflict_do_nothing(), rows)
            fill = (
                sa.update(tables.looks)
                .where(
                    tables.looks.c.rollout_id == rollout_id,
                    tables.looks.c.stage == sa.bindparam("in_stage"),
                    tables.looks.c.look == sa.bindparam("at_look"),
                    tables.looks.c.labels.is_(sa.null()),
                )
                .values(labels=sa.bindparam("new_labels", type_=tables.looks.c.labels.type))
            )
            labelled = [
                {"in_stage": row["stage"], "at_look": row["look"], "new_labels": row["labels"]}
                for row in rows
                if row["labels"] is not None
            ]
            if labelled:
                connection.execute(fill, labelled)

    def looks(self, rollout_id: str) -> list[Look]:
        """In order of stage and index."""
        query = (
            sa.select(tables.looks)
            .where(tables.looks.c.rollout_id == rollout_id)
            .order_by(tables.looks.c.stage, tables.looks.c.look)
        )
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [to_look(row) for row in rows]

    def looks_since(self, rollout_id: str, last: tuple[int, int], unlabelled: tuple[int, int] | None) -> list[Look]:
        """Looks that came after those that are known, and known ones that have their labels by now, in order."""
        own = tables.looks.c
        place = sa.tuple_(own.stage, own.look)
        wanted = place > sa.tuple_(*last)
        if unlabelled is not None:
            wanted |= (place >= sa.tuple_(*unlabelled)) & own.labels.is_not(sa.null())
        query = sa.select(tables.looks).where(own.rollout_id == rollout_id, wanted).order_by(own.stage, own.look)
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [to_look(row) for row in rows]

    def look_counts(self, rollout_id: str) -> tuple[int, int]:
        """(how many looks there are, how many of them, from the first on, have their labels), without reading them."""
        own = tables.looks.c
        mine, place = own.rollout_id == rollout_id, sa.tuple_(own.stage, own.look)
        waiting = (
            sa.select(own.stage, own.look).where(mine, own.labels.is_(sa.null())).order_by(own.stage, own.look).limit(1)
        )
        with self._read() as connection:
            count = connection.execute(sa.select(sa.func.count()).select_from(tables.looks).where(mine)).scalar_one()
            first = connection.execute(waiting).first()
            if first is None:
                return int(count), int(count)
            before = sa.select(sa.func.count()).select_from(tables.looks).where(mine, place < sa.tuple_(*first))
            return int(count), int(connection.execute(before).scalar_one())

    # --- inside

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        self._require_schema()
        with self._database.read() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        self._require_schema()
        with self._database.write() as connection:
            yield connection

    def _require_schema(self) -> None:
        if not self._checked:
            require_schema(self._database)
            self._checked = True


def _active(connection: sa.Connection, model: str) -> Rollout | None:
    row = connection.execute(sa.select(tables.rollouts).where(tables.rollouts.c.model == model, _IS_ACTIVE)).mappings()
    found = row.first()
    return None if found is None else to_rollout(found)


def _require_expected(connection: sa.Connection, change: Change) -> None:
    """Lock what the change rests on, and compare the revisions.

    The traffic row is locked first, always: it makes the changes of one model follow each other.
    """
    model, rollout = change.event.model, change.rollout
    found = connection.execute(
        sa.select(tables.traffic.c.revision).where(tables.traffic.c.model == model).with_for_update()
    ).scalar()
    if rollout is not None and change.expected_rollout_revision == 0:
        other = _active(connection, model)
        if other is not None and other.id != rollout.id:
            raise ActiveRolloutError(f"model {model} can't take a second rollout: {other.summary}")
    _compare(f"traffic of {model}", change.expected_traffic_revision, found)
    if rollout is not None:
        revision = connection.execute(
            sa.select(tables.rollouts.c.revision).where(tables.rollouts.c.id == rollout.id).with_for_update()
        ).scalar()
        _compare(f"rollout {rollout.id}", change.expected_rollout_revision, revision)


def _compare(what: str, expected: int, found: int | None) -> None:
    if (found or 0) != expected:
        wanted = f"expected revision {expected}" if expected else "expected none yet"
        have = f"is at revision {found}" if found else "is not there"
        raise StaleRevisionError(f"{what} {have}, {wanted}; read it again and decide again")


def _write_change(connection: sa.Connection, change: Change) -> None:
    if change.rollout is not None:
        row = from_rollout(change.rollout)
        if change.expected_rollout_revision:
            connection.execute(sa.update(tables.rollouts).where(tables.rollouts.c.id == change.rollout.id), row)
        else:
            connection.execute(sa.insert(tables.rollouts), row)
    if change.traffic is not None:
        row = from_traffic(change.traffic)
        if change.expected_traffic_revision:
            connection.execute(sa.update(tables.traffic).where(tables.traffic.c.model == change.traffic.model), row)
        else:
            connection.execute(sa.insert(tables.traffic), row)
    connection.execute(sa.insert(tables.events), from_event(change.event))
