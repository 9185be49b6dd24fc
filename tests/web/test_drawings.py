"""What the page's modules draw from what the API tells, in a browser."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from playwright import sync_api
from tests.web.serving import CHROMIUM, served

STAGE = {"share": 10, "mirror_percent": 0, "offline": False, "status": "passed", "bake_seconds": 60}
POINTS = [[n, 0, n - 1, 1.1, 0.9, 1.3, 0.1, 0.2] for n in range(1, 21)]


def gate(metric: str, points: list[list[Any]] = POINTS) -> dict[str, Any]:
    lines = [{"stage": 0, "harm": 1.5, "pass": 1.2}]
    return {"metric": metric, "name": metric, "scale": "odds", "reference": 1.0, "lines": lines, "points": points}


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Any]:
    with served(SimpleNamespace()) as url, sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"{url}/api/none")  # an empty page of the same origin
        yield page
        browser.close()


DECIDED = """async ([gate, decided, stage]) => {
  const { chart } = await import("/chart.js");
  document.body.replaceChildren(chart(gate, { stages: [stage], decided }, 500));
  const x = [...document.querySelectorAll("line.decided")].map((line) => Number(line.getAttribute("x1")));
  const [first, last] = [44, 492];
  return x.map((at) => Math.round(1 + ((at - first) * 19) / (last - first)));
}"""


def test_decisions_are_drawn_among_the_looks_that_the_chart_counts(browser_page: Any) -> None:
    decided = [{"position": 15, "labelled": 5, "what": "passed"}, {"position": 18, "labelled": None, "what": "resumed"}]

    assert browser_page.evaluate(DECIDED, [gate("error_rate"), decided, STAGE]) == [15, 18]
    assert browser_page.evaluate(DECIDED, [gate("wrong_rate"), decided, STAGE]) == [5]
    assert browser_page.evaluate(DECIDED, [gate("value"), decided, STAGE]) == [5]


def test_numbers_that_are_open_go_with_the_chart(browser_page: Any) -> None:
    rows = browser_page.evaluate(
        """async ([before, after, stage]) => {
          const [{ chart }, { show }] = [await import("/chart.js"), await import("/dom.js")];
          const drawn = (gate) => show(document.body, chart(gate, { stages: [stage], decided: [] }, 500));
          document.body.replaceChildren();
          drawn(before);
          const details = document.querySelector("details");
          const toggled = new Promise((done) => details.addEventListener("toggle", done));
          details.open = true;
          await toggled;
          const rows = () => document.querySelectorAll("details tbody tr").length;
          const table = document.querySelector("details table");
          const first = rows();
          drawn(after);
          return [first, rows(), document.querySelector("details table") === table];
        }""",
        [gate("error_rate", POINTS[:4]), gate("error_rate", POINTS[:9]), STAGE],
    )

    assert rows == [4, 9, True], "the table is the same one, so that nobody loses their place in it"


HEAD = """async ([content]) => {
  globalThis.innerWidth ||= 1000;
  const { detail } = await import("/detail.js");
  const shown = document.createElement("div");
  shown.append(...detail(content, { tab: {} }).flat(9).filter((each) => each));
  return [shown.querySelector(".share b").textContent, shown.querySelector(".sentence").textContent];
}"""


def test_a_promoted_version_that_was_replaced_since_has_no_share(browser_page: Any) -> None:
    def told(champion: str, previous: str | None, **shares: float) -> list[str]:
        at = "2026-05-01T00:00:00+00:00"
        content = {
            "id": "r", "model": "m", "champion": "1", "challenger": "2", "pattern": "canary", "state": "promoted",
            "active": False, "stage": 0, "reason": "as proven", "created_at": at, "created_by": "anna", "ended_at": at,
            "stages": [STAGE], "gates": [], "events": [], "events_left_out": 0, "decided": [], "offers": [],
            "verdict": None, "evidence": {"failure": "", "complete": True}, "alpha": 0.05, "may_act": True,
            "traffic": {"shares": {name[1:]: share for name, share in shares.items()}, "champion": champion,
                        "previous": previous, "owned": False, "share": 0},
        }  # fmt: skip
        found: list[str] = browser_page.evaluate(HEAD, [content])
        return found

    share, sentence = told("2", "1", v2=100)
    assert share == "100 %"
    assert "Version 1 is kept loaded" in sentence
    share, sentence = told("3", "2", v3=100)
    assert share == "0 %"
    assert "is kept loaded" not in sentence
    assert told("2", "1", v2=95, v4=5)[0] == "95 %"
    assert "is kept loaded" not in told("2", None, v2=100)[1]
