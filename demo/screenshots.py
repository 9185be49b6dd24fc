"""`make screenshots`: pictures of a running demo (`make demo KEEP=1`) for the README, taken with Debian's Chromium."""

import shutil
import sys
from pathlib import Path

from demo import airflow_parts
from demo.config import REPO, parse

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
    shots = {
        "canary-grid.png": f"{config.airflow_url}/dags/canary",
        "canary-form.png": f"{config.airflow_url}/dags/canary?modal=trigger",
        "mlflow-versions.png": f"{config.mlflow_url}/#/models/flights",
    }
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"{config.airflow_url}/auth/login")
        page.fill("input[name=username]", airflow_parts.USER)
        page.fill("input[name=password]", password)
        page.click("button[type=submit]")
        page.wait_for_url(f"{config.airflow_url}/**")
        for name, address in shots.items():
            page.goto(address)
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(2500)  # Airflow's grid draws after its data is there
            page.screenshot(path=IMAGES / name)
            print(Path("docs/images") / name)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
