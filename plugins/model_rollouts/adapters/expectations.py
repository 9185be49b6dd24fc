"""Expectations of a Great Expectations suite, evaluated by Great Expectations on all rows, part by part.

What is said of each row by itself, or of the rows of one request, is counted in every part and added up. How many
different values a column has is evaluated on each combination of values once, how many rows there are on their number,
and which columns there are on the first part. Everything else, such as a mean, is evaluated on one part, and says so.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.checked_rows import Rows, TooManyError
from model_rollouts.core.errors import RolloutError

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = 5
_KEY = "request_id"  # what the parts are made by
_ROW_COUNT = "expect_table_row_count_to_be_between"
_DISTINCT = frozenset({"expect_column_unique_value_count_to_be_between"})
_SHAPE = frozenset({"expect_column_to_exist"})  # every part has the same columns
_UNIQUE = frozenset({"expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique"})
_NEEDS_OTHER_ROWS = frozenset(
    {
        "expect_column_values_to_be_increasing",
        "expect_column_values_to_be_decreasing",
        "expect_column_value_z_scores_to_be_less_than",
    }
)
_COUNTS = ("element_count", "missing_count", "unexpected_count")
_EXAMPLES = "partial_unexpected_list"
_POSITION = "model_rollouts.position"
_SITE = "data_docs"


class SuiteError(RolloutError):
    """A suite that can't check anything."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of a suite.

    Attributes:
        results: Every expectation's result as Great Expectations has it, in the order of the suite.
        sampled: Which of them are about one part of the rows alone, by position.
    """

    results: Sequence[Any]
    sampled: frozenset[int]


def evaluate(
    spec: Mapping[str, Any], rows: Rows, window: tuple[datetime, datetime], docs: Path | None = None
) -> Evaluation:
    """Evaluate a suite.

    Args:
        spec: The suite as JSON types.
        rows: What to check.
        window: Values of the parameters `window_start` and `window_end`.
        docs: Folder for Great Expectations' own pages (Data Docs); None: none are made.

    Raises:
        SuiteError: An expectation was lost on the way.
    """
    expectations: Sequence[Mapping[str, Any]] = spec["expectations"]
    kinds = [_kind(each) for each in expectations]
    engine = _Engine(spec, window)
    found: dict[int, Any] = {}
    parts = 0
    for frame in rows.frames():
        wanted = ("each part",) if parts else ("each part", "one part")
        for i, result in engine.run(frame, [i for i, kind in enumerate(kinds) if kind in wanted]).items():
            found[i] = _added(found[i], result) if i in found else result
        parts += 1
    for i, kind in enumerate(kinds):
        if kind == "number of rows":
            found |= engine.run(_so_many(rows.checked), [i])
        elif kind == "combinations":
            try:
                counted = not expectations[i]["kwargs"].get("row_condition")
                found |= engine.run(rows.distinct(_columns(expectations[i]), counted), [i])
            except TooManyError as error:
                found |= engine.run(_so_many(0), [i])
                found[i] = _unknown(found[i], str(error))
    results = [found[i] for i in range(len(expectations))]
    only = (i for i, kind in enumerate(kinds) if kind == "one part" and expectations[i]["type"] not in _SHAPE)
    evaluation = Evaluation(results, frozenset(only if parts > 1 else ()))
    if docs is not None:
        engine.build_docs(results, docs)
    return evaluation


class _Engine:
    """Great Expectations, with one suite."""

    def __init__(self, spec: Mapping[str, Any], window: tuple[datetime, datetime]) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
        import great_expectations as gx

        self._spec = spec
        self._parameters = {"window_start": window[0], "window_end": window[1]}
        self._context = gx.get_context(mode="ephemeral")
        self._context.enable_analytics(False)
        self._context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        asset = self._context.data_sources.add_pandas("log").add_dataframe_asset("rows")
        self._batches = asset.add_batch_definition_whole_dataframe("all")

    def run(self, frame: "pd.DataFrame", at: Sequence[int]) -> dict[int, Any]:
        """Results of some of the suite's expectations on a frame, by position.

        Raises:
            SuiteError: Great Expectations gave no result for one of them.
        """
        if not at:
            return {}
        outcome = self._batches.get_batch({"dataframe": frame}).validate(
            self._suite(at),
            result_format={"result_format": "BASIC", "partial_unexpected_count": EXAMPLES},
            expectation_parameters=self._parameters,
        )
        results = {result.expectation_config.meta.pop(_POSITION): result for result in outcome.results}
        if sorted(results) != sorted(at):
            raise SuiteError(f"{len(results)} of {len(at)} expectations were evaluated; none may be lost")
        return results

    def _suite(self, at: Sequence[int]) -> Any:
        """Results come in an order of their own, so each expectation carries its position."""
        from great_expectations.core import ExpectationSuite

        chosen = [self._spec["expectations"][i] for i in at]
        marked = [
            {**each, "meta": {**(each.get("meta") or {}), _POSITION: i}} for i, each in zip(at, chosen, strict=True)
        ]
        return ExpectationSuite(name=self._spec["name"], expectations=marked, meta=self._spec.get("meta"))

    def build_docs(self, results: Sequence[Any], folder: Path) -> None:
        """Great Expectations' own static pages of the results, with an index."""
        from great_expectations.core import ExpectationSuite, ExpectationSuiteValidationResult, RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )

        name, met = self._spec["name"], sum(bool(result.success) for result in results)
        self._context.suites.add(
            ExpectationSuite(name=name, expectations=self._spec["expectations"], meta=self._spec.get("meta"))
        )
        run = RunIdentifier(run_name="stage")
        whole = ExpectationSuiteValidationResult(
            success=met == len(results),
            results=list(results),
            suite_name=name,
            suite_parameters={key: value.isoformat() for key, value in self._parameters.items()},
            statistics={
                "evaluated_expectations": len(results),
                "successful_expectations": met,
                "unsuccessful_expectations": len(results) - met,
                "success_percent": 100.0 * met / len(results),
            },
            meta={"run_id": run, "active_batch_definition": {"datasource_name": "log", "data_asset_name": "rows"}},
        )
        key = ValidationResultIdentifier(ExpectationSuiteIdentifier(name), run, "log-rows")
        self._context.validation_results_store.add(key, whole)
        for site in self._context.get_site_names():
            self._context.delete_data_docs_site(site)
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}
        config = {
            "class_name": "SiteBuilder",
            "store_backend": store,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
            "show_how_to_buttons": False,
        }
        self._context.add_data_docs_site(site_name=_SITE, site_config=config)
        self._context.build_data_docs(site_names=[_SITE])
        for picture in folder.glob("static/images/*.gif"):  # of a tutorial, and most of the site's bytes
            picture.unlink()


def _kind(expectation: Mapping[str, Any]) -> str:
    """On what an expectation is evaluated, for it to say the same as on all rows at once."""
    from great_expectations.expectations.expectation import (
        ColumnMapExpectation,
        ColumnPairMapExpectation,
        MulticolumnMapExpectation,
    )
    from great_expectations.expectations.registry import get_expectation_impl

    name, kwargs = expectation["type"], expectation["kwargs"]
    if name == _ROW_COUNT and not kwargs.get("row_condition"):
        return "number of rows"
    if name in _DISTINCT and set(kwargs.get("row_condition") or {}) <= {"type", "column", "operator", "parameter"}:
        return "combinations"
    if name in _UNIQUE:
        return "each part" if _KEY in (kwargs.get("column"), *kwargs.get("column_list", ())) else "one part"
    mapped = (ColumnMapExpectation, ColumnPairMapExpectation, MulticolumnMapExpectation)
    if name in _NEEDS_OTHER_ROWS or not issubclass(get_expectation_impl(name), mapped):
        return "one part"
    return "each part"


def _columns(expectation: Mapping[str, Any]) -> list[str]:
    """The columns that an expectation of "combinations" is about."""
    kwargs = expectation["kwargs"]
    condition = kwargs.get("row_condition") or {}
    return list(dict.fromkeys([kwargs["column"], *([condition["column"]["name"]] if condition else [])]))


def _so_many(rows: int) -> "pd.DataFrame":
    """A frame of so many rows, and nothing in them."""
    import pandas as pd

    return pd.DataFrame(index=pd.RangeIndex(rows))


def _unknown(result: Any, why: str) -> Any:
    """The result of an expectation that could not be evaluated: it does not hold."""
    result.success = False
    result.result = {}
    result.exception_info = {
        "model_rollouts": {"raised_exception": True, "exception_message": why, "exception_traceback": ""}
    }
    return result


def _added(one: Any, other: Any) -> Any:
    """The result on two parts together, of an expectation that is said of each row."""
    if _raised(one):
        return one
    if _raised(other):
        return other
    counts = {key: one.result.get(key, 0) + other.result.get(key, 0) for key in _COUNTS if key in one.result}
    filled = counts["element_count"] - counts.get("missing_count", 0)
    unexpected, every = counts["unexpected_count"], counts["element_count"]
    examples = [*(one.result.get(_EXAMPLES) or []), *(other.result.get(_EXAMPLES) or [])][:EXAMPLES]
    one.result.update(counts, **{_EXAMPLES: examples})
    shares = {
        "missing_percent": (counts.get("missing_count"), every),
        "unexpected_percent": (unexpected, filled),
        "unexpected_percent_total": (unexpected, every),
        "unexpected_percent_nonmissing": (unexpected, filled),
    }
    for key, (part, of) in shares.items():
        if key in one.result and part is not None:
            one.result[key] = 100.0 * part / of if of else None
    mostly = one.expectation_config.kwargs.get("mostly")
    one.success = not filled or (filled - unexpected) / filled >= (1.0 if mostly is None else mostly)
    return one


def _raised(result: Any) -> bool:
    """Whether an expectation could not be evaluated."""
    return "element_count" not in result.result or "unexpected_count" not in result.result
