"""The page of traces: its data against the frames, and nothing from outside or unescaped in it."""

import json
import re

from creditdecoding.trace import Trace
from creditdecoding.viewer.frames import frame_deltas, frames
from creditdecoding.viewer.html import trace_html
from tests.helpers.traces import MARKUP, infilled_trace, piece, two_block_trace


def embedded(page: str) -> dict:
    scripts = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL
    )
    assert len(scripts) == 1
    return json.loads(scripts[0])


def test_page_embeds_the_frames() -> None:
    traces = [
        ("credit", two_block_trace()),
        ("threshold", two_block_trace(None)),
        ("infill", infilled_trace()),
    ]
    data = embedded(trace_html(traces, piece, "Prompt"))
    for (name, trace), embedded_trace in zip(traces, data["traces"]):
        film = frames(trace, piece)
        last = film[-1].cells
        assert embedded_trace["name"] == name
        assert embedded_trace["frames"] == frame_deltas(film)
        assert embedded_trace["positions"] == [cell.position for cell in last]
        assert embedded_trace["tail"] == [i for i, cell in enumerate(last) if cell.tail]
        cells: dict[int, dict] = {}
        for frame, delta in zip(film, embedded_trace["frames"]):
            cells |= {cell["index"]: cell for cell in delta["cells"]}
            for index, cell in enumerate(frame.cells):
                assert cells[index]["state"] == cell.state
                assert cells[index].get("confidence") == cell.confidence
                assert cells[index].get("text", "") == cell.text


def test_page_asks_for_nothing_outside() -> None:
    page = trace_html([("credit", two_block_trace())], piece, "Prompt")
    assert not re.search(r"https?:|src=|@import|url\(|fetch\(|innerHTML", page)


def test_page_escapes_tokens_names_and_title() -> None:
    page = trace_html([(MARKUP + "\u2028", infilled_trace())], piece, MARKUP)
    assert "<img" not in page and page.count("</script>") == 2
    data = embedded(page)
    assert data["traces"][0]["name"] == MARKUP + "\u2028"
    assert any(cell.get("text") == MARKUP for cell in data["traces"][0]["frames"][0]["cells"])


def test_page_of_an_empty_trace() -> None:
    assert embedded(trace_html([("none", Trace((1,)))], piece, ""))["traces"][0]["frames"] == []
