"""The page's app over a desk that the test has made, for a browser."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import uvicorn

from model_rollouts.web.page import make_page

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"  # Debian's, which .ci/run installs


@contextmanager
def served(desk: Any) -> Iterator[str]:
    """Its address, while it runs."""
    app = make_page(lambda: desk, lambda: SimpleNamespace(get_name=lambda: "anna"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)  # uvicorn has no event for it
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
