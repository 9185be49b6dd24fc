"""How a team's own table of predictions becomes the prediction log's contract: a small YAML file, read and checked.

    model: late flights
    predictions:
      parquet: /data/scored/*.parquet       # or delta: a folder, or postgresql: schema.table
      columns: {request_id: id, ts: scored_at, version: model_version, prediction: late, score: p, unit_id: customer}
      constants: {status: ok}
      features: {distance: distance_km, carrier: carrier}
    outcomes:                               # left out: nothing is known of outcomes
      columns: {request_id: id, ts: known_at, label: was_late}

Outcomes without a source of their own are in the predictions' table. With a column `arm` instead of one for `version`,
`arms` says which value is which role.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # comes with MLflow

from model_rollouts.adapters.delta_schema import SCHEMAS, TableName, feature_column
from model_rollouts.core.errors import RolloutError

_SOURCES = ("parquet", "delta", "postgresql")
_TOP = ("model", "predictions", "outcomes", "answered_by")
_OF_TABLE = (*_SOURCES, "columns", "constants")
_NEEDED: Mapping[TableName, tuple[str, ...]] = {"predictions": ("request_id", "ts"), "outcomes": ("request_id",)}
_MAPPED: Mapping[TableName, tuple[str, ...]] = {
    "predictions": (
        *("request_id", "ts", "version", "arm", "unit_id", "status", "error", "latency_ms", "prediction", "score"),
        "served",
    ),
    "outcomes": ("request_id", "ts", "label", "value"),
}
STATUSES = ("ok", "error", "timeout")
_MAX_BYTES = 1 << 20

Lines = Mapping[tuple[str, ...], int]


class MappingError(RolloutError, ValueError):
    """A mapping that says nothing, or something else than the table has."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a table is.

    Attributes:
        kind: "parquet", "delta" or "postgresql".
        place: Path with wildcards, folder, or schema and table.
    """

    kind: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"


@dataclass(frozen=True, slots=True)
class TableMapping:
    """How a table becomes one of the log's.

    Attributes:
        table: Which one.
        source: Where it is.
        columns: Column of the contract -> column of the source.
        constants: Column of the contract -> its value in every row.
        features: Column of the log, `f_<name>` -> column of the source.
        arms: Value of the source's `arm` column -> "champion" or "challenger".
    """

    table: TableName
    source: Source
    columns: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, str] = field(default_factory=dict)
    arms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchMapping:
    """A team's tables.

    Attributes:
        model: Registered model name, or any name.
        predictions: Its predictions.
        outcomes: Labels and values, or None.
        answered_by_both: Whether both versions answered the same requests, as in a shadow period.
    """

    model: str
    predictions: TableMapping
    outcomes: TableMapping | None
    answered_by_both: bool


def load_mapping(path: Path) -> BatchMapping:
    """Read and check a mapping.

    Raises:
        MappingError: It is wrong; the message names file, line and field, and what must be there.
        OSError: The file can't be read.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise MappingError(f"{path} has {path.stat().st_size} bytes, must have at most {_MAX_BYTES}; it is no mapping")
    try:
        text = path.read_text(encoding="utf-8")
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if getattr(event, "anchor", None):  # an alias of an alias of an alias fills the memory
                line = event.start_mark.line + 1
                raise MappingError(f"{path} line {line}: anchors and aliases are not taken; write it out")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingError(f"{path} is no YAML: {error}") from error
    if node is None:
        raise MappingError(f"{path} is empty; it must name the model, the predictions and their columns")
    lines: dict[tuple[str, ...], int] = {}
    return _Reader(path, _plain(path, node, (), lines), lines).mapping()


class _Reader:
    def __init__(self, path: Path, data: Any, lines: Lines) -> None:
        self._path, self._data, self._lines = path, data, lines

    def mapping(self) -> BatchMapping:
        top = self._object(self._data, (), _TOP)
        model = self._text(top.get("model"), ("model",))
        if "predictions" not in top:
            raise self._wrong((), "predictions are missing, must say where they are and what their columns are")
        answered = top.get("answered_by", "one")
        if answered not in ("one", "both"):
            raise self._wrong(("answered_by",), f"is {answered!r}, must be one or both: whether both versions answered "
                              "the same requests")  # fmt: skip
        predictions = self._table("predictions", top["predictions"], None)
        outcomes = None
        if top.get("outcomes") is not None:
            outcomes = self._table("outcomes", top["outcomes"], predictions)
        return BatchMapping(model, predictions, outcomes, answered == "both")

    def _table(self, table: TableName, data: Any, predictions: TableMapping | None) -> TableMapping:
        at = (table,)
        more = ("features", "arms") if table == "predictions" else ()
        given = self._object(data, at, (*_OF_TABLE, *more))
        source = self._source(given, at) or (predictions.source if predictions else None)
        if source is None:
            raise self._wrong(at, f"has no source, must have one of {', '.join(_SOURCES)}")
        columns = self._columns(given.get("columns"), (*at, "columns"), _MAPPED[table])
        constants = self._object(given.get("constants") or {}, (*at, "constants"), _MAPPED[table])
        self._constants(constants, columns, at)
        if missing := [name for name in _NEEDED[table] if name not in columns]:
            raise self._wrong((*at, "columns"), f"lack {', '.join(missing)}, must name a column for each of them")
        features = self._features(given.get("features") or {}, (*at, "features")) if more else {}
        mapping = TableMapping(table, source, columns, constants, features, self._arms(given, columns, at))
        self._whole(mapping, predictions, at)
        return mapping

    def _whole(self, mapping: TableMapping, predictions: TableMapping | None, at: tuple[str, ...]) -> None:
        known = {*mapping.columns, *mapping.constants}
        if mapping.table == "predictions":
            if "prediction" not in mapping.columns:
                raise self._wrong((*at, "columns"), "lack prediction, must name the column with the answers")
            if not {"version", "arm"} & set(mapping.columns):
                raise self._wrong((*at, "columns"), "lack version and arm, must name one: who gave an answer")
            return
        if not {"label", "value"} & known:
            raise self._wrong((*at, "columns"), "lack label and value, must name at least one")
        own = predictions is None or mapping.source != predictions.source
        if "ts" not in mapping.columns and own:
            raise self._wrong((*at, "columns"), "lack ts, must name when an outcome became known: its table is another")

    def _source(self, given: Mapping[str, Any], at: tuple[str, ...]) -> Source | None:
        named = [kind for kind in _SOURCES if kind in given]
        if not named:
            return None
        if len(named) > 1:
            raise self._wrong((*at, named[1]), f"is there beside {named[0]}, must be left out: one source a table")
        place = self._text(given[named[0]], (*at, named[0]))
        if named[0] != "postgresql" and not Path(place).is_absolute():
            place = str(self._path.parent.absolute() / place)
        return Source(named[0], place)

    def _columns(self, data: Any, at: tuple[str, ...], known: tuple[str, ...]) -> dict[str, str]:
        given = self._object(data or {}, at, known)
        return {name: self._text(column, (*at, name)) for name, column in given.items()}

    def _constants(self, constants: Mapping[str, Any], columns: Mapping[str, str], at: tuple[str, ...]) -> None:
        for name, value in constants.items():
            place = (*at, "constants", name)
            if name in columns:
                raise self._wrong(place, "is a column too, must be one of both")
            if name in ("request_id", "ts", "arm", "prediction", "label"):
                raise self._wrong(place, "must be a column: no two rows are alike in it")
            kind = str(SCHEMAS[at[0]].field(name).type)  # type: ignore[index]  # the table's name
            if name == "status" and value not in STATUSES:
                raise self._wrong(place, f"is {value!r}, must be ok, error or timeout")
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = {"double": number, "bool": isinstance(value, bool), "string": isinstance(value, str)}[kind]
            if not fits:
                raise self._wrong(place, f"is {value!r}, must be of type {kind}; put text in quotes")

    def _features(self, data: Any, at: tuple[str, ...]) -> dict[str, str]:
        if isinstance(data, list):
            data = {self._text(name, at): name for name in data}
        if not isinstance(data, dict):
            raise self._wrong(at, "must be a list of columns, or name: column")
        return {feature_column(str(name)): self._text(column, (*at, str(name))) for name, column in data.items()}

    def _arms(self, given: Mapping[str, Any], columns: Mapping[str, str], at: tuple[str, ...]) -> dict[str, str]:
        arms = self._object(given.get("arms") or {}, (*at, "arms"), ("champion", "challenger"))
        if arms and "arm" not in columns:
            raise self._wrong((*at, "arms"), "need a column arm, must be left out without one")
        values: dict[str, str] = {}
        for arm in ("champion", "challenger") if "arm" in columns else ():
            of_arm = arms.get(arm, arm)
            for value in of_arm if isinstance(of_arm, list) else [of_arm]:
                if str(value) in values:
                    raise self._wrong((*at, "arms", arm), f"has {value!r}, which is a {values[str(value)]} already")
                values[str(value)] = arm
        return values

    def _object(self, data: Any, at: tuple[str, ...], known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(data, dict):
            raise self._wrong(at, f"is {data!r:.60}, must have the fields {', '.join(known)}")
        if unknown := sorted(str(name) for name in data if name not in known):
            raise self._wrong((*at, unknown[0]), f"is not known here, must be one of {', '.join(known)}")
        return data

    def _text(self, value: Any, at: tuple[str, ...]) -> str:
        if not isinstance(value, str) or not value.strip():
            raise self._wrong(at, f"is {value!r:.60}, must be a name; put numbers in quotes")
        return value

    def _wrong(self, at: tuple[str, ...], what: str) -> MappingError:
        line = next((self._lines[at[:end]] for end in range(len(at), -1, -1) if at[:end] in self._lines), 1)
        return MappingError(f"{self._path} line {line}: {'.'.join(at) or 'the mapping'} {what}")


def _plain(path: Path, node: yaml.Node, at: tuple[str, ...], lines: dict[tuple[str, ...], int]) -> Any:
    """The node's value, with the line of each field; a field that is named twice is refused."""
    lines[at] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            if name in found:
                line = key.start_mark.line + 1
                raise MappingError(f"{path} line {line}: {'.'.join((*at, name))} is there twice, must be there once")
            found[name] = _plain(path, value, (*at, name), lines)
            lines[*at, name] = key.start_mark.line + 1
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(path, each, (*at, str(i)), lines) for i, each in enumerate(node.value)]
    return yaml.SafeLoader("").construct_object(node)
