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

from model_rollouts.adapters.delta_cluster_queries import CARRIED, LookQuery
from model_rollouts.adapters.delta_files import connect, run_local
from model_rollouts.adapters.log_places import LogPlace
from model_rollouts.adapters.unit_carry import Carried, Part, UnitCarry, merged

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
        None when the carry can't be used: it is damaged, or its folder is. Ask the log for everything then.

    Raises:
        LogReadError: The log can't be read.
    """
    import duckdb

    try:
        with carry.open((asked.query.kept, asked.query.carried, *asked.about)) as carried:
            parts = carried.parts(asked.looks[: asked.fresh])
            at = parts[-1].end if parts else 0
            connection = _read(asked, at)
            if connection is None:
                return []
            try:
                if asked.beside is not None:
                    _place_beside(connection, carried, asked)
                rows = _rest(connection, asked, parts)
            except duckdb.Error as error:
                _log.warning(
                    "sums over units that were kept in %s can't be read, and are made again: %s", carry.root, error
                )
                carried.forget()
                return None
            try:
                _keep(connection, carried, asked, parts, at)
            except (OSError, duckdb.Error) as error:  # what was counted stands
                _log.warning("sums over units can't be kept in %s: %s", carry.root, error)
                carried.forget()
            return rows
    except OSError as error:
        _log.warning("sums over units can't be kept in %s: %s", carry.root, error)
        return None


def _read(asked: LooksAsked, at: int) -> "duckdb.DuckDBPyConnection | None":
    """A database with the query's own table of the looks from a position on; None where the log has no such rows."""
    query = asked.query
    tables, parameters = asked.source(at)
    head = query.head_of_few if query.head_of_few and len(asked.looks) - at <= _FEW else query.head
    text = f"CREATE TEMP TABLE {query.kept} AS WITH {head} SELECT * FROM {query.kept}"
    return run_local(text, tables, _used(text, parameters))


def _rest(connection: "duckdb.DuckDBPyConnection", asked: LooksAsked, parts: Sequence[Part]) -> list[tuple[Any, ...]]:
    query = asked.query
    files = ", ".join(f"'{part.file}'" for part in parts)
    names = ", ".join(name for name, _ in query.carried)
    carried = f"(SELECT {names} FROM read_parquet([{files}]))" if parts else query.nothing
    text = f"WITH {query.rest.replace(CARRIED, carried)}"
    return connection.execute(text, _used(text, {"fresh": asked.fresh})).fetchall()


def _place_beside(connection: "duckdb.DuckDBPyConnection", carried: Carried, asked: LooksAsked) -> None:
    """The table of what was before the rollout, which is worked out once."""
    assert asked.beside is not None  # noqa: S101 - for the type checker
    file = carried.other("worth")
    if not file.exists():
        tables, parameters = asked.beside
        text = f"CREATE TEMP TABLE worth AS WITH {asked.query.beside} SELECT unit, x FROM worth"
        made = run_local(text, tables, _used(text, parameters)) or connect()
        made.execute("CREATE TEMP TABLE IF NOT EXISTS worth (unit VARCHAR, x HUGEINT)")
        _write(made, "SELECT unit, CAST(x AS DECIMAL(38, 0)) AS x FROM worth", file)
    connection.execute(f"CREATE TEMP TABLE worth AS SELECT unit, CAST(x AS HUGEINT) AS x FROM read_parquet('{file}')")


def _keep(
    connection: "duckdb.DuckDBPyConnection", carried: Carried, asked: LooksAsked, parts: list[Part], at: int
) -> None:
    """Keep the sums over what was read: what is counted for good apart from what the store may not have yet."""
    for first, end in ((at, asked.fresh), (asked.fresh, len(asked.looks))):
        if first == end:
            continue
        text = f"WITH {asked.query.carry}".replace("$first", str(first)).replace("$end", str(end))
        last = _part(connection, carried, asked, (first, end), text)
        if count := merged(parts, last.rows):
            parts = [*parts[:-count], _merge(connection, carried, asked, parts[-count:])] if count > 1 else parts
        parts = [*parts, last]
    carried.keep_only(parts)


def _merge(connection: "duckdb.DuckDBPyConnection", carried: Carried, asked: LooksAsked, parts: Sequence[Part]) -> Part:
    keys = ", ".join(asked.query.keys)
    files = ", ".join(f"'{part.file}'" for part in parts)
    sums = ", ".join(
        f"CAST(sum({name}) AS {kind}) AS {name}" for name, kind in asked.query.carried if name not in asked.query.keys
    )
    text = f"SELECT {keys}, {sums} FROM read_parquet([{files}]) GROUP BY {keys}"
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
        row = connection.execute(f"COPY ({text}) TO '{beside}' (FORMAT parquet)").fetchone()
        beside.replace(file)
    finally:
        beside.unlink(missing_ok=True)
    return int(row[0]) if row else 0


def _used(text: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a text has; DuckDB refuses others."""
    names = set(re.findall(r"\$(\w+)", text))
    return {name: value for name, value in parameters.items() if name in names}
