"""The live page in a real browser: two decoders next to each other, the slider, keyboard, phone,
errors, the key; no outside requests.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from creditdecoding.lm import LM
from tests.helpers.serving import PROMPTS, Served, Slow, serving, wait, with_model

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    """A page that must not complain, and must ask nothing of another address."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    requests: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    yield page
    context.close()
    assert not errors
    assert all("//127.0.0.1:" in url for url in requests)


def nfe(page: sync_api.Page) -> list[int]:
    return [int(text) for text in page.locator(".nfe span").all_inner_texts()]


def test_a_prompt_by_keyboard_alone(page: sync_api.Page, served: Served, lm: LM) -> None:
    page.goto(served.url)
    page.get_by_label("Prompt").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type(PROMPTS[1])
    page.keyboard.press("Control+Enter")
    page.get_by_text("fewer.").wait_for()
    own = [lm.generate(PROMPTS[1], decoder=name, gen_length=64) for name in ("fixed", "credit")]
    assert nfe(page) == [done.nfe for done in own]
    assert page.locator(".place, .done").count() == 2
    for card, done in zip(page.locator("article").all(), own):
        written = card.locator('[role="list"] .token:not(.tail)').all_inner_texts()
        assert "".join(written).replace("\u21b5", "") == done.text
    page.get_by_label("Forward pass").focus()
    longest = int(page.get_by_label("Forward pass").get_attribute("max") or 0)
    assert longest == max(done.nfe for done in own)
    page.keyboard.press("Home")
    assert nfe(page) == [0, 0]
    assert page.locator(".unasked").count() > 64
    page.keyboard.press("ArrowRight")
    assert nfe(page) == [1, 1]
    assert "pass 1 / " in page.locator("#where").inner_text()
    page.locator('article [role="listitem"]').first.focus()
    assert "confidence" in page.get_by_role("tooltip").inner_text()


def test_it_draws_while_the_model_writes_and_stops_when_told(page: sync_api.Page, lm: LM) -> None:
    with serving(with_model(lm, Slow(lm.model))) as slow:
        page.goto(slow.url)
        page.get_by_label("Length").fill("200")
        page.get_by_role("button", name="Run").click()
        page.locator(".candidate").nth(3).wait_for()
        wait(lambda: 2 <= nfe(page)[0] < 190)
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        wait(lambda: slow.metric("num_requests_running") == 0)
        page.get_by_label("Length").fill("32")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("fewer.").wait_for()
        assert nfe(page)[0] > nfe(page)[1] > 0


def test_errors_are_shown_and_the_key_is_asked_for(page: sync_api.Page, lm: LM) -> None:
    with serving(lm, api_key="sesame") as served:
        page.goto(served.url)
        page.get_by_role("button", name="Run").click()
        page.get_by_text("the API key is missing or wrong").wait_for()
        page.get_by_label("API key").fill("sesame")
        page.get_by_label("Compared with").fill("credit:alhpa=1")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Did you mean 'alpha'").wait_for()
        page.get_by_label("Compared with").fill("credit:alpha=1")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("fewer.").wait_for()


def test_on_a_phone_and_in_the_dark(browser: sync_api.Browser, served: Served) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True
    )
    page = context.new_page()
    page.goto(served.url)
    page.get_by_label("Decoder", exact=True).fill("credit")
    page.get_by_label("Compared with").fill("fixed")
    page.get_by_role("button", name="Run").tap()
    page.get_by_text("x more.").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for control in page.locator("input:visible, textarea, button:visible").all():
        box = control.bounding_box()
        assert box is not None
        assert box["height"] >= 30
        has_name = "e => !!(e.labels?.length || e.textContent || e.ariaLabel)"
        assert page.evaluate(has_name, control.element_handle())
    context.close()


def test_a_model_called_like_markup(lm: LM) -> None:
    with serving(lm, name="<img src=x>{0}") as served:
        text = served.client.get("/").text
        assert "<img" not in text
        assert "&lt;img src=x&gt;{0}" in text
