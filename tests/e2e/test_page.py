"""The page in a browser, inside a real Airflow, over a real gateway: a canary is seen to move and is rolled back.

With ROLLOUTS_SCREENSHOTS=<folder> it also takes the pictures of the docs (`make page-pictures`).
"""

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Frame, Page, expect, sync_playwright
from rich.console import Console
from tests.ports import free_port

from bench.mlflow_at import mlflow_at
from demo import airflow_parts, parts
from demo.cases import FORMS, Case
from demo.config import MODEL, DemoConfig
from demo.processes import Processes
from demo.progress import Progress
from model_rollouts.adapters.sql_store import SqlStore
from model_rollouts.core.rollout import EventKind, Rollout, State

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(500)]

VIEWER = "eve"
PICTURES = os.environ.get("ROLLOUTS_SCREENSHOTS", "")
FORM = FORMS["canary"] | {
    "requested_by": "test",
    "steps": [20, 100],
    "bake_seconds": 300,  # it is rolled back by hand before that
    "deadline_seconds": 600,
    "golden_requests": 0,
    "latency_slack_ms": 1000,  # how fast two cores are while they run everything is no matter of this test
    "may_be_missing": ["accuracy", "latency", "errors", "drift", "business"],
}
_CODE = """
import mlflow
class Threshold(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return (model_input["x"] > {threshold}).astype(int)
mlflow.models.set_model(Threshold())
"""
#: What a browser says by itself of how Airflow frames every plugin, and of answers that are meant to be so.
#: The last: MLflow is slow while everything else on the machine is busy, and the page says so.
_KNOWN = re.compile(r"allow-scripts and allow-same-origin|status of 403|status of 409|status of 503 .*/reports\b")


class Traffic(threading.Thread):
    """Callers that never stop, and remember who answered them."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.ended = f"{url}/models/{MODEL}", threading.Event()
        self.session = requests.Session()
        self.versions: list[str] = []
        self.failed: list[str] = []

    def run(self) -> None:
        number = 0
        while not self.ended.wait(0.008):
            number += 1
            try:
                self._ask(number)
            except OSError as error:
                self.failed.append(str(error))

    def _ask(self, number: int) -> None:
        name, x = f"q{number}", (number % 7) - 3
        headers = self._post("/invocations", {"dataframe_records": [{"x": float(x)}]}, name, f"u{number % 5000}")
        self.versions.append(headers["X-Model-Version"])
        label = int(x > 0) if number % 8 else int(x <= 0)  # a model that is never wrong leaves nothing to compare
        self._post("/outcomes", {"request_id": name, "label": str(label)}, "", "")

    def _post(self, path: str, body: Any, name: str, unit: str) -> Any:
        own = {"X-Request-Id": name, "X-Unit-Id": unit} if name else {}
        answer = self.session.post(self.url + path, json=body, headers=own, timeout=5)
        answer.raise_for_status()
        return answer.headers


@dataclass
class World:
    """Everything that runs, and a browser."""

    config: DemoConfig
    processes: Processes
    airflow: airflow_parts.Airflow
    store: SqlStore
    traffic: Traffic
    browser: Browser
    said: list[str] = field(default_factory=list)

    def wait(self, what: str, found: Callable[[], Any], seconds: float = 90) -> Any:
        until = time.monotonic() + seconds
        while not (value := found()):
            self.processes.check(*self.processes.services[:1])
            assert time.monotonic() < until, f"no {what} after {seconds:g} s"
            time.sleep(0.2)
        return value

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.text} {message.location['url']}")

    def log_in(self, user: str, width: int = 1360, height: int = 900, **more: Any) -> Page:
        context: BrowserContext = self.browser.new_context(viewport={"width": width, "height": height}, **more)
        context.set_default_timeout(30_000)
        page = context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        passwords = json.loads((self.airflow.home / "passwords.json").read_text())
        page.goto(f"{self.config.airflow_url}/auth/login")
        page.fill("input[name=username]", user)
        page.fill("input[name=password]", passwords[user])
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/auth/login" not in url)
        return page

    def open(self, page: Page, path: str = "plugin/rollouts") -> Frame:
        """The page's frame, as Airflow shows it."""
        page.goto(f"{self.config.airflow_url}/{path}")
        frame = page.wait_for_selector("iframe").content_frame()
        assert frame is not None
        frame.wait_for_selector("h1")
        return frame


def register(config: DemoConfig, folder: Path) -> None:
    """Two versions of a model that takes no time to load; the first one serves."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    frame = pd.DataFrame({"x": [0.5, -1.0]})
    with mlflow_at(config.mlflow_url):
        for number, threshold in enumerate((0.0, 0.1)):
            code = folder / f"threshold_{number}.py"
            code.write_text(_CODE.format(threshold=threshold))
            with mlflow.start_run():
                mlflow.pyfunc.log_model(
                    name="model",
                    python_model=str(code),
                    registered_model_name=MODEL,
                    signature=infer_signature(frame, [1, 0]),
                    pip_requirements=[],
                )
        mlflow.MlflowClient().set_registered_model_alias(MODEL, "champion", "1")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is not installed: apt-get install chromium")
    config = DemoConfig(
        cases=(Case("canary", "better", "cut_over"),),
        mlflow_port=free_port(),
        gateway_port=free_port(),
        airflow_port=free_port(),
        home=tmp_path_factory.mktemp("page") / "home",
    )
    config.home.mkdir()
    config.cache.mkdir(parents=True, exist_ok=True)
    progress, made = Progress(Console(width=160)), airflow_parts._environment
    users = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{airflow_parts.USER}:admin,{VIEWER}:viewer"}
    with pytest.MonkeyPatch.context() as patch, Processes(config.home / "logs") as processes:
        patch.setattr(airflow_parts, "_environment", lambda *given: made(*given) | users)
        store = SqlStore(config.store_url)
        store.migrate()
        gateway = parts.start_gateway(config, processes)
        parts.start_mlflow(config, processes, progress)
        register(config, config.home)
        airflow = airflow_parts.start(config, processes, progress)
        parts.wait_for_gateway(config, gateway, progress)
        traffic = Traffic(config.gateway_url)
        traffic.start()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            yield World(config, processes, airflow, store, traffic, browser)
            browser.close()
        traffic.ended.set()
        traffic.join()


def accessible(frame: Frame) -> None:
    """No serious finding of axe, in what is shown."""
    import axe_playwright_python

    source = Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
    frame.evaluate(source)
    found = frame.evaluate("axe.run(document, {resultTypes: ['violations']})")
    grave = [
        f"{each['id']}: {each['help']}: {each['nodes'][0]['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert grave == []


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.wait_for_timeout(800)
        page.screenshot(path=Path(PICTURES) / name)


def in_dark(page: Page) -> None:
    page.evaluate(
        "document.documentElement.classList.replace('light', 'dark') || document.documentElement.classList.add('dark')"
    )


def test_first_steps_are_shown_while_there_is_no_rollout(world: World) -> None:
    frame = world.open(world.log_in(airflow_parts.USER))

    expect(frame.locator("h2")).to_contain_text("how to start the first one")
    expect(frame.locator("a", has_text="canary")).to_have_attribute("href", f"{world.config.airflow_url}/dags/canary")
    accessible(frame)


def test_a_canary_is_seen_to_move_and_is_rolled_back_with_a_reason(world: World) -> None:
    page = world.log_in(airflow_parts.USER)
    frame = world.open(page)
    run = world.airflow.api.trigger("canary", {"model": MODEL, "challenger": "2", **FORM})

    # it appears by itself, and its share moves while somebody looks
    row = frame.locator("table.list tbody tr")
    expect(row).to_contain_text(MODEL, timeout=90_000)
    expect(row).to_contain_text("20 %", timeout=90_000)
    expect(row).to_contain_text("running")
    accessible(frame)
    picture(page, "page-list.png")
    row.get_by_role("link").first.click()

    # one rollout: who has how much, what is waited for, and the verdict as far as it goes
    expect(frame.locator("h1")).to_have_text(MODEL)
    rollout = world.store.active(MODEL)
    assert rollout is not None
    assert page.url.endswith(f"#/rollout/{rollout.id}"), "what is shown is in the address"
    expect(frame.locator(".lead")).to_contain_text("Waits: ", timeout=90_000)
    badge = frame.locator("article[data-key=error_rate] .badge").first
    expect(badge).to_contain_text("passed", timeout=90_000)
    if PICTURES:
        expect(frame.locator(".lead")).to_contain_text("bake time left", timeout=120_000)
    expect(frame.locator("article[data-key=wrong_rate] path.estimate")).to_be_visible(timeout=60_000)
    looks = lambda: int(frame.locator("article[data-key=error_rate] svg text").last.text_content() or 0)  # noqa: E731
    before = looks()
    world.wait("further look", lambda: looks() > before)
    frame.locator("article[data-key=error_rate] svg").focus()
    page.keyboard.press("ArrowLeft")
    expect(frame.locator("article[data-key=error_rate] .readout")).to_contain_text("at 20 %")
    accessible(frame)
    picture(page, "page-rollout.png")
    in_dark(page)
    expect(frame.locator("html")).to_have_attribute("data-theme", "dark")
    accessible(frame)
    picture(page, "page-rollout-dark.png")
    _phone(world, rollout)
    _viewer_can_not_act(world, rollout)

    _roll_back(page, frame, world, rollout)
    _is_rolled_back(world, rollout)
    _run_ends_and_has_reports(page, world, run)
    assert [text for text in world.said if not _KNOWN.search(text)] == []


def _roll_back(page: Page, frame: Frame, world: World, rollout: Rollout) -> None:
    """Two clicks and a reason."""
    frame.get_by_role("button", name="Roll back").click()
    dialog = frame.locator("dialog")
    expect(dialog).to_contain_text("answers all requests at once")
    accessible(frame)
    picture(page, "page-roll-back.png")
    dialog.get_by_role("button", name="Roll back").click()
    assert world.store.rollout(rollout.id).state is State.BAKING, "nothing is done without a reason"
    dialog.locator("textarea").fill("callers complain")
    page.keyboard.press("Control+Enter")
    expect(frame.locator(".head .badge")).to_contain_text("rolled back")
    expect(frame.locator(".timeline li").first).to_contain_text("callers complain")


def _is_rolled_back(world: World, rollout: Rollout) -> None:
    """In the audit, in the gateway's traffic, and in what callers get."""
    event = next(e for e in world.store.events(rollout_id=rollout.id) if e.kind is EventKind.ROLLED_BACK)
    assert (event.actor, event.reason) == (f"{airflow_parts.USER} (page)", "callers complain")
    world.wait("gateway that follows", lambda: _status(world)["routed_revision"] >= event.traffic_revision, 10)
    assert (_status(world)["champion"], _status(world)["share"]) == ("1", 0)
    time_of_check = len(world.traffic.versions)
    world.wait("requests", lambda: len(world.traffic.versions) > time_of_check + 50, 20)
    assert set(world.traffic.versions[time_of_check + 5 :]) == {"1"}
    assert "2" in world.traffic.versions
    assert world.traffic.failed == []


def _run_ends_and_has_reports(page: Page, world: World, run: str) -> None:
    """The run comes to its end by itself, and its reports are in the run's own tab."""
    states = lambda: {r["dag_run_id"]: r["state"] for r in world.airflow.api.runs("canary")}  # noqa: E731
    world.wait("end of the run", lambda: states()[run] == "success", 150)
    assert world.airflow.api.task_state("canary", run, "roll_back") == "success"
    frame = world.open(page, f"dags/canary/runs/{run}/plugin/run-rollout")
    expect(frame.locator("h1")).to_have_text(MODEL)
    link = frame.get_by_role("link", name="Comparison", exact=True)
    expect(link).to_be_visible(timeout=40_000)
    _report_is_in_a_sandbox(page, str(link.get_attribute("href")))
    # the tab of a DAG has its rollouts, and that of any other DAG says that it has none
    frame = world.open(page, "dags/canary/plugin/dag-rollouts")
    expect(frame.locator("table.list tbody tr")).to_contain_text("rolled back")
    frame = world.open(page, "dags/reconcile/plugin/dag-rollouts")
    expect(frame.locator(".empty")).to_contain_text("none of the rollout patterns")


def _status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{world.config.gateway_url}/models/{MODEL}/status", timeout=5).json()
    return found


def _phone(world: World, rollout: Rollout) -> None:
    """Nothing is wider than a phone, and the way to stop it is on its first screen."""
    page = world.log_in(airflow_parts.USER, 390, 844)
    page.goto(f"{world.config.airflow_url}/model-rollouts/page/#/rollout/{rollout.id}")
    page.wait_for_selector(".head")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.get_by_role("button", name="Roll back").bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 844
    picture(page, "page-phone.png")
    page.context.close()


def _viewer_can_not_act(world: World, rollout: Rollout) -> None:
    page = world.log_in(VIEWER)
    frame = world.open(page, f"plugin/rollouts/model-rollouts/page/#/rollout/{rollout.id}")
    expect(frame.locator("h1")).to_have_text(MODEL)
    expect(frame.locator(".actions")).to_contain_text("may look at this rollout")
    assert frame.get_by_role("button", name="Roll back").count() == 0
    status = frame.evaluate(
        """([id, revision]) => fetch(`api/rollouts/${id}/roll_back`, {method: "POST",
        headers: {"Content-Type": "application/json", "X-Model-Rollouts": "page"},
        body: JSON.stringify({reason: "because", revision})}).then((answer) => answer.status)""",
        [rollout.id, rollout.revision],
    )
    assert status == 403
    assert world.store.rollout(rollout.id).state is State.BAKING
    page.context.close()


def _report_is_in_a_sandbox(page: Page, url: str) -> None:
    """It is shown in a frame, and its scripts can neither reach Airflow nor anything else."""
    tab = page.context.new_page()
    answer = tab.goto(url)
    assert answer is not None
    assert answer.status == 200
    assert "frame-src 'self'" in answer.headers["content-security-policy"]
    report = tab.frames[1]
    report.wait_for_load_state()
    assert report.evaluate("self.origin") == "null"
    assert report.evaluate("fetch('/api/v2/version').then(() => 'reached', () => 'kept away')") == "kept away"
    with pytest.raises(Exception, match=r"sandbox|denied|insecure"):
        report.evaluate("document.cookie")
    tab.close()
