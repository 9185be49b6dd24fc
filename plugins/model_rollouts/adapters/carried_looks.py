# ruff: noqa: S608 - the texts are put together from constants of the queries and from numbers
"""Runs a `LookQuery` with DuckDB over the looks that are new, with what units did before from a `UnitCarry`."""

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.delta_cluster_queries import LookQuery
from model_rollouts.adapters.delta_files import connect, run_local
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import LogPlace
from model_rollouts.adapters.outcome_marks import OutcomeMarks, quoted_file
from model_rollouts.adapters.query_memory import explained
from model_rollouts.adapters.unit_carry import Carried, CarryBusyError, Part, UnitCarry, merged

if TYPE_CHECKING:
    import duckdb

_FEW = 20  # looks
_log = logging.getLogger(__name__)

Tables = Mapping[str, tuple[LogPlace, datetime, datetime]]


@dataclass(frozen=True, slots=True)
class LooksAsked:
    """A question about looks of a rollout.

    Attributes:
        query: What is asked.
        about: What tells the question from others, looks apart.
        looks: What tells each look from others, in order from the rollout's first one.
        fresh: The first position to give results for. What is before it is counted for good.
        source: From the position of the first look to read: the tables, and the parameters.
        beside: The tables and the parameters of the query's `beside`.
    """

    query: LookQuery
    about: tuple[Any, ...]
    looks: Sequence[Any]
    fresh: int
    source: Callable[[int], tuple[Tables, Mapping[str, Any]]]
    beside: tuple[Tables, Mapping[str, Any]] | None = None


def carried_rows(carry: UnitCarry, asked: LooksAsked) -> list[tuple[Any, ...]] | None:
    """What `asked.query.whole` gives, with what is carried in the place of older looks, which are not read.

    Returns:
        None when the carry can't be used: it is damaged, busy, or its folder is not this user's. Ask the log for
        everything then.

    Raises:
        LogReadError: The log can't be read.
    """
    import duckdb

    query = asked.query
    try:
        with carry.open((query.kept, query.head, query.beside, query.carry, *asked.about)) as carried:
            worth = None if asked.beside is None else _worth(carried, asked)
            parts = carried.parts(asked.looks[: asked.fresh])
            at = parts[-1].end if parts else 0
            connection = _read(asked, at, OutcomeMarks(carry.scratch))
            if connection is None:
                return []
            try:
                if worth is not None:
                    connection.execute(
                        f"CREATE TEMP TABLE worth AS SELECT unit, CAST(x AS HUGEINT) AS x FROM {_files([worth])}"
                    )
                rows = _rest(connection, asked, parts)
            except duckdb.Error as error:
                if _sound([*(part.file for part in parts), *([worth] if worth else [])]):
                    raise LogReadError(f"looks of {asked.about[0]}: {explained(error)}") from error
                _log.warning("sums over units in %s can't be read, and are made again: %s", carry.scratch, error)
                with carried.writing() as free:
                    if free:
                        carried.forget()
                return None
            try:
                with carried.writing() as free:
                    if free:
                        _keep(connection, carried, asked, at)
            except (OSError, duckdb.Error) as error:  # what was counted stands, and so do the older sums
                _log.warning("sums over units can't be kept in %s: %s", carry.scratch, error)
            return rows
    except (OSError, CarryBusyError, duckdb.Error) as error:  # the last: what was before the rollout can't be written
        _log.warning("sums over units can't be carried in %s: %s", carry.scratch, error)
        return None


def _read(asked: LooksAsked, at: int, marks: OutcomeMarks) -> "duckdb.DuckDBPyConnection | None":
    """A database with the query's own table of the looks from a position on; None where the log has no such rows."""
    query = asked.query
    tables, parameters = asked.source(at)
    few = len(asked.looks) - at <= _FEW
    head = query.head_of_few if few and query.head_of_few else query.head
    text = f"CREATE TEMP TABLE {query.kept} AS WITH {head} SELECT * FROM {query.kept}"
    if not few or not query.asked or not isinstance(tables["predictions"][0], Path):
        return run_local(text, tables, used(text, parameters))
    database = connect()
    make = f"CREATE TEMP TABLE asked AS {query.asked}"
    if run_local(make, {"predictions": tables["predictions"]}, used(make, parameters), database) is None:
        return None
    text = text.replace("{predictions}", "asked")
    others = {name: where for name, where in tables.items() if name != "predictions"}
    since = {"since": parameters["low"] + parameters["repeat"]}  # what is before it tells repeats, and no more
    wanted = "SELECT request_id FROM asked WHERE epoch_us(ts) >= $since"
    return run_local(
        text, others, used(text, parameters), database, lambda files: marks.holding(database, files, wanted, since)
    )


def _rest(connection: "duckdb.DuckDBPyConnection", asked: LooksAsked, parts: Sequence[Part]) -> list[tuple[Any, ...]]:
    query = asked.query
    names = ", ".join(name for name, _ in query.carried)
    carried = f"(SELECT {names} FROM {_files([part.file for part in parts])})" if parts else query.nothing()
    text = f"WITH {query.rest(carried)}"
    return connection.execute(text, used(text, {"fresh": asked.fresh})).fetchall()


def _sound(files: Sequence[Path]) -> bool:
    """Whether all of the files can be read to their ends."""
    import duckdb

    try:
        with connect() as connection:
            for file in files:
                connection.execute(f"SELECT max(hash(COLUMNS(*))) FROM {_files([file])}").fetchall()
    except duckdb.Error:
        return False
    return True


def _worth(carried: Carried, asked: LooksAsked) -> Path:
    """The file of what was before the rollout, which is worked out once."""
    assert asked.beside is not None  # noqa: S101 - for the type checker
    file = carried.other("worth")
    if file.exists():
        return file
    tables, parameters = asked.beside
    text = f"CREATE TEMP TABLE worth AS WITH {asked.query.beside} SELECT unit, x FROM worth"
    with run_local(text, tables, used(text, parameters)) or connect() as made:
        made.execute("CREATE TEMP TABLE IF NOT EXISTS worth (unit VARCHAR, x HUGEINT)")
        _write(made, "SELECT unit, CAST(x AS DECIMAL(38, 0)) AS x FROM worth", file)
    return file


def _keep(connection: "duckdb.DuckDBPyConnection", carried: Carried, asked: LooksAsked, at: int) -> None:
    """Keep the sums over the looks that were read and are counted for good: of the others the store may have none."""
    parts = carried.parts(asked.looks[: asked.fresh])  # as they are now that nobody else may write
    first = parts[-1].end if parts else 0
    if not at <= first < asked.fresh:
        return
    text = f"WITH {asked.query.carry}".replace("$first", str(first)).replace("$end", str(asked.fresh))
    last = _part(connection, carried, asked, (first, asked.fresh), text)
    parts.append(last)
    if count := merged(parts[:-1], last.rows):
        parts[-count - 1 :] = [_merge(connection, carried, asked, parts[-count - 1 :])]
    carried.keep_only(parts)


def _merge(connection: "duckdb.DuckDBPyConnection", carried: Carried, asked: LooksAsked, parts: Sequence[Part]) -> Part:
    keys = ", ".join(asked.query.keys)
    sums = ", ".join(
        f"CAST(sum({name}) AS {kind}) AS {name}" for name, kind in asked.query.carried if name not in asked.query.keys
    )
    text = f"SELECT {keys}, {sums} FROM {_files([part.file for part in parts])} GROUP BY {keys}"
    return _part(connection, carried, asked, (parts[0].first, parts[-1].end), text)


def _part(
    connection: "duckdb.DuckDBPyConnection", carried: Carried, asked: LooksAsked, span: tuple[int, int], text: str
) -> Part:
    first, end = span
    new = carried.other("new")
    rows = _write(connection, text, new)
    file = carried.place(asked.looks, first, end, rows)
    new.replace(file)
    return Part(file, first, end, rows)


def _write(connection: "duckdb.DuckDBPyConnection", text: str, file: Path) -> int:
    """Write a query's rows, as a whole file or none; their number."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        row = connection.execute(
            f"COPY ({text}) TO {quoted_file(beside)} (FORMAT parquet, COMPRESSION lz4_raw)"
        ).fetchone()
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    return int(row[0]) if row else 0


def _files(files: Sequence[Path]) -> str:
    """A FROM clause for files; a folder called `unit=7` on their way is no partition."""
    return f"read_parquet([{', '.join(map(quoted_file, files))}], hive_partitioning = false)"


def used(text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a text has; DuckDB refuses others."""
    names = set(re.findall(r"\$(\w+)", text))
    return {name: value for name, value in parameters.items() if name in names}
