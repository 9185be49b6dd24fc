# ruff: noqa: S608 - the texts are put together from constants of these modules; every value is a parameter
"""All parts of the evidence from one reading of the log, for who counts the looks of a whole rollout at once.

Requests, units, labels and values are about the same rows. Asked one by one, each of them finds the repeats, joins the
outcomes and tells the units apart anew. Here that is done once, and what is left is a table of small numbers, which the
parts are counted from by the texts that they have anyway. See docs/adr/0028-looks-at-once.md.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from model_rollouts.adapters.carried_looks import Tables, used
from model_rollouts.adapters.delta_cluster_queries import CARRIED, ByClass, LookQuery
from model_rollouts.adapters.delta_files import LogReadError, connect, run_local
from model_rollouts.adapters.delta_log import DeltaPredictionLog
from model_rollouts.adapters.delta_queries import (
    BIN,
    LOOKS,
    REPEAT,
    answers,
    look_parameters,
    outcome_parameters,
    outcome_span,
    placed,
    span,
)
from model_rollouts.adapters.delta_unit_queries import (
    ANSWERED,
    CALL_OF_ROW,
    GOT,
    LABEL_EVIDENCE,
    OF_ROLLOUT,
    UNIT,
    UNIT_COUNTS,
    WRONG,
)
from model_rollouts.adapters.delta_value_queries import VALUE_SUMS
from model_rollouts.adapters.log_places import log_table
from model_rollouts.adapters.query_memory import explained
from model_rollouts.adapters.running_sums import EarlierSums
from model_rollouts.core.evidence import LATENCY_BINS, LATENCY_FLOOR_MS, LATENCY_RATIO
from model_rollouts.ports import StageWindow, Window

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger(__name__)
Found = TypeVar("Found")
_LATENCY = {"floor": LATENCY_FLOOR_MS, "ratio": LATENCY_RATIO, "bins": LATENCY_BINS}
_ARM = "CREATE TYPE arm AS ENUM ('challenger', 'champion')"  # in the order of the texts
_ROWS_AT_ONCE = 3_000_000
_ROWS_IN_ORDER = 1_000_000  # that are put in order at once, which takes some 100 bytes for each
_MOST_CLASSES = 200_000  # that sums are kept for, which takes some 600 bytes for each
_CODE = "hash({})"  # what units are told apart by
_BETWEEN = "epoch_us(ts) >= $low AND epoch_us(ts) < $high"

_ROWS = f"""
CREATE TEMP TABLE at_once AS WITH
{
    answers(
        OF_ROLLOUT,
        ["stage", "arm", "unit", "call", "latency_ms", "bin", "answered", "got", "prediction"],
        f"stage, arm, {_CODE.format(UNIT)} AS unit, {CALL_OF_ROW} AS call, latency_ms, {BIN} AS bin, "
        f"{ANSWERED} AS answered, {GOT} AS got, prediction",
        ", served",
    )
},
{LOOKS},
placed AS ({placed("answers", f"arm, unit, us, call, latency_ms, bin, answered, got, {WRONG} AS wrong, first_value")})
SELECT CAST(look AS INTEGER) AS look, CAST(arm AS arm) AS arm, unit, us, call, latency_ms,
    CAST(CASE WHEN bin < $bins THEN bin END AS SMALLINT) AS bin, CAST(answered AS TINYINT) AS answered,
    CAST(got AS TINYINT) AS got, CAST(wrong AS TINYINT) AS wrong, first_value
FROM placed
"""

_REQUESTS = "SELECT look, arm, bin, count(*) FROM at_once GROUP BY look, arm, bin"
_JUDGED = {
    UNIT_COUNTS: "SELECT look, arm, unit, us, latency_ms, bin IS NULL AS failed, call FROM at_once",
    LABEL_EVIDENCE: "SELECT look, arm, unit, answered, wrong FROM at_once",
    VALUE_SUMS: "SELECT look, arm, unit, got, first_value FROM at_once",
}

# The units of the looks as texts, and whether two of them, or of others, have one code.
_UNITS = f"""
    SELECT {UNIT} AS unit FROM (
        SELECT unit_id, NULL AS request_id FROM {{predictions}}
        WHERE {OF_ROLLOUT} AND {_BETWEEN} AND unit_id IS NOT NULL GROUP BY unit_id
        UNION ALL
        SELECT NULL AS unit_id, request_id FROM {{predictions}}
        WHERE {OF_ROLLOUT} AND {_BETWEEN} AND unit_id IS NULL GROUP BY request_id
    ) AS asking
"""
_SAME_CODE = f"SELECT 1 FROM (%s) AS units GROUP BY {_CODE.format('unit')} HAVING count(*) > 1 LIMIT 1"


class CanNotBeToldApartError(Exception):
    """Two units have one code."""


@contextmanager
def looks_at_once(
    log: DeltaPredictionLog, model: str, rollout_id: str, windows: Sequence[StageWindow], maturity: timedelta
) -> Iterator[DeltaPredictionLog]:
    """The log, for who asks for all parts of all of these looks: they are counted from one reading.

    Whatever else is asked, and everything where the reading does not succeed, is asked of the log as ever.

    Args:
        log: A folder of Delta tables that is asked by DuckDB.
        model: Registered model name.
        rollout_id: The rollout.
        windows: All closed looks of the rollout in order of time, from its first one.
        maturity: A label or value counts up to this long after its request.
    """
    import duckdb

    try:
        once = _AtOnce(log, model, rollout_id, windows, maturity)
    except (LogReadError, CanNotBeToldApartError, duckdb.Error) as error:
        _log.warning("looks of %s are counted part by part: %s", rollout_id, error)
        yield log
        return
    try:
        yield once
    finally:
        once.close()


class _AtOnce(DeltaPredictionLog):
    def __init__(
        self,
        log: DeltaPredictionLog,
        model: str,
        rollout_id: str,
        windows: Sequence[StageWindow],
        maturity: timedelta,
    ) -> None:
        super().__init__(log.root)
        self._about = (model, rollout_id)
        self._windows, self._maturity = tuple(windows), maturity
        low, high = span([each.window for each in windows])
        self._predictions: Tables = {"predictions": (log_table(log.root, model, "predictions"), low, high)}
        self._given = look_parameters(rollout_id, windows) | outcome_parameters(maturity) | _LATENCY
        self._places = {(each.stage, each.window): at for at, each in enumerate(windows)}
        self._requests: dict[int, list[tuple[str, int | None, int]]] = defaultdict(list)
        outcomes = (log_table(log.root, model, "outcomes"), *outcome_span(low, high, maturity))
        database: duckdb.DuckDBPyConnection = connect()
        self._database = database
        try:
            database.execute(_ARM)
            database.execute("SET preserve_insertion_order = false")  # which takes memory, and nothing asks for it
            self._tell_apart(_UNITS)
            self._empty = self._log_query(_ROWS, {**self._predictions, "outcomes": outcomes}) is None
            if not self._empty:
                for at, arm, index, n in self._query(_REQUESTS, {}):
                    self._requests[at].append((arm, index, n))
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Forget what was read."""
        self._database.close()

    def _request_rows(
        self, model: str, rollout_id: str, stage: int, windows: Sequence[Window]
    ) -> list[tuple[int, str, int | None, int]]:
        places = [self._places.get((stage, window)) for window in windows]
        if (model, rollout_id) != self._about or None in places:
            return super()._request_rows(model, rollout_id, stage, windows)
        return [(at, *row) for at, place in enumerate(places) if place is not None for row in self._requests[place]]

    def _looks(
        self,
        query: LookQuery,
        model: str,
        rollout_id: str,
        windows: Sequence[StageWindow],
        fresh: int,
        given: dict[str, Any],
        maturity: timedelta | None = None,
        prior: tuple[datetime, datetime] | None = None,
        beyond: timedelta = timedelta(0),
    ) -> list[tuple[Any, ...]]:
        known = (model, rollout_id) == self._about and tuple(windows) == self._windows[: len(windows)]
        if not known or fresh or query not in _JUDGED or maturity not in (None, self._maturity):
            return super()._looks(query, model, rollout_id, windows, fresh, given, maturity, prior, beyond)
        if not windows or self._empty:
            return []
        if prior is not None:
            try:
                self._before(model, prior, given)
            except CanNotBeToldApartError as error:
                _log.warning("business values of %s are counted by themselves: %s", rollout_id, error)
                return super()._looks(query, model, rollout_id, windows, fresh, given, maturity, prior, beyond)
        asked = given | {"fresh": 0}
        judged = f"judged AS ({_JUDGED[query]} WHERE look >= $begin AND look < $end)"
        try:
            into = f"CREATE TEMP TABLE {query.kept} AS"
            for begin, end in self._runs(len(windows)):  # what is kept is of one look each
                text = f"{into} WITH {judged},{query.tallies} SELECT * FROM {query.kept}"
                self._query(text, asked | {"begin": begin, "end": end})
                into = f"INSERT INTO {query.kept}"
            return self._added_up(query, asked)
        finally:
            for table in (query.kept, query.mean, "classes", "sums"):
                self._query(f"DROP TABLE IF EXISTS {table}", {})

    def _runs(self, count: int) -> Iterator[tuple[int, int]]:
        """First look and the one after the last of runs that have not too many rows, for the first looks."""
        begin, rows = 0, 0
        for at in range(count):
            rows += sum(n for *_, n in self._requests[at])
            if rows >= _ROWS_AT_ONCE or at == count - 1:
                yield begin, at + 1
                begin, rows = at + 1, 0

    def _added_up(self, query: LookQuery, asked: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """From `kept` to the result, for some units after the other: what each of them takes fits into the memory."""
        self._query(f"CREATE TEMP TABLE {query.mean} AS WITH {query.means} SELECT * FROM {query.mean}", asked)
        rows = self._query(f"SELECT count(*) FROM {query.kept}", {})[0][0]
        text, last, into = query.sums, "sums", "CREATE TEMP TABLE sums AS"
        if query.by_class is not None and self._add_up_by_class(query, query.by_class, rows, asked):
            text, last, into = query.by_class.new_units, "new_units", "INSERT INTO sums"
        count = rows // _ROWS_AT_ONCE + 1
        for part in range(count if text else 0):
            chosen = f"chosen AS (SELECT * FROM {query.kept} WHERE {_of_part(part, count)})"
            nothing = query.nothing(arm="arm", unit="UBIGINT")
            self._query(f"{into} WITH {chosen},{text.replace(CARRIED, nothing)} SELECT * FROM {last}", asked)
            into = "INSERT INTO sums"
        return self._query(query.result, asked)

    def _add_up_by_class(self, query: LookQuery, by: ByClass, rows: int, asked: Mapping[str, Any]) -> bool:
        """Make `sums` of what units did in a look and before it; False where that is too much to keep."""
        kinds = (
            f"SELECT 1 FROM {query.kept} GROUP BY prefix, arm, look, {', '.join(by.alike)} LIMIT {_MOST_CLASSES + 1}"
        )
        classes = self._query(f"SELECT count(*) FROM ({kinds})", {})[0][0]
        if classes > _MOST_CLASSES:
            return False
        self._query(f"CREATE TEMP TABLE classes AS WITH {by.classes} SELECT * FROM classes", asked)
        worth = self._columns(f"SELECT {', '.join(by.sums)} FROM classes ORDER BY id", {})
        earlier = EarlierSums([worth[name] for name in by.sums])
        count = rows // _ROWS_IN_ORDER + 1
        for part in range(count):
            members = f"""
                SELECT unit, CAST(arm = 'champion' AS INTEGER) AS side, look, CAST(id AS INTEGER) AS id
                FROM (SELECT * FROM {query.kept} WHERE prefix = '' AND {_of_part(part, count)}) AS chosen
                    JOIN (SELECT * FROM classes WHERE prefix = '') AS classes
                    USING (arm, look, {", ".join(by.alike)})
            """
            found = self._columns(members, {})
            try:
                earlier.add(found["unit"], found["side"], found["look"], found["id"])
            except OverflowError:
                self._query("DROP TABLE classes", {})
                return False
        self._database.register("halves", pa.table({"id": np.arange(classes), **earlier.columns(by.sums)}))
        try:
            self._query(f"CREATE TEMP TABLE sums AS WITH {by.result} SELECT * FROM of_looks", asked)
        finally:
            self._database.unregister("halves")
        return True

    def _before(self, model: str, prior: tuple[datetime, datetime], given: Mapping[str, Any]) -> None:
        """Make the table of what units were worth before the rollout."""
        low, high = prior[0] - REPEAT, prior[1]
        tables: Tables = {
            "predictions": (log_table(self.root, model, "predictions"), low, high),
            "outcomes": (log_table(self.root, model, "outcomes"), *outcome_span(low, high, self._maturity)),
        }
        self._query("DROP TABLE IF EXISTS worth", {})
        self._query("CREATE TEMP TABLE earlier (unit VARCHAR, x HUGEINT)", {})
        try:
            text = f"INSERT INTO earlier WITH {VALUE_SUMS.beside} SELECT unit, x FROM worth"
            if self._log_query(text, tables, given) and self._query("SELECT unit FROM earlier LIMIT 1", {}):
                self._tell_apart(f"{_UNITS} UNION SELECT unit FROM earlier")
            self._query(f"CREATE TEMP TABLE worth AS SELECT {_CODE.format('unit')} AS unit, x FROM earlier", {})
        finally:
            self._query("DROP TABLE earlier", {})

    def _tell_apart(self, units: str) -> None:
        found = self._log_query(_SAME_CODE % units, self._predictions)
        if found is not None and found.fetchall():
            raise CanNotBeToldApartError("two units have one hash")

    def _log_query(
        self, text: str, tables: Tables, given: Mapping[str, Any] | None = None
    ) -> "duckdb.DuckDBPyConnection | None":
        return run_local(text, tables, used(text, {**self._given, **(given or {})}), self._database)

    def _query(self, text: str, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return self._found(text, given, lambda result: result.fetchall())

    def _columns(self, text: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return self._found(text, given, lambda result: result.fetchnumpy())

    def _found(
        self, text: str, given: Mapping[str, Any], fetch: "Callable[[duckdb.DuckDBPyConnection], Found]"
    ) -> Found:
        import duckdb

        try:
            return fetch(self._database.execute(text, used(text, {**self._given, **given})))
        except duckdb.Error as error:
            raise LogReadError(f"looks of {self._about[1]}: {explained(error)}") from error


def _of_part(part: int, count: int) -> str:
    """Some of the units, and in the first part all rows that are of none.

    Beside numbers of another type the hash becomes one of 128 bits, which is ten times slower.
    """
    return f"(unit % CAST({count} AS UBIGINT) = {part}{' OR unit IS NULL' if part == 0 else ''})"
