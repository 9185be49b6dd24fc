"""Runs the log's queries in Spark, over a Delta table's current files. See docs/adr/0018-engines.md."""

import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.delta_files import NO_ROWS, current_files
from model_rollouts.adapters.log_errors import LogReadError
from model_rollouts.adapters.log_places import LogPlace, QueryResult
from model_rollouts.adapters.query_rows import Rows
from model_rollouts.adapters.sql_dialects import TABLE, translated

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TRIES = 3
_DUCKDB_TYPES = {"double": "DOUBLE", "string": "VARCHAR"}
_GONE = ("FAILED_READ_FILE", "PATH_NOT_FOUND", "FileNotFoundException")
# What the queries mean must not be up to the settings of a cluster.
_SESSION = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.decimalOperations.allowPrecisionLoss": "true",
    "spark.sql.parquet.mergeSchema": "true",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
_starting = threading.Lock()


class SparkEngine:
    """Implements `QueryEngine` for logs of Delta tables.

    The first query starts Spark, which takes seconds, and keeps it until the process ends.

    Args:
        master: Spark's master, such as `local[*]` or `spark://host:7077`.
    """

    def __init__(self, master: str = "local[*]") -> None:
        self.master = master

    def check(self) -> str:
        """Spark's version, once it has answered.

        Raises:
            LogReadError: Spark or Java is missing, or the master can't be reached.
        """
        session = self._session()
        try:
            session.sql("SELECT 1").collect()
        except _errors() as error:
            raise LogReadError(f"Spark at {self.master}: {error}") from error
        return str(session.version)

    def run(
        self, sql: str, tables: Mapping[str, tuple[LogPlace, datetime, datetime]], parameters: Mapping[str, Any]
    ) -> QueryResult | None:
        """See `delta_files.run`."""
        told = ", ".join(str(place) for place, _, _ in tables.values())
        query = translated(sql, "spark", parameters)
        given = {
            name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in parameters.items()
        }
        for attempt in range(_TRIES):
            files = {name: current_files(_path(place), start, end) for name, (place, start, end) in tables.items()}
            if not next(iter(files.values())):
                return None
            try:
                return self._rows(query.before, query.text, files, given)
            except _errors() as error:
                # Vacuumed between the listing and the reading: list again.
                if attempt == _TRIES - 1 or not any(word in str(error) for word in _GONE):
                    raise LogReadError(f"query over {told}: {error}") from error
        raise AssertionError("unreachable")

    def columns(self, place: LogPlace, start: datetime, end: datetime) -> list[tuple[str, str]] | None:
        """See `delta_files.columns_of`."""
        files = current_files(_path(place), start, end)
        if not files:
            return None
        try:
            found = self._session().read.parquet(*map(_uri, files)).dtypes
        except _errors() as error:
            raise LogReadError(f"files of {place}: {error}") from error
        return [(name, _DUCKDB_TYPES.get(kind, kind.upper())) for name, kind in found]

    def _rows(
        self,
        before: tuple[tuple[str, str], ...],
        text: str,
        files: Mapping[str, list[str]],
        parameters: Mapping[str, Any],
    ) -> Rows:
        spark = self._session()
        for name, paths in files.items():
            found = spark.read.parquet(*map(_uri, paths)) if paths else spark.sql(_nothing(name))
            found.createOrReplaceTempView(TABLE.format(name))
        kept: list[DataFrame] = []
        try:
            for name, made in before:
                # Worked out here, and without its past: a table that is kept by its plan is planned anew, with all
                # that it is made of, each time that it is named.
                kept.append(spark.sql(made, args=dict(parameters)).localCheckpoint(eager=True))
                kept[-1].createOrReplaceTempView(name)
            result = spark.sql(text, args=dict(parameters)).toArrow()
        finally:
            for each in kept:
                each._jdf.logicalPlan().rdd().unpersist(False)  # Spark frees it too, but only when Java collects it
        columns = [column.to_pylist() for column in result.columns]
        return Rows(result.schema, list(zip(*columns, strict=True)))

    def _session(self) -> "SparkSession":
        """A session of its own, so that what one query names is not seen by another."""
        with _starting:
            session = _started(self.master).newSession()
        for name, value in _SESSION.items():
            session.conf.set(name, value)
        if self.master.startswith("local"):  # the default is made for clusters
            session.conf.set("spark.sql.shuffle.partitions", session.sparkContext.defaultParallelism)
        return session


def _started(master: str) -> "SparkSession":
    """The process's Spark.

    Raises:
        LogReadError: Spark or Java is not there, or does not start.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise LogReadError(
            "MODEL_ROLLOUTS_ENGINE is spark and pyspark is not installed; pip install 'model-rollouts[spark]'"
        ) from error
    home = os.environ.get("JAVA_HOME")
    if not (home and (Path(home) / "bin" / "java").exists()) and shutil.which("java") is None:
        raise LogReadError(
            "MODEL_ROLLOUTS_ENGINE is spark and there is no Java; install 17 or 21 (openjdk-17-jre-headless) "
            "or say where it is with JAVA_HOME"
        )
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.warehouse.dir": tempfile.gettempdir(),
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
    }
    if master.startswith("local"):  # nobody from outside has a part in it
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    builder = SparkSession.builder.appName("model-rollouts").master(master)
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except _errors() as error:
        raise LogReadError(f"Spark at {master} does not start: {error}") from error


def _errors() -> tuple[type[Exception], ...]:
    """What Spark raises."""
    try:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
    except ImportError:
        return ()
    return (PySparkException, Py4JError, OSError)


def _nothing(name: str) -> str:
    from sqlglot import transpile

    return transpile(f"SELECT {NO_ROWS[name]} WHERE false", read="duckdb", write="spark")[0]


def _uri(file: str) -> str:
    """A file on this machine, or on one that has the same folders, whatever the cluster's own file system is."""
    return file if "://" in file else f"file://{file}"


def _path(place: LogPlace) -> Path:
    if not isinstance(place, Path):
        raise LogReadError(f"{place} is no Delta table; Spark reads logs in MODEL_ROLLOUTS_LOG_DIR only")
    return place.absolute()
