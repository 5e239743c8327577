"""The documentation site in a real browser: nothing comes from another host, no script fails, and
axe has no serious finding, in light and in dark.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
pytest.importorskip("material", reason="mkdocs-material is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
ROOT = Path(__file__).parents[2]
PAGES = ("", "guide/how-it-works/", "research/results/", "notebooks/traces/")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the built site."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


# Of all rules the scheme of colours matters to one.
@pytest.mark.parametrize(
    ("scheme", "rules", "pages"),
    [("light", {}, PAGES), ("dark", {"runOnly": ["color-contrast"]}, PAGES[:2])],
)
def test_pages_are_accessible_and_ask_nothing_of_others(
    browser: sync_api.Browser,
    site: str,
    scheme: Any,
    rules: dict[str, Any],
    pages: tuple[str, ...],
) -> None:
    requests: list[str] = []
    errors: list[str] = []
    with browser.new_context(color_scheme=scheme) as context:
        context.set_default_timeout(120_000)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        for name in pages:
            page.goto(site + name)
            page.wait_for_function("document.querySelector('.md-search').ariaLabel")
            options = {"resultTypes": ["violations"], **rules}
            findings = axe.Axe().run(page, options=options).response["violations"]
            serious = [
                finding for finding in findings if finding["impact"] in ("serious", "critical")
            ]
            seen = [(finding["id"], finding["nodes"][0]["html"]) for finding in serious]
            assert not seen, f"{site}{name}: {seen}"
    assert not errors
    assert [url for url in requests if not url.startswith((site, "data:"))] == []
