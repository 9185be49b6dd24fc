"""`make screenshots`: pictures of a running demo (`make demo KEEP=1`) for the README, taken with Debian's Chromium."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from demo import airflow_parts
from demo.config import REPO, parse

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = REPO / "docs" / "images"
WIDTH, HEIGHT = 1360, 820
# A headless browser on a machine without a network should not look for one.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]


def main() -> int:
    """Log in, open the pages, save the pictures.

    Returns:
        0, or 1 when Chromium or the demo is not there.
    """
    import os

    chromium = shutil.which("chromium")
    if chromium is None:
        print("chromium is not installed: apt-get install chromium", file=sys.stderr)
        return 1
    config = parse([], os.environ)
    password = airflow_parts.password(config)
    IMAGES.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{config.airflow_url}/auth/login")
        page.fill("input[name=username]", airflow_parts.USER)
        page.fill("input[name=password]", password)
        page.click("button[type=submit]")
        page.wait_for_url(f"{config.airflow_url}/**")
        for dag_id in dict.fromkeys(case.dag_id for case in config.cases):
            _pictures_of(page, config.airflow_url, dag_id)
        page.goto(f"{config.mlflow_url}/#/models/flights")
        page.get_by_text("Version 1").first.wait_for()
        _save(page, "mlflow-versions.png")
        browser.close()
    return 0


def _pictures_of(page: "Page", url: str, dag_id: str) -> None:
    """The grid of a pattern's runs, and its form."""
    name = dag_id.replace("_", "-")
    page.goto(f"{url}/dags/{dag_id}")
    page.get_by_text("roll_back").first.wait_for()
    page.mouse.click(331, 435)  # the arrow between the panels: the grid gets the whole width
    _save(page, f"{name}-grid.png")
    page.goto(f"{url}/dags/{dag_id}")
    page.get_by_role("button", name="Trigger").first.click()
    page.get_by_text("Registered model").first.wait_for()
    _save(page, f"{name}-form.png")


def _save(page: "Page", name: str) -> None:
    page.wait_for_timeout(2500)  # panels slide and charts draw after their text is there
    page.screenshot(path=IMAGES / name)
    print(Path("docs/images") / name)


if __name__ == "__main__":
    sys.exit(main())
