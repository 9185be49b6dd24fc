"""What docs/faults.md says is what was seen: no check stands outside of its row, and what did not run is named."""

import ast
import re
from pathlib import Path

import pytest
from tests.chaos import test_full_spool as full_spool
from tests.faults import gateway_lines, record, run
from tests.faults.expected import EXPECTED
from tests.faults.record import Shown
from tests.faults.test_people import PAIRS

TESTS = sorted(Path(run.__file__).parent.glob("test_*.py"))


def _called(node: ast.AST) -> set[str]:
    """Names of what is called somewhere below."""
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
    return {call.id if isinstance(call, ast.Name) else getattr(call, "attr", "") for call in calls}


def _shown(block: ast.AST) -> bool:
    return isinstance(block, ast.With) and "shown" in set().union(*(_called(item.context_expr) for item in block.items))


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_callers_have_ended_and_everything_is_checked_before_a_row_is_written(file: Path) -> None:
    functions = [each for each in ast.parse(file.read_text()).body if isinstance(each, ast.FunctionDef)]
    tests = [each for each in functions if each.name.startswith("test_")]
    assert tests
    for test in tests:
        (at,) = [place for place, statement in enumerate(test.body) if _shown(statement)]
        block = test.body[at]
        assert isinstance(block, ast.With)
        beside = set().union(*(_called(item.context_expr) for item in block.items))
        assert not beside & {"Callers", "calling"}, f"{test.name}: callers go on while what they saw is checked"
        for later in test.body[at + 1 :]:
            late = {name for name in _called(later) if name.startswith(("check_", "wait_", "until"))}
            asserts = any(isinstance(each, ast.Assert) for each in ast.walk(later))
            assert not late, f"{test.name} calls {late} after its row was written"
            assert not asserts, f"{test.name} asserts after its row was written"
        sums = [each for each in ast.walk(block) if isinstance(each, ast.Expr) and "check_deals" in _called(each)]
        assert not sums, f"{test.name} drops the count of check_deals"


def test_without_the_right_to_mount_a_full_disk_is_not_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_spool, "_can_mount", lambda _: False)
    with pytest.raises(pytest.skip.Exception, match="right to mount"):
        full_spool.test_when_the_spool_is_full_answers_are_refused_or_counted_as_unlogged("", tmp_path, "disk", "serve")


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the page goes; no part of the run can start."""
    for module in (run, record):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(run, "PAGE", tmp_path / "faults.md")
    monkeypatch.setattr(run, "_pytest", lambda *_, **__: 4)
    return tmp_path / "faults.md"


def test_what_did_not_run_is_on_the_page_and_is_a_failure(page: Path) -> None:
    for part in ("stack", "gateway"):  # of an earlier run
        record.keep(Shown(next(f for f, p in EXPECTED.items() if p == part), "all", passed=True, part=part))
    assert run.main(["stack", "gateway"]) != 0
    assert run.main(["page"]) == 1
    text = page.read_text()
    assert text.count("**did not run**") == len(EXPECTED)
    assert f"of {len(EXPECTED)} lines 0\nheld, 0 did not hold and {len(EXPECTED)} did not run" in text


def test_a_part_that_runs_again_leaves_the_rows_of_the_other_with_their_day(page: Path) -> None:
    for fault, part in EXPECTED.items():
        record.keep(Shown(fault, "all", passed=True, part=part))
    assert run.main(["page"]) == 0
    assert page.read_text().count("| held |") == len(EXPECTED)
    run.main(["stack"])
    assert {line.part for line in record.kept().values()} == {"gateway"}
    for file in record.FOLDER.glob("*.json"):
        file.write_text(re.sub(r'"at": .*', '"at": 86400.0', file.read_text()))
    assert run.main(["page"]) == 1
    assert page.read_text().count("| 1970-01-02 |") == list(EXPECTED.values()).count("gateway")


@pytest.mark.parametrize("line", [Shown("no such fault", "all", passed=True), Shown(next(iter(EXPECTED)), "all")])
def test_a_row_that_nobody_expects_or_that_did_not_hold_is_a_failure(page: Path, line: Shown) -> None:
    for fault, part in EXPECTED.items():
        record.keep(Shown(fault, "all", passed=True, part=part))
    record.keep(line)
    assert run.main(["page"]) == 1


def test_a_test_that_was_skipped_did_not_run(tmp_path: Path) -> None:
    case = gateway_lines.LINES[0]
    (tmp_path / "r.xml").write_text(f'<r><testcase name="{case.test}"><skipped message="no right"/></testcase></r>')
    (line,) = gateway_lines.lines(tmp_path / "r.xml", full=False, since=0)
    assert (line.fault, line.outcome, line.result) == (case.fault, "**did not run**", "no right")


@pytest.mark.skipif(not record.FULL, reason="FAULTS=small has other names")
def test_the_list_of_faults_is_what_the_tests_show() -> None:
    patterns = []
    for file in TESTS:
        tree = ast.parse(file.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and "shown" in _called(node)):
            if not isinstance(call.func, ast.Name) or call.func.id != "shown":
                continue
            name = call.args[0]
            if isinstance(name, ast.Name):
                name = _assigned(tree, name.id)
            parts = name.values if isinstance(name, ast.JoinedStr) else [name]
            patterns.append("".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in parts))
    faults = [fault for fault, part in EXPECTED.items() if part == "stack"]
    assert not [each for each in patterns if not any(re.fullmatch(each, fault) for fault in faults)]
    assert not [fault for fault in faults if not any(re.fullmatch(each, fault) for each in patterns)]
    assert {f"two people at once: {pair.name}" for pair in PAIRS} <= set(faults)


def _assigned(tree: ast.AST, name: str) -> ast.expr:
    """What a name is set to."""
    (value,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and [getattr(each, "id", "") for each in node.targets] == [name]
    ]
    return value
