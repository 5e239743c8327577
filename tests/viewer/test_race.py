"""Two answers on one clock: in the terminal, and as an SVG."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from rich.console import Console

from creditdecoding.viewer.animation import Total, race_svg
from creditdecoding.viewer.labels import spec_label
from creditdecoding.viewer.race import Lane, make_lane, play
from tests.helpers.traces import END, MARKUP, piece, two_block_trace

SVG = "{http://www.w3.org/2000/svg}"


def lanes() -> list[Lane]:
    """The same answer twice; the second takes twice as long."""
    slow = make_lane("standard", two_block_trace(), piece)
    times = [2 * seconds for seconds in slow.times]
    return [make_lane("credit 0.9", two_block_trace(), piece), Lane("x", slow.frames, times)]


def test_a_lane_shows_the_last_pass_that_has_happened() -> None:
    lane = lanes()[0]
    assert lane.at(0.0).nfe == 0
    for frame, start in zip(lane.frames, lane.times):
        assert lane.at(start).nfe == frame.nfe
        assert lane.at(start + 1e-6).nfe == frame.nfe
    assert lane.at(99.0).nfe == 4
    assert not lane.is_done(lane.times[-2])
    assert lane.is_done(lane.seconds)


def test_the_race_ends_when_the_slower_lane_is_done() -> None:
    console = Console(record=True, force_terminal=True, width=80, height=30)
    slept: list[float] = []
    play(
        lanes(),
        ends=(END,),
        slowdown=3.0,
        console=console,
        clock=lambda: sum(slept),
        sleep=slept.append,
    )
    longest = 2 * lanes()[0].seconds
    assert 3 * longest <= sum(slept) < 3 * longest + 0.1
    last = console.export_text().rsplit("credit 0.9", 1)[-1]
    assert last.count("The cat sat.") == 2
    assert last.count("4 passes in") == 2 and "1 pass " not in last


def test_the_svg_is_valid_has_every_token_once_and_no_script() -> None:
    text = race_svg(lanes(), f"a question {MARKUP}", [Total("credit 0.9", 2.0, "9 & all")])
    root = ET.fromstring(text)
    tags = {element.tag for element in root.iter()}
    assert tags <= {SVG + tag for tag in ("svg", "title", "style", "rect", "g", "text", "path")}
    assert "href" not in text and "url(" not in text
    words = [element.text for element in root.iter(f"{SVG}text")]
    for word in ("The", "cat", "sat", "credit 0.9", "9 & all"):
        assert word in words
    assert words.count("sat") == 2
    assert "prefers-reduced-motion" in text and "prefers-color-scheme: dark" in text
    title = root.find(f"{SVG}title")
    assert title is not None and "4 forward passes" in (title.text or "")


def test_every_pass_of_the_svg_has_its_time() -> None:
    text = race_svg(lanes(), "a question")
    for number, lane in enumerate(lanes()):
        starts = re.findall(rf"@keyframes p{number}w\d+{{0%{{opacity:0}}([\d.]+)%", text)
        expected = [100 * seconds * 8 / 12 / lanes()[1].seconds for seconds in lane.times[1:]]
        assert [float(start) for start in starts] == [round(value, 2) for value in expected]
    used = set(re.findall(r"animation-name:(\w+)", text))
    assert used <= set(re.findall(r"@keyframes (\w+)", text))


def test_settings_in_words() -> None:
    assert spec_label("threshold:threshold=0.9") == "threshold 0.9"
    assert spec_label("fixed") == spec_label("fixed:k=1") == "standard"
    assert spec_label("fixed:k=4") == "4 tokens a pass"
    assert spec_label("credit_full:threshold=0.9,alpha=1") == "credit full 0.9, alpha 1"
