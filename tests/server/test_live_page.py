"""The live page in a real browser: two decoders next to each other, the slider, keyboard, phone,
errors, the key; no outside requests.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import pytest

from creditdecoding.decoders import names, resolve
from creditdecoding.lm import LM
from creditdecoding.server.live_page import live_page
from tests.helpers.serving import PATIENCE, PROMPTS, Gated, Served, serving, wait, with_model

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]

FAST_RUN = "/#" + urlencode(
    {
        "q": "What is the capital of Peru and the language of Japan?",
        "left": "threshold:threshold=0.9",
        "right": "credit:threshold=0.9",
        "length": "32",
    }
)
"""The address of a run of a few passes, for tests that are not about the first one."""


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: sync_api.Browser, **options: Any) -> Iterator[sync_api.Page]:
    """A page in a context with these options."""
    context = browser.new_context(**options)
    context.set_default_timeout(1000 * PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture
def page(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    """A page that must not complain, and must ask nothing of another address."""
    errors: list[str] = []
    requests: list[str] = []
    with opened(browser, viewport={"width": 1200, "height": 900}) as page:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        yield page
    assert not errors
    assert all("//127.0.0.1:" in url for url in requests)


def nfe(page: sync_api.Page) -> list[int]:
    return [int(text) for text in page.locator(".nfe span").all_inner_texts()]


def finished(page: sync_api.Page) -> str:
    """The status line when both rules are done."""
    page.locator("#status", has_text=re.compile("Both wrote|texts differ")).wait_for()
    return page.locator("#status").inner_text()


def test_there_is_something_to_see_before_anything_is_asked(
    page: sync_api.Page, served: Served
) -> None:
    page.goto(served.url)
    status = finished(page)
    assert re.fullmatch(
        r"standard: \d+ passes, \d+\.\d\d s\. credit 0\.999: \d+ passes, \d+\.\d\d s, "
        r"[\d.]+ times fewer passes\. Both wrote the same text\.",
        status,
    )
    slow, fast = nfe(page)
    assert slow > fast > 0
    assert page.locator(".unasked:visible").count() == 1, "only the legend shows a mask"


def test_questions_to_click_and_rules_with_a_line_each(page: sync_api.Page, served: Served) -> None:
    page.goto(served.url + FAST_RUN)
    questions = page.get_by_role("group", name="Questions to try").get_by_role("button")
    assert questions.count() == 10
    for side in ("left", "right"):
        options = page.locator(f"#{side} option").evaluate_all(
            "options => options.map(o => [o.value, o.dataset.line])"
        )
        assert sorted(name for name, _ in options) == names()
        assert all(len(line) > 20 for _, line in options)
    page.get_by_label("Rule").last.select_option("thrift")
    assert page.get_by_label("Settings").last.input_value() == "threshold=0.999"
    assert "saves a whole pass" in page.locator("#right-line").inner_text()
    questions.nth(1).click()
    page.locator("article", has_text="thrift 0.999").wait_for()
    assert "thrift 0.999" in finished(page)


def test_the_link_of_a_run_shows_it_again_and_curl_answers_it(
    page: sync_api.Page, served: Served
) -> None:
    question = 'Solve 3x+4=19 for x, it\'s "easy".'
    run = {"q": question, "left": "threshold:threshold=0.9", "right": "fixed:k=8", "length": "64"}
    page.goto(f"{served.url}/#{urlencode(run)}")
    first = finished(page)
    assert first.startswith("threshold 0.9: ") and "8 tokens a pass: " in first
    link = page.locator("#link").get_attribute("href")
    assert link is not None
    other = page.context.new_page()
    other.goto(link)
    assert re.sub(r"[\d.]+ s", "", finished(other)) == re.sub(r"[\d.]+ s", "", first)
    command = shlex.split(page.locator("#curl").text_content() or "")
    assert command[:3] == ["curl", "-s", f"{served.url}/v1/chat/completions"]
    body = json.loads(command[-1])
    assert body["messages"][0]["content"] == question and body["decoder"] == "fixed:k=8"
    answer = served.client.post("/v1/chat/completions", json=body).json()
    assert answer["usage"]["nfe"] == nfe(page)[1]


def test_a_prompt_by_keyboard_alone(page: sync_api.Page, served: Served, lm: LM) -> None:
    page.goto(served.url + FAST_RUN)
    page.get_by_role("textbox", name="Question").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type(PROMPTS[1])
    page.keyboard.press("Control+Enter")
    page.locator("article", has_text="Subtract 4").first.wait_for()
    finished(page)
    own = [
        lm.generate(PROMPTS[1], decoder=name, gen_length=32)
        for name in ("threshold:threshold=0.9", "credit:threshold=0.9")
    ]
    assert nfe(page) == [done.nfe for done in own]
    assert page.locator(".done").count() == 2
    for card, done in zip(page.locator("article").all(), own):
        written = card.locator('[role="list"] .token:not(.tail)').all_inner_texts()
        assert "".join(written).replace("\u21b5", "") == done.text
    page.get_by_label("Forward pass").focus()
    longest = int(page.get_by_label("Forward pass").get_attribute("max") or 0)
    assert longest == max(done.nfe for done in own)
    page.keyboard.press("Home")
    assert nfe(page) == [0, 0]
    assert page.locator(".unasked").count() > 32
    page.keyboard.press("ArrowRight")
    assert nfe(page) == [1, 1]
    assert "pass 1 / " in page.locator("#where").inner_text()
    page.locator('article [role="listitem"]').first.focus()
    assert "confidence" in page.get_by_role("tooltip").inner_text()


def test_a_short_map_is_tall_enough_to_read(page: sync_api.Page, served: Served) -> None:
    page.goto(served.url + FAST_RUN)
    finished(page)
    for count, canvas in zip(nfe(page), page.locator("canvas").all()):
        box = canvas.bounding_box()
        assert box is not None
        assert box["height"] >= min(14 * count, 200)


def test_it_draws_while_the_model_writes_and_stops_when_told(page: sync_api.Page, lm: LM) -> None:
    model = Gated(lm.model, free=0)
    with serving(with_model(lm, model)) as gated:
        model.gate.set()
        page.goto(gated.url + FAST_RUN)
        finished(page)
        model.gate.clear()
        model.free = model.passes + 20  # the answer takes 32
        page.get_by_label("Rule").first.select_option("fixed")
        page.get_by_label("Length").fill("200")
        page.get_by_role("button", name="Run").click()
        page.locator(".candidate").nth(3).wait_for()
        wait(lambda: nfe(page)[0] >= 10)
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped.").wait_for()
        model.gate.set()
        wait(lambda: gated.metric("num_requests_running") == 0)
        page.get_by_label("Length").fill("32")
        page.get_by_role("button", name="Run").click()
        finished(page)
        assert nfe(page)[0] > nfe(page)[1] > 0


def test_errors_are_shown_and_the_key_is_asked_for(page: sync_api.Page, lm: LM) -> None:
    with serving(lm, api_key="sesame") as served:
        page.goto(served.url + FAST_RUN)
        page.get_by_text("the API key is missing or wrong").wait_for()
        page.get_by_label("API key").fill("sesame")
        page.get_by_label("Settings").last.fill("alhpa=1")
        page.get_by_role("button", name="Run").click()
        page.get_by_text("Did you mean 'alpha'").wait_for()
        page.get_by_label("Settings").last.fill("alpha=1")
        page.get_by_role("button", name="Run").click()
        finished(page)
        curl = page.locator("#curl").text_content() or ""
        assert "sesame" not in curl and "Bearer $CREDIT_API_KEY" in curl


def test_on_a_phone_and_in_the_dark(browser: sync_api.Browser, served: Served) -> None:
    phone = {"width": 360, "height": 740}
    with opened(browser, viewport=phone, color_scheme="dark", has_touch=True) as page:
        page.goto(served.url + FAST_RUN)
        page.get_by_label("Rule").first.select_option("credit")
        page.get_by_label("Rule").last.select_option("fixed")
        page.get_by_role("button", name="Run").tap()
        page.get_by_text("times more passes").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        for control in page.locator("input:visible, textarea, select, button:visible").all():
            box = control.bounding_box()
            assert box is not None
            assert box["height"] >= 30
            has_name = "e => !!(e.labels?.length || e.textContent || e.ariaLabel)"
            assert page.evaluate(has_name, control.element_handle())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_object(
    browser: sync_api.Browser, served: Served, scheme: Any
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    with opened(browser, color_scheme=scheme, bypass_csp=True) as page:
        page.goto(served.url + FAST_RUN)
        finished(page)
        for summary in page.locator("summary").all():
            summary.click()
        result = axe.Axe().run(page)
        assert result.violations_count == 0, result.generate_report()


def test_other_models_have_open_questions(lm: LM) -> None:
    other = copy.copy(lm)
    other.defaults = {}
    text = live_page(other, "smol")
    assert "What does a doctor do?" in text and "threshold=0.999" not in text
    assert "Question" in text and "word problem" not in text


def test_the_rule_that_a_checkpoint_names_has_its_settings(lm: LM) -> None:
    other = copy.copy(lm)
    other.defaults = {"decoder": resolve("credit:threshold=0.97")}
    assert 'data-settings="threshold=0.97,alpha=0.65' in live_page(other, "pocket")


def test_a_model_called_like_markup(lm: LM) -> None:
    with serving(lm, name="<img src=x>{0}") as served:
        text = served.client.get("/").text
        assert "<img" not in text
        assert "&lt;img src=x&gt;{0}" in text
