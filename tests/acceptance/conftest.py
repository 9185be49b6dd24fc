"""Each check at two sizes: `fast` in every test run, `full` (marker `acceptance`) with `make test-statistics`."""

from collections.abc import Iterator

import pytest

from bench.study import Study

_FULL = [pytest.mark.acceptance, pytest.mark.timeout(900)]
_FOUND = pytest.StashKey[dict[str, list[str]]]()


@pytest.fixture(params=[pytest.param(False, id="fast"), pytest.param(True, id="full", marks=_FULL)])
def study(request: pytest.FixtureRequest) -> Iterator[Study]:
    """How many rollouts to simulate, and what chance may add; the full size also reports its numbers at the end."""
    made = Study(full=request.param)
    yield made
    if made.full:
        request.config.stash.setdefault(_FOUND, {})[request.node.nodeid.rpartition("/")[2]] = made.found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The numbers of the full size."""
    if found := terminalreporter.config.stash.get(_FOUND, {}):
        terminalreporter.section("what the simulations found")
        for test, lines in found.items():
            terminalreporter.write_line(test)
            for line in lines:
                terminalreporter.write_line(f"    {line}")
