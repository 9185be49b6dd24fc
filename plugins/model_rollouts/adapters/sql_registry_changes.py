"""What was seen of the registry and what was done about it, in the rollout store's database."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from model_rollouts.adapters.sql_engine import Database
from model_rollouts.adapters.sql_migrate import require_schema
from model_rollouts.adapters.sql_tables import registry_changes, registry_seen
from model_rollouts.core.errors import StaleRevisionError
from model_rollouts.core.registry_events import Intention, RecordedChange
from model_rollouts.core.registry_snapshot import ChangeKind, RegistryChange, Snapshot
from model_rollouts.registry_ports import Seen

_LONGEST_OUTCOME = 2000


class SqlRegistryChanges:
    """Implements `RegistryChanges`. Safe for several threads and processes, and across forks.

    Two that look at once can't both record a change: each counts the model's revision on from the one that it started
    from, and the second finds that it has moved.

    Args:
        url: SQLAlchemy URL of the rollout store.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._checked = False

    def close(self) -> None:
        """Give the connections back."""
        self._database.close()

    def seen(self, models: Collection[str] | None = None) -> Mapping[str, Seen]:
        """Model -> what was seen last; models that were never looked at are left out. None: all models."""
        query = sa.select(registry_seen.c.model, registry_seen.c.snapshot, registry_seen.c.revision)
        if models is not None:
            query = query.where(registry_seen.c.model.in_(sorted(models)))
        with self._read() as connection:
            rows = connection.execute(query).all()
        return {model: Seen(Snapshot.from_dict(snapshot), revision) for model, snapshot, revision in rows}

    def began(self) -> datetime | None:
        """When the first model was looked at, UTC; None: never."""
        with self._read() as connection:
            found: datetime | None = connection.execute(sa.select(sa.func.min(registry_seen.c.first_seen_at))).scalar()
        return found

    def see(self, snapshot: Snapshot, changes: Sequence[RegistryChange], expected_revision: int, at: datetime) -> None:
        """Keep what is seen now and what changed, in one transaction.

        Raises:
            StaleRevisionError: Somebody else has looked, or decided, since.
        """
        with self._write() as connection:
            if expected_revision:
                _count_on(connection, snapshot.model, expected_revision, snapshot)
            else:
                _insert_first(connection, snapshot, at)
            rows = [_from_change(change, at) for change in changes]
            if rows:
                connection.execute(sa.insert(registry_changes), rows)

    def pending(self, model: str | None = None) -> list[RecordedChange]:
        """Changes that are not handled, oldest first."""
        query = sa.select(registry_changes).where(registry_changes.c.handled_at.is_(None))
        if model is not None:
            query = query.where(registry_changes.c.model == model)
        with self._read() as connection:
            rows = connection.execute(query.order_by(registry_changes.c.id)).mappings().all()
        return [_to_recorded(row) for row in rows]

    def with_runs(self, model: str, limit: int = 50) -> list[RecordedChange]:
        """Changes of a model that a DAG run was decided for, newest first."""
        query = (
            sa.select(registry_changes)
            .where(registry_changes.c.model == model, registry_changes.c.dag_run_id.is_not(None))
            .order_by(registry_changes.c.id.desc())
            .limit(limit)
        )
        with self._read() as connection:
            rows = connection.execute(query).mappings().all()
        return [_to_recorded(row) for row in rows]

    def decide(self, model: str, expected_revision: int, decisions: Mapping[int, tuple[Intention, str]]) -> None:
        """Put down what is to be done about changes: by id, the intention and its run id ("" for none).

        Raises:
            StaleRevisionError: Somebody else has looked, or decided, since.
        """
        with self._write() as connection:
            _count_on(connection, model, expected_revision)
            for change_id, (intention, run_id) in decisions.items():
                connection.execute(
                    sa.update(registry_changes)
                    .where(registry_changes.c.id == change_id, registry_changes.c.model == model)
                    .values(
                        intention=intention.to_dict(),
                        dag_id=intention.dag_id if run_id else None,
                        dag_run_id=run_id or None,
                    )
                )

    def handle(self, change_id: int, outcome: str, at: datetime) -> bool:
        """Put down what came of a change. False: somebody else has; theirs stays."""
        plain = outcome.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")[:_LONGEST_OUTCOME]
        statement = (
            sa.update(registry_changes)
            .where(registry_changes.c.id == change_id, registry_changes.c.handled_at.is_(None))
            .values(handled_at=at, outcome=plain)
        )
        with self._write() as connection:
            return bool(connection.execute(statement).rowcount == 1)

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


def _count_on(connection: sa.Connection, model: str, expected: int, snapshot: Snapshot | None = None) -> None:
    """Move the model's revision on. The row's lock makes those who come meanwhile wait, and then find it moved."""
    values = {"revision": expected + 1} | ({"snapshot": snapshot.to_dict()} if snapshot else {})
    statement = (
        sa.update(registry_seen)
        .where(registry_seen.c.model == model, registry_seen.c.revision == expected)
        .values(values)
    )
    if connection.execute(statement).rowcount != 1:
        raise StaleRevisionError(f"what was seen of {model} is not at revision {expected} any more; look again")


def _insert_first(connection: sa.Connection, snapshot: Snapshot, at: datetime) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    row = {"model": snapshot.model, "snapshot": snapshot.to_dict(), "revision": 1, "first_seen_at": at}
    statement = insert(registry_seen).values(row).on_conflict_do_nothing().returning(registry_seen.c.model)
    if connection.execute(statement).first() is None:  # rowcount is not kept for an INSERT
        raise StaleRevisionError(f"{snapshot.model} has been looked at meanwhile; look again")


def _from_change(change: RegistryChange, at: datetime) -> dict[str, object]:
    return {
        "model": change.model,
        "kind": change.kind.value,
        "version": change.version,
        "detail": dict(change.detail),
        "seen_at": at,
    }


def _to_recorded(row: sa.RowMapping) -> RecordedChange:
    return RecordedChange(
        id=row["id"],
        change=RegistryChange(row["model"], ChangeKind(row["kind"]), row["version"], row["detail"]),
        seen_at=row["seen_at"],
        intention=None if row["intention"] is None else Intention.from_dict(row["intention"]),
        run_id=row["dag_run_id"] or "",
        handled_at=row["handled_at"],
        outcome=row["outcome"] or "",
    )
