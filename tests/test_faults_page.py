"""What docs/faults.md says is what was seen: no check stands outside of its row, and what did not run is named."""

import ast
from pathlib import Path

import pytest
from tests.chaos import test_full_spool as full_spool
from tests.faults import run

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
