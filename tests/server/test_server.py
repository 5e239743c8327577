"""The server's answers: OpenAI's shapes through OpenAI's own client, equal to `LM.generate`,
streamed as they become final.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from creditdecoding.decoding.request import sample_seed
from creditdecoding.lm import LM, load
from creditdecoding.trace import Trace
from creditdecoding.viewer.frames import frames
from tests.helpers.serving import PROMPTS, Gated, Served, Slow, Stepped, serving, wait, with_model
from tools.make_checkpoint import FAMILIES, make

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


@pytest.fixture(scope="module")
def served(lm: LM) -> Iterator[Served]:
    with serving(lm) as served:
        yield served


@pytest.fixture(scope="module")
def slow(lm: LM) -> Iterator[Served]:
    with serving(with_model(lm, Slow(lm.model))) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def messages(prompt: str = PROMPTS[0]) -> Any:
    return [{"role": "user", "content": prompt}]


def trace_of(lm: LM, prompt: str, raw: bool = False, **options: Any) -> Trace:
    return lm.generate(prompt, raw=raw, **options).trace


def events(served: Served, path: str = "/v1/chat/completions", **body: Any) -> list[dict[str, Any]]:
    """Every event of a streamed response; the last line is [DONE]."""
    with served.client.stream("POST", path, json={"stream": True, **body}) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith(
            "text/event-stream"
        )
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines[:-1]]


def choices(served: Served, **body: Any) -> Iterator[dict[str, Any]]:
    """Every choice of a streamed answer, as it comes."""
    with served.client.stream(
        "POST", "/v1/chat/completions", json={"stream": True, **body}
    ) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield from json.loads(line[6:])["choices"]


def texts(found: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for event in found for choice in event["choices"] if choice["index"] == index]
    return "".join(
        choice["text"] if "text" in choice else choice["delta"].get("content") or ""
        for choice in choices
    )


# The client OpenAI makes
# -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decoder": "threshold:threshold=0.95"},
        {"decoder": {"name": "fixed", "k": 2}, "max_tokens": 40},
    ],
)
def test_chat_is_generate(lm: LM, client: openai.OpenAI, options: dict[str, Any]) -> None:
    limit = {"max_tokens": options["max_tokens"]} if "max_tokens" in options else {}
    done = client.chat.completions.create(
        model="pocket",
        messages=messages(),
        extra_body={k: v for k, v in options.items() if k == "decoder"},
        **limit,
    )
    decoder = (
        "fixed:k=2"
        if isinstance(options.get("decoder"), dict)
        else options.get("decoder", "credit")
    )
    own = lm.generate(PROMPTS[0], decoder=decoder, gen_length=options.get("max_tokens", 128))
    (choice,) = done.choices
    assert (
        choice.message.content == own.text
        and choice.message.role == "assistant"
        and choice.finish_reason == own.finish_reason
    )
    assert (
        done.usage is not None
        and done.usage.completion_tokens == own.trace.token_count
        and done.usage.prompt_tokens == len(own.trace.prompt)
    )
    assert done.usage.model_extra == {"nfe": own.nfe, "tpf": pytest.approx(own.tpf, abs=1e-3)}
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_the_streamed_text_comes_in_pieces_and_is_the_same(
    client: openai.OpenAI, served: Served
) -> None:
    stream = client.chat.completions.create(
        model="pocket",
        messages=messages(),
        stream=True,
        extra_body={"decoder": "fixed"},
        max_tokens=64,
    )
    pieces = [
        chunk.choices[0].delta.content
        for chunk in stream
        if chunk.choices and chunk.choices[0].delta.content
    ]
    assert len(pieces) > 3 and "".join(pieces) == served.text(decoder="fixed", max_tokens=64)


def test_async_and_many_at_once(served: Served, lm: LM) -> None:
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            asked = [
                client.completions.create(model="pocket", prompt=prompt, max_tokens=24)
                for prompt in PROMPTS
            ]
            return [done.choices[0].text for done in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == [
        done.text for done in lm.generate(PROMPTS, raw=True, gen_length=24)
    ]


def test_the_client_aborts_and_the_row_ends(slow: Served) -> None:
    client = openai.OpenAI(base_url=f"{slow.url}/v1", api_key="none")
    before = slow.metric("request_success_total", finished_reason="abort")
    stream = client.chat.completions.create(
        model="pocket",
        messages=messages(),
        stream=True,
        extra_body={"decoder": "fixed"},
        max_tokens=128,
    )
    next(iter(stream))
    stream.close()
    wait(
        lambda: (
            slow.metric("request_success_total", finished_reason="abort") == before + 1
            and slow.metric("num_requests_running") == 0
        ),
        10.0,
    )


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"] and client.models.retrieve(
        "pocket"
    ).id == "pocket"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=messages())


# Fields
# ------------------------------------------------------------------------------------------------------------------------


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
    with serving(with_model(lm, model)) as served:
        for choice in choices(served, **body):
            text += choice["delta"].get("content") or ""
            if "draft" in choice:
                model.permits.release()
                cells = choice["draft"]["cells"]
                ready = next(
                    (
                        i
                        for i, cell in enumerate(cells)
                        if cell["state"] == "masked" or i == choice["draft"]["end"]
                    ),
                    len(cells),
                )
                prefix = "".join(cell.get("text", "") for cell in cells[:ready])
            elif choice["delta"].get("content"):
                assert text == prefix
    assert text == lm.generate(PROMPTS[0], decoder="fixed:order=random", gen_length=32, seed=3).text


def test_the_draft_channel_shows_every_canvas(lm: LM, served: Served) -> None:
    found = [
        choice["draft"]
        for event in events(served, messages=messages(), draft=True, max_tokens=64)
        for choice in event["choices"]
        if "draft" in choice
    ]
    trace = trace_of(lm, PROMPTS[0], gen_length=64)
    film = frames(trace, lm.tokenizer.token_text)
    assert [draft["nfe"] for draft in found] == list(range(1, trace.nfe + 1)) and all(
        len(draft["cells"]) == 64 for draft in found
    )
    for draft, frame in zip(found, film):
        for cell in frame.cells:
            sent = draft["cells"][cell.position]
            assert (sent["state"], sent.get("text", ""), sent.get("commit")) == (
                cell.state,
                cell.text,
                cell.commit,
            )
            assert sent.get("confidence", 0.0) == pytest.approx(cell.confidence or 0.0, abs=1e-3)
    assert found[-1]["written"] == film[-1].written


def test_stop_strings_are_never_sent(served: Served, lm: LM) -> None:
    whole = served.text()
    for stop in (whole[5:9], [whole[20:30], "never there"], whole[:3]):
        cut = whole[
            : min(
                at for at in map(whole.find, [stop] if isinstance(stop, str) else stop) if at >= 0
            )
        ]
        for decoder in ("credit", "fixed"):
            found = events(served, messages=messages(), stop=stop, decoder=decoder)
            assert texts(found) == cut if decoder == "credit" else whole.startswith(cut)
            assert found[-1]["choices"][0]["finish_reason"] == "stop"
        assert served.chat(stop=stop).json()["choices"][0]["message"]["content"] == cut


def test_a_long_stop_string_whose_beginning_occurs_is_held_back(lm: LM) -> None:
    """The end of the text may be the beginning of a stop string, however much longer that is than
    the text.
    """
    options = {"decoder": "fixed", "gen_length": 24}
    whole = lm.generate(PROMPTS[1], **options).text
    assert "".join(lm.stream(PROMPTS[1], stop=(whole,), **options)) == ""
    assert "".join(lm.stream(PROMPTS[1], stop=(whole + "x",), **options)) == whole != ""


def test_seeds_and_choices(served: Served, lm: LM) -> None:
    options = {"temperature": 4.0, "max_tokens": 24}
    several = served.chat(n=3, seed=7, **options).json()
    own = [
        lm.generate(PROMPTS[0], seed=seed, temperature=4.0, gen_length=24).text
        for seed in (sample_seed(7, i) for i in range(3))
    ]
    assert [choice["message"]["content"] for choice in several["choices"]] == own and [
        c["index"] for c in several["choices"]
    ] == [0, 1, 2]
    streamed = events(served, messages=messages(), n=3, seed=7, **options)
    assert [texts(streamed, i) for i in range(3)] == own
    assert len({served.text(**options) for _ in range(6)}) > 1, (
        "without a seed each answer has its own"
    )


@pytest.mark.parametrize("decoder", ["credit", "fixed:order=random", "edit", "wino"])
def test_logprobs_are_those_of_the_pass_that_wrote_the_token(
    decoder: str, served: Served, lm: LM
) -> None:
    trace = trace_of(lm, PROMPTS[1], decoder=decoder, gen_length=40)
    assert trace.steps[0].logprobs is not None
    at = {
        p: v
        for s in trace.steps
        for p, v, done in zip(s.positions, s.logprobs or (), s.committed)
        if done
    }
    expected = [at[len(trace.prompt) + i] for i in range(len(trace.tokens))]
    body = {"decoder": decoder, "max_tokens": 40, "seed": 0}
    whole = served.chat(PROMPTS[1], logprobs=True, **body).json()["choices"][0]["logprobs"][
        "content"
    ]
    assert [each["logprob"] for each in whole] == pytest.approx(expected, abs=1e-4)
    assert [each["token"] for each in whole] == [
        lm.tokenizer.token_text(token) for token in trace.tokens
    ]
    parts = [
        c["logprobs"]["content"]
        for e in events(served, messages=messages(PROMPTS[1]), logprobs=True, **body)
        for c in e["choices"]
        if c["logprobs"]
    ]
    assert [each for part in parts for each in part] == whole
    raw = served.client.post(
        "/v1/completions", json={"prompt": PROMPTS[1], "logprobs": 0, **body}
    ).json()["choices"][0]
    assert "".join(raw["logprobs"]["tokens"]).startswith(raw["text"]) and raw["logprobs"][
        "text_offset"
    ][:1] in ([], [0])


def test_the_last_event_counts_if_asked(served: Served) -> None:
    found = events(served, messages=messages(), stream_options={"include_usage": True})
    assert found[-1]["choices"] == [] and found[-1]["usage"] == served.chat().json()["usage"]
    assert all(event["usage"] is None for event in found[:-1])
    assert all("usage" not in event for event in events(served, messages=messages()))
    running = events(
        served,
        messages=messages(),
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [event["usage"]["completion_tokens"] for event in running]
    assert (
        counts == sorted(counts)
        and counts[0] == 0
        and running[-1] == {**found[-1], "id": running[-1]["id"], "created": running[-1]["created"]}
    )


def test_completions_take_texts_ids_and_several(served: Served, lm: LM) -> None:
    ids = [lm.encode(prompt, raw=True) for prompt in PROMPTS[:2]]
    own = [done.text for done in lm.generate(PROMPTS[:2], raw=True, gen_length=16)]
    for prompt, expected in (
        (PROMPTS[0], own[:1]),
        (PROMPTS[:2], own),
        (ids[0], own[:1]),
        (ids, own),
        (ids[0] * 8, None),
    ):
        done = served.client.post(
            "/v1/completions", json={"prompt": prompt, "max_tokens": 16}
        ).json()
        if expected is None:
            assert done["usage"]["prompt_tokens"] == 8 * len(ids[0]) > 64
            continue
        assert [choice["text"] for choice in done["choices"]] == expected
        assert done["usage"]["prompt_tokens"] == sum(map(len, ids[: len(expected)]))


def test_a_conversation_goes_through_the_template(served: Served, lm: LM) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": PROMPTS[1]}]},
    ]
    done = served.client.post(
        "/v1/chat/completions", json={"messages": turns, "max_tokens": 8}
    ).json()
    assert done["usage"]["prompt_tokens"] == len(
        lm.encode([turns[0], {"role": "user", "content": PROMPTS[1]}])
    )


def test_metrics_count_what_happened(lm: LM) -> None:
    with serving(lm) as served:
        used = served.chat().json()["usage"]
        served.chat(tools=[{}])
        assert (
            served.metric("diffusion_num_denoising_steps_total")
            == used["nfe"]
            == served.metric("request_num_denoising_steps_sum")
        )
        assert (
            served.metric("generation_tokens_total") == used["completion_tokens"]
            and served.metric("prompt_tokens_total") == used["prompt_tokens"]
        )
        assert served.metric("diffusion_num_committed_tokens_total") >= used["completion_tokens"]
        assert served.metric("diffusion_num_canvas_positions_total") == used["nfe"] * (
            used["prompt_tokens"] + 128
        )
        assert (
            served.metric("request_success_total", finished_reason="stop")
            == 1
            == served.metric("http_responses_total", status="400")
        )
        assert (
            served.metric("time_to_first_token_seconds_count")
            == served.metric("e2e_request_latency_seconds_count")
            == 1
        )
        assert (
            served.metric("engine_forwards") == used["nfe"]
            and served.metric("num_requests_running") == 0
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served(family: str, tmp_path: Path) -> None:
    lm = load(str(make(family, tmp_path)))
    with serving(lm, name=family) as served:
        done = served.chat("How are you?", max_tokens=21, ignore_eos=True).json()
        assert done["usage"]["completion_tokens"] == 21, (
            "never more than max_tokens, whatever the model's blocks"
        )
        assert (
            done["choices"][0]["message"]["content"]
            == lm.generate("How are you?", gen_length=21, logits_eos_inf=True).text
        )
        assert done["choices"][0]["finish_reason"] == "length" and done["model"] == family


def test_first_text_comes_before_the_end(lm: LM) -> None:
    """The last passes are not made before the client has read some text."""
    model = Gated(lm.model, free=40)  # of 64, more than the first block has
    body = {
        "messages": messages(),
        "stream": True,
        "decoder": "fixed",
        "max_tokens": 64,
        "ignore_eos": True,
    }
    with (
        serving(with_model(lm, model)) as served,
        served.client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        for line in response.iter_lines():
            if '"content":"' in line and '"content":""' not in line:
                model.gate.set()
    assert model.passes == 64
