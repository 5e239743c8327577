"""Streams: text is sent as soon as it is final, and not before."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from creditdecoding.lm import LM
from creditdecoding.viewer.frames import frames
from tests.helpers.serving import (
    CHAT,
    PROMPTS,
    Gated,
    Served,
    Slow,
    Stepped,
    messages,
    serving,
    wait,
    with_model,
)


def text_of(events: list[dict[str, Any]]) -> str:
    """The text of a streamed chat answer."""
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_the_streamed_text_comes_in_pieces_and_is_the_same(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model="pocket",
            messages=messages(),
            stream=True,
            extra_body={"decoder": "fixed"},
            max_tokens=32,
        )
        deltas = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    pieces = [delta for delta in deltas if delta]
    assert len(pieces) >= 2
    assert "".join(pieces) == served.text(decoder="fixed", max_tokens=32)


def written_prefix(draft: dict[str, Any]) -> str:
    """The text of a canvas before its first mask or its end."""
    prefix = ""
    for cell in draft["cells"][: draft["end"]]:
        if cell["state"] == "masked":
            break
        prefix += cell.get("text", "")
    return prefix


def test_text_is_sent_as_soon_as_it_is_final(lm: LM) -> None:
    """After each pass the client has the written prefix, not more and not less; there is no pass
    before it has the last one.
    """
    body = {
        "messages": messages(),
        "decoder": "fixed:order=random",
        "max_tokens": 32,
        "seed": 3,
        "draft": True,
    }
    model = Stepped(lm.model)
    text = ""
    prefix = ""
    with serving(with_model(lm, model)) as served:
        for choice in served.choices(**body):
            text += choice["delta"].get("content") or ""
            if "draft" in choice:
                model.permits.release()
                prefix = written_prefix(choice["draft"])
            elif choice["delta"].get("content"):
                assert text == prefix
    own = lm.generate(PROMPTS[0], decoder="fixed:order=random", gen_length=32, seed=3)
    assert text == own.text


def test_first_text_comes_before_the_end(lm: LM) -> None:
    """The last passes are not made before the client has read some text."""
    model = Gated(lm.model, free=40)  # of 64, more than the first block has
    body = {"messages": messages(), "decoder": "fixed", "max_tokens": 64, "ignore_eos": True}
    with serving(with_model(lm, model)) as served:
        for choice in served.choices(**body):
            if choice["delta"].get("content"):
                model.gate.set()
    assert model.passes == 64


def test_the_draft_channel_shows_every_canvas(lm: LM, served: Served) -> None:
    choices = served.choices(messages=messages(), draft=True, max_tokens=32)
    drafts = [choice["draft"] for choice in choices if "draft" in choice]
    trace = lm.generate(PROMPTS[0], gen_length=32).trace
    film = frames(trace, lm.tokenizer.token_text)
    assert [draft["nfe"] for draft in drafts] == list(range(1, trace.nfe + 1))
    assert all(len(draft["cells"]) == 32 for draft in drafts)
    for draft, frame in zip(drafts, film):
        for cell in frame.cells:
            sent = draft["cells"][cell.position]
            state = (sent["state"], sent.get("text", ""), sent.get("commit"))
            assert state == (cell.state, cell.text, cell.commit)
            assert sent.get("confidence", 0.0) == pytest.approx(cell.confidence or 0.0, abs=1e-3)
    assert drafts[-1]["written"] == film[-1].written


@pytest.mark.parametrize("stop", [slice(5, 9), slice(20, 30), slice(0, 3)], ids=str)
def test_stop_strings_are_never_sent(stop: slice, served: Served) -> None:
    options: dict[str, Any] = {"max_tokens": 40}
    whole = served.text(**options)
    stops = [whole[stop], "never there"]
    cut = whole[: whole.find(whole[stop])]
    assert served.text(stop=stops, **options) == cut
    for decoder in ("credit", "fixed:k=4"):
        events = served.events(messages=messages(), stop=stops, decoder=decoder, **options)
        assert events[-1]["choices"][0]["finish_reason"] == "stop"
        own = served.text(decoder=decoder, **options)
        assert text_of(events) == own[: own.find(whole[stop])]


def test_a_long_stop_string_whose_beginning_occurs_is_held_back(lm: LM) -> None:
    """The end of the text may be the beginning of a stop string, however much longer that is."""
    options = {"decoder": "fixed", "gen_length": 24}
    whole = lm.generate(PROMPTS[1], **options).text
    assert whole
    assert "".join(lm.stream(PROMPTS[1], stop=(whole,), **options)) == ""
    assert "".join(lm.stream(PROMPTS[1], stop=(whole + "x",), **options)) == whole


def test_the_last_event_counts_if_asked(served: Served) -> None:
    body: dict[str, Any] = {"messages": messages(), "max_tokens": 32}
    usage = served.chat(max_tokens=32).json()["usage"]
    plain = served.events(**body)
    assert all("usage" not in event for event in plain)
    *others, last = served.events(**body, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == usage
    assert all(event["usage"] is None for event in others)
    both = {"include_usage": True, "continuous_usage_stats": True}
    events = served.events(**body, stream_options=both)
    counts = [event["usage"]["completion_tokens"] for event in events]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert (events[-1]["choices"], events[-1]["usage"]) == ([], usage)


def test_a_client_that_leaves_aborts_its_request(lm: LM) -> None:
    with serving(with_model(lm, Slow(lm.model))) as served:
        body = {"messages": messages(), "stream": True, "decoder": "fixed"}
        with served.client.stream("POST", CHAT, json=body) as response:
            next(response.iter_lines())

        def has_ended() -> bool:
            aborted = served.metric("request_success_total", finished_reason="abort")
            return aborted == 1 and served.metric("num_requests_running") == 0

        wait(has_ended)
