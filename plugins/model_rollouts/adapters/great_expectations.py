"""Data checks of the log with Great Expectations: is the evidence what the contract says it is?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_rollouts.adapters.checked_rows import FrameRows, Rows
from model_rollouts.adapters.expectations import EXAMPLES, Evaluation, SuiteError, evaluate
from model_rollouts.adapters.html_page import banner, heading, link, note, page, table

if TYPE_CHECKING:
    import pandas as pd

_EXAMPLE_LENGTH = 100
_PART = "Evaluated on one part of the rows alone, as it can't be added up."
_ANY_TIME = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC))


__all__ = ["FailedExpectation", "SuiteError", "ValidationResult", "validate"]


@dataclass(frozen=True, slots=True)
class FailedExpectation:
    """One expectation that does not hold.

    Attributes:
        expectation: Its type, such as "expect_column_values_to_not_be_null".
        column: The column, or the columns with commas; "" for the whole table.
        condition: The rows it is about; "" for all of them.
        unexpected: How many rows break it; None where it is not about rows.
        checked: How many rows it looked at; None where it is not about rows.
        examples: Some of the values, cut to 100 characters.
        detail: Why it matters, and what went wrong where it could not be evaluated.
    """

    expectation: str
    column: str
    condition: str
    unexpected: int | None
    checked: int | None
    examples: tuple[str, ...]
    detail: str


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Outcome of a suite on a frame.

    Attributes:
        success: Whether there were rows and every expectation held.
        reason: One sentence for a person.
        evaluated: How many expectations were evaluated.
        failed: Those that do not hold.
        rows_checked: Rows that were looked at.
        rows_total: Rows that there are.
        files: The result as JSON and as HTML, and the folder of Great Expectations' own pages where asked for.
        sampled: How many expectations could be evaluated on a part of `rows_checked` alone.
    """

    success: bool
    reason: str
    evaluated: int
    failed: tuple[FailedExpectation, ...]
    rows_checked: int
    rows_total: int
    files: tuple[Path, ...]
    sampled: int = 0


def validate(
    suite_path: Path,
    rows: "pd.DataFrame | Rows",
    *,
    out_dir: Path,
    rows_total: int | None = None,
    window: tuple[datetime, datetime] | None = None,
    more: Sequence[Mapping[str, Any]] = (),
    docs: bool = False,
) -> ValidationResult:
    """Check rows of the log against a suite, and write down what was found.

    Args:
        suite_path: An ExpectationSuite as JSON; the parameters `window_start` and `window_end` are given to it.
        rows: Rows of the log, or a frame with some of them.
        out_dir: Gets `data_checks_<suite>.json` and `.html`, and with `docs` the folder `data_docs_<suite>`.
        rows_total: Rows that a frame was drawn from, at least its own; None: it is all there is.
        window: Times [start, end) that the rows must lie in, UTC.
        more: Expectations beside those of the suite, as JSON types (see feature_contract.py).
        docs: Whether to make Great Expectations' own pages too.

    Raises:
        SuiteError: The suite has no expectations.
        ValueError: rows_total is out of its bounds.
    """
    import pandas as pd

    if isinstance(rows, pd.DataFrame):
        rows = FrameRows(rows, len(rows) if rows_total is None else rows_total)
    checked: Rows = rows
    spec = json.loads(Path(suite_path).read_text(encoding="utf-8"))
    if not spec.get("expectations"):
        raise SuiteError(f"{suite_path} has no expectations, so it could only pass; add some")
    spec["expectations"] = [*spec["expectations"], *more]
    out_dir.mkdir(parents=True, exist_ok=True)
    pages = (out_dir / f"data_docs_{spec['name']}",) if docs else ()
    evaluation = evaluate(spec, checked, window or _ANY_TIME, *pages)
    results = _sorted(evaluation)
    failed = tuple(_failure(result) for result in results if not result["success"])
    if not checked.checked:
        reason = f"no rows to check, of {checked.total:,} in the log"
    elif failed:
        reason = f"{len(failed)} of {len(results)} expectations do not hold: " + "; ".join(map(_sentence, failed[:3]))
    else:
        reason = f"all {len(results)} expectations hold"
    if 0 < checked.checked < checked.total:
        reason += f" (on {checked.checked:,} of {checked.total:,} rows)"
    success = bool(checked.checked) and bool(results) and not failed
    files = (out_dir / f"data_checks_{spec['name']}.json", out_dir / f"data_checks_{spec['name']}.html")
    counts = (len(results), failed, checked.checked, checked.total)
    outcome = ValidationResult(success, reason, *counts, (*files, *pages), len(evaluation.sampled))
    summary = {key: value for key, value in asdict(outcome).items() if key != "files"}
    document = {**summary, "suite": spec["name"], "results": results}
    files[0].write_text(json.dumps(document, indent=2, default=str), encoding="utf-8")
    files[1].write_text(_render(spec["name"], outcome, results), encoding="utf-8")
    return outcome


def _sorted(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Every expectation's result as JSON types, the failed ones first, without tracebacks."""
    results = []
    for i, found in enumerate(evaluation.results):
        result = _plain(found.to_json_dict())
        results.append(result | ({"why": f"{result['why']} {_PART}".strip()} if i in evaluation.sampled else {}))
    return sorted(results, key=lambda result: (result["success"], result["expectation"], result["column"]))


def _plain(result: Mapping[str, Any]) -> dict[str, Any]:
    config = result["expectation_config"]
    kwargs = {k: v for k, v in config["kwargs"].items() if k not in ("batch_id", "condition_parser", "row_condition")}
    raised = [v["exception_message"] for v in (result.get("exception_info") or {}).values() if isinstance(v, Mapping)]
    return {
        # An expectation that could not be evaluated does not hold.
        "success": result["success"] is True and not raised,
        "expectation": config["type"],
        "column": kwargs.get("column") or ", ".join(kwargs.get("column_list", ())),
        "condition": _condition(config["kwargs"].get("row_condition")),
        "arguments": {k: v for k, v in kwargs.items() if k not in ("column", "column_list")},
        "why": str((config.get("meta") or {}).get("notes", "")),
        "error": "; ".join(sorted(set(raised))),
        "result": result["result"],
    }


def _condition(condition: Mapping[str, Any] | None) -> str:
    if not condition:
        return ""
    if condition.get("type") == "comparison":
        return f"{condition['column']['name']} {condition['operator']} {condition['parameter']}"
    if condition.get("type") == "nullity":
        return f"{condition['column']['name']} is {'' if condition['is_null'] else 'not '}empty"
    return json.dumps(condition, default=str)


def _failure(result: Mapping[str, Any]) -> FailedExpectation:
    found = result["result"]
    examples = found.get("partial_unexpected_list") or []
    if "observed_value" in found:
        examples = [f"observed {found['observed_value']}"]
    return FailedExpectation(
        expectation=result["expectation"],
        column=result["column"],
        condition=result["condition"],
        unexpected=found.get("unexpected_count"),
        checked=found.get("element_count"),
        examples=tuple(str(example)[:_EXAMPLE_LENGTH] for example in examples[:EXAMPLES]),
        detail=" ".join(part for part in (result["why"], result["error"]) if part),
    )


def _sentence(failure: FailedExpectation) -> str:
    where = f" of {failure.column}" if failure.column else ""
    rows = f" ({failure.unexpected:,} of {failure.checked:,} rows)" if failure.unexpected and failure.checked else ""
    return f"{failure.expectation.removeprefix('expect_').replace('_', ' ')}{where}{rows}"


def _render(name: str, outcome: ValidationResult, results: Sequence[Mapping[str, Any]]) -> str:
    rows = f"{outcome.rows_checked:,} of {outcome.rows_total:,} rows were checked."
    body = [banner("pass" if outcome.success else "fail", "passed" if outcome.success else "failed", outcome.reason)]
    body.append(note(rows if outcome.rows_checked == outcome.rows_total else f"A sample: {rows}"))
    if outcome.sampled:
        body.append(
            note(f"{outcome.sampled} expectations can't be added up and were evaluated on a part of these rows.")
        )
    if any(file.is_dir() for file in outcome.files):
        body.append(link(f"data_docs_{name}/index.html", "Data Docs: the same as Great Expectations shows it (online)"))
    if outcome.failed:
        body += [
            heading("What does not hold"),
            table(
                ("expectation", "column", "rows", "unexpected", "of", "examples", "detail"),
                (
                    (
                        f.expectation,
                        f.column,
                        f.condition or "all",
                        _count(f.unexpected),
                        _count(f.checked),
                        ", ".join(f.examples),
                        f.detail,
                    )
                    for f in outcome.failed
                ),
            ),
        ]
    held = [result for result in results if result["success"]]
    body += [
        heading("What holds"),
        table(
            ("expectation", "column", "rows", "why"),
            ((r["expectation"], r["column"], r["condition"] or "all", r["why"]) for r in held),
        ),
    ]
    return page(f"Data checks: {name}", body)


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
