"""Reports come in a sandbox, and nobody waits long for MLflow."""

import threading
import time
from datetime import UTC, datetime

import pytest

from model_rollouts.adapters.mlflow_reports import StageReports
from model_rollouts.core.errors import NotFoundError
from model_rollouts.core.patterns.canary import CanaryParameters, plan_canary
from model_rollouts.core.rollout import Rollout, State
from model_rollouts.web.reports import AROUND, Reports, SlowMlflowError, around, headers_of, needs_frame

ROLLOUT = Rollout(
    "r",
    "m",
    "1",
    "2",
    plan_canary(CanaryParameters()),
    State.BAKING,
    0,
    "s",
    2,
    datetime(2026, 5, 1, tzinfo=UTC),
    "anna",
)


class Source:
    """MLflow as the test has it."""

    tracking_uri = ""

    def __init__(self) -> None:
        self.asked = 0
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None

    def stages(self, rollout: Rollout) -> list[StageReports]:
        self.asked += 1
        self.answers.wait(20)
        if self.error:
            raise self.error
        files = {"b.json": 1, "decision.json": 2, "comparison.html": 3}
        return [StageReports(0, "run", "7", files, {"rollout.reason": "every gate passed"})]

    def read(self, rollout: Rollout, run_id: str, path: str) -> bytes:
        if path != "a.html":
            raise NotFoundError(f"no {path}")
        return b"<p>"


def reports(source: Source, wait: float = 5.0) -> Reports:
    return Reports(source, wait)  # type: ignore[arg-type]


def test_the_reports_of_a_stage_have_the_important_ones_first_and_mlflows_run() -> None:
    (stage,) = reports(Source()).stages(ROLLOUT, "https://mlflow")["stages"]

    assert [file["path"] for file in stage["files"]] == ["comparison.html", "decision.json", "b.json"]
    assert stage["url"] == "https://mlflow/#/experiments/7/runs/run"
    assert (stage["share"], stage["reason"]) == (1, "every gate passed")
    assert reports(Source()).stages(ROLLOUT, "")["stages"][0]["url"] is None


def test_nobody_waits_longer_than_they_said_and_the_answer_is_there_the_next_time() -> None:
    source = Source()
    source.answers.clear()
    asked = reports(source, 0.05)

    began = time.monotonic()
    for _ in range(3):
        assert asked.stages(ROLLOUT, "") == {"stages": [], "waiting": True}
    assert time.monotonic() - began < 5
    assert source.asked == 1, "one question is enough for all who wait"
    source.answers.set()
    patient, found = time.monotonic() + 10, asked.stages(ROLLOUT, "")
    while found["waiting"] and time.monotonic() < patient:
        found = asked.stages(ROLLOUT, "")
    assert len(found["stages"]) == 1


def test_an_mlflow_that_is_silent_for_long_counts_as_away() -> None:
    source = Source()
    source.answers.clear()

    with pytest.raises(SlowMlflowError):
        Reports(source, 0.05, 0.0).stages(ROLLOUT, "")  # type: ignore[arg-type]
    source.answers.set()


def test_an_mlflow_that_fails_is_told_by_the_kind_of_its_fault_alone() -> None:
    source = Source()
    source.error = ConnectionError("http://user:secret@mlflow refused")

    with pytest.raises(SlowMlflowError) as caught:
        reports(source).stages(ROLLOUT, "")
    assert str(caught.value) == "ConnectionError"
    with pytest.raises(NotFoundError):
        reports(source).read(ROLLOUT, "run", "other")
    assert reports(source).read(ROLLOUT, "run", "a.html") == b"<p>"


@pytest.mark.parametrize(
    ("path", "kind", "way"),
    [
        ("drift.html", "text/html; charset=utf-8", "inline"),
        ("decision.json", "application/json; charset=utf-8", "inline"),
        ("docs/a.svg", "image/svg+xml", "attachment"),
        ("model.pkl", "application/octet-stream", "attachment"),
        ("x.js", "text/javascript; charset=utf-8", "attachment"),
    ],
)
def test_a_file_gets_a_sandbox_and_what_is_no_report_is_saved(path: str, kind: str, way: str) -> None:
    found, headers = headers_of(path)

    assert found == kind
    assert headers["Content-Disposition"].startswith(f"{way}; filename=")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_files_name_can_not_break_out_of_its_header() -> None:
    assert headers_of('a/"; x=\r\n\u00fc.html')[1]["Content-Disposition"] == 'inline; filename="___x____.html"'


@pytest.mark.parametrize(
    ("destination", "referrer", "needed"),
    [
        ("document", None, True),
        ("document", "http://h/p/a.html", True),
        ("object", None, True),
        ("empty", None, True),
        ("iframe", None, False),
        (None, None, True),
        (None, "https://other/p/b.html", True),
        (None, "http://h/p/a.html", False),
        (None, "http://h/p/a.html?x=1", False),
    ],
)
def test_a_page_is_never_shown_but_in_a_frame_of_ours(
    destination: str | None, referrer: str | None, needed: bool
) -> None:
    assert needs_frame("docs/a.html", "/p/a.html", destination, referrer) is needed
    assert not needs_frame("a.json", "/p/a.html", destination, referrer)


def test_the_page_around_a_report_holds_nothing_of_it_but_its_name() -> None:
    page = around('"><script>alert(1)</script>.html')

    assert "<script" not in page
    assert 'sandbox="allow-scripts"' in page
    assert "frame-src 'self'" in AROUND["Content-Security-Policy"]
    assert "script-src" not in AROUND["Content-Security-Policy"]
