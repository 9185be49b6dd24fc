"""The log's queries in other engines' words: DuckDB's SQL, translated by sqlglot and by the few rewrites below.

A text is translated once a process. What a rewrite does not know goes to sqlglot as it is, and an engine that does not
know it says so: nothing is dropped in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from sqlglot import exp

Dialect = Literal["postgres", "spark"]
TABLE = "log_{}"  # what a table of the log is called in a translated text
PLACE = "\0{}\0"  # the same for PostgreSQL, whose names have no NUL: nothing else in a text can be taken for it
_TYPES = {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "TEXT", list: "BIGINT[]"}


@dataclass(frozen=True, slots=True)
class Translated:
    """A query in an engine's words.

    Attributes:
        text: The query; a table of the log is `log_<name>`, in PostgreSQL `PLACE` of its name.
        parameters: Names of its parameters: in PostgreSQL the first one is `$1`, in Spark they are `:name`.
        before: Common tables that are to be made before and kept (name, query), in order; only where the engine would
            work them out again each time that they are named.
    """

    text: str
    parameters: tuple[str, ...]
    before: tuple[tuple[str, str], ...] = ()


def translated(
    sql: str, dialect: Dialect, parameters: Mapping[str, Any], stored: Mapping[str, str] | None = None
) -> Translated:
    """A query of the log for an engine.

    Args:
        sql: The query, with `{table}` and `$parameter`.
        dialect: The engine's, as sqlglot calls it.
        parameters: The parameters' values, which tell their types: text, bool, int, float or a list of int.
        stored: Other names of columns, where the engine has them under another one.

    Raises:
        TypeError: A parameter has another type.
        sqlglot.errors.SqlglotError: The text can't be read.
    """
    for name, value in parameters.items():
        whole = isinstance(value, list) and all(type(each) is int for each in value)
        if type(value) not in _TYPES or (isinstance(value, list) and not whole):
            raise TypeError(f"parameter {name} is {value!r}, must be text, bool, int, float or a list of int")
    types = tuple(sorted((name, _TYPES[type(value)]) for name, value in parameters.items()))
    renamed = tuple(sorted((name, short) for name, short in (stored or {}).items() if name in sql))
    return _translated(sql, dialect, types, renamed)


@lru_cache(maxsize=256)
def _translated(
    sql: str, dialect: Dialect, types: tuple[tuple[str, str], ...], renamed: tuple[tuple[str, str], ...]
) -> Translated:
    from sqlglot import exp, parse_one

    names, known, tables = dict(renamed), dict(types), _Tables()
    tree = parse_one(sql.format_map(tables), read="duckdb")
    places = {table: PLACE.format(name) for name, table in tables.items()} if dialect == "postgres" else {}
    used = tuple(sorted({str(each.this) for each in tree.find_all(exp.Placeholder)}))
    if missing := set(used) - known.keys():
        raise KeyError(f"the query has parameters {', '.join(sorted(missing))}, which are not given")
    rewrite = {"postgres": _to_postgres, "spark": _to_spark}[dialect]

    def each(node: "exp.Expr") -> "exp.Expr":
        if isinstance(node, exp.Placeholder):
            at = f"${used.index(str(node.this)) + 1}" if dialect == "postgres" else f":{node.this}"
            kind = "INTEGER" if isinstance(node.parent, exp.Limit) else known[str(node.this)]  # Spark takes no other
            return _parameter(at, kind, dialect)
        if isinstance(node, exp.Identifier) and isinstance(node.parent, exp.Table) and node.name in places:
            return exp.Var(this=places[node.name])
        if isinstance(node, exp.Identifier) and node.name in names:
            return exp.to_identifier(names[node.name], quoted=True)
        return rewrite(node)

    for node in reversed(list(tree.walk())):  # from the leaves, so that what is replaced is made of what was
        made = each(node)
        if made is not node:
            node.replace(made)
    before = _kept(tree) if dialect == "spark" else ()
    return Translated(tree.sql(dialect=dialect), used, before)


class _Tables(dict[str, str]):
    def __missing__(self, name: str) -> str:
        self[name] = TABLE.format(name)
        return self[name]


def _parameter(at: str, kind: str, dialect: Dialect) -> "exp.Expr":
    """A parameter with its type, which the engine could only guess."""
    from sqlglot import exp, parse_one

    marker: exp.Expr = exp.Var(this=at)
    if dialect == "spark" and kind.endswith("[]"):  # given as text: a long list of literals takes seconds
        marker = exp.Anonymous(this="split", expressions=[marker, exp.Literal.string(",")])
    made: exp.Expr = parse_one(f"CAST(x AS {kind})", read="duckdb")
    made.set("this", marker)
    return made


# --- constructs that sqlglot does not translate, or not to the same meaning


def _to_postgres(node: "exp.Expr") -> "exp.Expr":
    from sqlglot import exp

    match _function(node):
        case "epoch_us", [ts]:
            return _template("CAST(EXTRACT(EPOCH FROM {0}) * 1000000 AS BIGINT)", "postgres", ts)
        case "isfinite", [number]:
            return _template("(ABS({0}) < CAST('Infinity' AS DOUBLE PRECISION))", "postgres", number)
        case "hash", [text]:
            return _template("HASHTEXTEXTENDED({0}, 0)", "postgres", text)
    if isinstance(node, exp.TryCast):  # the argument is a text
        kind = node.to.sql(dialect="postgres").lower()
        return _template(
            f"CASE WHEN PG_INPUT_IS_VALID({{0}}, '{kind}') THEN CAST({{0}} AS {kind}) END", "postgres", node.this
        )
    if isinstance(node, exp.Cast) and node.to.is_type(exp.DType.INT128):
        # A double goes into NUMERIC with 15 digits only, but as text with all of them. Halves are rounded away from 0.
        number = node.this.this if isinstance(node.this, exp.Round) else node.this
        return _template("CAST(CAST({0} AS TEXT) AS DECIMAL(38, 0))", "postgres", number)
    if isinstance(node, exp.Filter) and isinstance(node.this, exp.ArgMin):
        return _template("({0})[1]", "postgres", exp.Filter(this=_in_order(node.this), expression=node.expression))
    if isinstance(node, exp.ArgMin) and not isinstance(node.parent, exp.Filter):
        return _template("({0})[1]", "postgres", _in_order(node))
    return _without_asof(node)


def _to_spark(node: "exp.Expr") -> "exp.Expr":
    from sqlglot import exp

    match _function(node):
        case "epoch_us", [ts]:
            return _template("UNIX_MICROS({0})", "spark", ts)
        case "isfinite", [number]:
            return _template("(ABS({0}) < DOUBLE('Infinity'))", "spark", number)
        case "hash", [text]:
            return _template("XXHASH64({0})", "spark", text)
    if isinstance(node, exp.PercentileDisc):
        wanted = node.expression
        if isinstance(wanted, exp.Array):
            return exp.Array(expressions=[_exact_quantile(node.this, each) for each in wanted.expressions])
        return _exact_quantile(node.this, wanted)
    if isinstance(node, exp.Cast) and node.to.is_type(exp.DType.INT128):
        return _template("CAST({0} AS DECIMAL(38, 0))", "spark", node.this)
    if isinstance(node, exp.Select) and _lists(node):
        return _one_explode(node)
    return _without_asof(node)


def _exact_quantile(number: "exp.Expr", part: "exp.Expr") -> "exp.Expr":
    """Spark's own function, for one quantile; sqlglot would take an approximate one."""
    from sqlglot import exp

    order = exp.Order(expressions=[exp.Ordered(this=number.copy())])
    return exp.WithinGroup(this=exp.Anonymous(this="percentile_disc", expressions=[part.copy()]), expression=order)


def _function(node: "exp.Expr") -> tuple[str, list["exp.Expr"]]:
    """Name and arguments of a function that sqlglot has no class for."""
    from sqlglot import exp

    if isinstance(node, exp.Anonymous):
        return str(node.this).lower(), list(node.expressions)
    return "", []


def _template(text: str, dialect: str, *parts: "exp.Expr") -> "exp.Expr":
    """An expression in an engine's own words, with others in the place of `{0}`, `{1}`, ..."""
    return _parsed(text, dialect, len(parts)).transform(
        lambda node: parts[int(node.name[4:])].copy() if _is_part(node) else node
    )


@cache
def _parsed(text: str, dialect: str, parts: int) -> "exp.Expr":
    from sqlglot import parse_one

    return parse_one(text.format(*(f"part{at}" for at in range(parts))), read=dialect)


def _is_part(node: "exp.Expr") -> bool:
    from sqlglot import exp

    return isinstance(node, exp.Column) and node.name.startswith("part") and node.name[4:].isdigit()


def _in_order(node: "exp.ArgMin") -> "exp.Expr":
    """`arg_min(x, struct_pack(a := y, b := z))` as an array of x by y and z."""
    from sqlglot import exp

    key = node.expression
    keys = key.expressions if isinstance(key, exp.Struct) else [key]
    plain = [each.expression if isinstance(each, exp.PropertyEQ) else each for each in keys]
    order = exp.Order(this=node.this, expressions=[exp.Ordered(this=each, nulls_first=False) for each in plain])
    return exp.ArrayAgg(this=order)


def _without_asof(node: "exp.Expr") -> "exp.Expr":
    """`ASOF JOIN looks ON ... AND us >= low` as a plain join: the texts end a look with `us < high` anyway."""
    from sqlglot import exp

    if isinstance(node, exp.Join) and node.method.upper() == "ASOF":
        node.set("method", None)
    return node


def _lists(node: "exp.Select") -> list["exp.Expr"]:
    from sqlglot import exp

    return [each for each in node.expressions if isinstance(each, exp.Alias) and isinstance(each.this, exp.Explode)]


def _one_explode(node: "exp.Select") -> "exp.Select":
    """`SELECT unnest(a) AS x, unnest(b) AS y`: Spark has one such function a query, for arrays put together."""
    from sqlglot import exp

    lists = _lists(node)
    names = [each.alias for each in lists]
    zipped = exp.Anonymous(this="arrays_zip", expressions=[each.this.this for each in lists])
    rows = exp.Aliases(
        this=exp.Anonymous(this="inline", expressions=[zipped]), expressions=[exp.to_identifier(name) for name in names]
    )
    node.set("expressions", [rows])
    return node


def _kept(tree: "exp.Expr") -> tuple[tuple[str, str], ...]:
    """Take the materialized common tables out of a query, each with the plain ones that it needs."""
    from sqlglot import exp

    wrapped = tree.args.get("with_")
    tables = {} if wrapped is None else {table.alias: table for table in wrapped.expressions}
    tree.set("with_", None)

    def needed(query: "exp.Expr") -> list["exp.Expr"]:
        names, left = set[str](), [query]
        while left:
            for table in left.pop().find_all(exp.Table):
                known = tables.get(table.name)
                if known is not None and not known.args.get("materialized") and table.name not in names:
                    names.add(table.name)
                    left.append(known.this)
        return [table.copy() for name, table in tables.items() if name in names]

    kept = []
    for name, table in tables.items():
        if table.args.get("materialized"):
            made = table.copy()
            made.set("materialized", None)
            query = exp.select("*").from_(exp.to_identifier(name))
            query.set("with_", exp.With(expressions=[*needed(table.this), made]))
            kept.append((name, query.sql(dialect="spark")))
    if plain := needed(tree):
        tree.set("with_", exp.With(expressions=plain))
    return tuple(kept)
