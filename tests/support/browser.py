"""A headless Chromium, where one is here (apt-get install chromium, pip install playwright)."""

import importlib.util
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from optional_package import SWITCH

AXE = "REELSCAN_AXE"
"""Environment variable with the path of axe.min.js (npm install axe-core)."""


@contextmanager
def chromium():
    """A browser; where there is none, tests are not run, or fail with REELSCAN_REQUIRE_EXTRAS."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    missing = [
        *(
            []
            if importlib.util.find_spec("playwright")
            else ["playwright (pip install playwright)"]
        ),
        *([] if program else ["chromium (apt-get install chromium)"]),
    ]
    if missing:
        told = f"the page is tested in a browser, which needs {' and '.join(missing)}"
        if os.environ.get(SWITCH, "0") not in ("", "0"):
            pytest.fail(told)
        pytest.skip(told)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required"],
        )
        try:
            yield browser
        finally:
            browser.close()


def accessibility_problems(page):
    """What axe finds on a page, as lines; None where axe is not here."""
    path = os.environ.get(AXE)
    if path is None or not Path(path).is_file():
        return None
    # Given as a script to evaluate: the page's own policy refuses scripts from elsewhere.
    page.evaluate(Path(path).read_text())
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes']]}"
        for one in found
    ]
