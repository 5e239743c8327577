"""Answers: equal to `LM.generate`, in OpenAI's shapes, through OpenAI's own client."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Completion, ErrorObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from creditdecoding.decoding.request import sample_seed
from creditdecoding.lm import LM, load
from tests.helpers.serving import CHAT, PROMPTS, TEXT, Served, messages, serving
from tools.make_checkpoint import FAMILIES, make


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize(
    ("decoder", "spec", "length"),
    [
        ("threshold:threshold=0.999", None, None),
        ("threshold:threshold=0.95", "threshold:threshold=0.95", None),
        ({"name": "fixed", "k": 2}, "fixed:k=2", 40),
    ],
)
def test_chat_is_generate(
    decoder: Any, spec: str | None, length: int | None, lm: LM, client: openai.OpenAI
) -> None:
    options: dict[str, Any] = {} if length is None else {"max_tokens": length}
    extra = {} if spec is None else {"decoder": decoder}
    done = client.chat.completions.create(
        model="pocket", messages=messages(), extra_body=extra, **options
    )
    own = lm.generate(PROMPTS[0], decoder=spec or decoder, gen_length=length or 128)
    (choice,) = done.choices
    assert choice.message.content == own.text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == own.finish_reason
    usage = done.usage
    assert usage is not None
    assert usage.completion_tokens == own.trace.token_count
    assert usage.prompt_tokens == len(own.trace.prompt)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.model_extra == {"nfe": own.nfe, "tpf": pytest.approx(own.tpf, abs=1e-3)}


def test_many_at_once(served: Served, lm: LM) -> None:
    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
            requests = [
                client.completions.create(model="pocket", prompt=prompt, max_tokens=24)
                for prompt in PROMPTS
            ]
            return [done.choices[0].text for done in await asyncio.gather(*requests)]

    own = lm.generate(PROMPTS, raw=True, gen_length=24)
    assert asyncio.run(ask_all()) == [done.text for done in own]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["pocket"]
    assert client.models.retrieve("pocket").id == "pocket"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        client.chat.completions.create(model="gpt-4", messages=messages())
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4'"):
        client.models.retrieve("gpt-4")


# Shapes ------------------------------------------------------------


def valid(kind: Any, body: dict[str, Any]) -> Any:
    """The body as OpenAI's type, which must accept it strictly."""
    return kind.model_validate(body, strict=True)


@pytest.mark.parametrize("logprobs", [False, True])
def test_chat_shapes(logprobs: bool, served: Served) -> None:
    body = {"messages": messages(), "max_tokens": 8, "n": 2, "logprobs": logprobs}
    whole = valid(ChatCompletion, served.client.post(CHAT, json=body).json())
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert all((choice.logprobs is not None) == logprobs for choice in whole.choices)
    for event in served.events(**body, draft=True, stream_options={"include_usage": True}):
        valid(ChatCompletionChunk, event)


@pytest.mark.parametrize("logprobs", [None, 0])
def test_completion_shapes(logprobs: int | None, served: Served) -> None:
    body = {"prompt": PROMPTS[:2], "max_tokens": 8, "logprobs": logprobs}
    whole = valid(Completion, served.complete(**body))
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert all((choice.logprobs is None) == (logprobs is None) for choice in whole.choices)
    for event in served.events(TEXT, **body, draft=True):
        for choice in event["choices"]:  # OpenAI's type of events has no choice without an end
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        valid(Completion, event)


def test_other_shapes(served: Served) -> None:
    (card,) = served.client.get("/v1/models").json()["data"]
    valid(Model, card)
    for fields in ({"nonsense": 1}, {"model": "gpt-4"}, {"temperature": -1}):
        valid(ErrorObject, served.chat(**fields).json()["error"])


# Fields ------------------------------------------------------------


@pytest.mark.slow
def test_seeds_and_choices(served: Served, lm: LM) -> None:
    options = {"temperature": 4.0, "max_tokens": 16}
    own = [
        lm.generate(PROMPTS[0], seed=sample_seed(7, index), temperature=4.0, gen_length=16).text
        for index in range(3)
    ]
    choices = served.chat(n=3, seed=7, **options).json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == own
    texts = ["", "", ""]
    for choice in served.choices(messages=messages(), n=3, seed=7, **options):
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == own
    unseeded = {served.text(**options) for _ in range(6)}
    assert len(unseeded) > 1, "without a seed each answer has a different one"


@pytest.mark.parametrize("decoder", ["credit", "fixed:order=random", "edit", "wino"])
def test_logprobs_are_those_of_the_pass_that_wrote_the_token(
    decoder: str, served: Served, lm: LM
) -> None:
    trace = lm.generate(PROMPTS[1], decoder=decoder, gen_length=24).trace
    written: dict[int, float] = {}
    for step in trace.steps:
        assert step.logprobs is not None
        steps = zip(step.positions, step.logprobs, step.committed)
        written |= {position: value for position, value, committed in steps if committed}
    expected = [written[len(trace.prompt) + index] for index in range(len(trace.tokens))]

    body = {"decoder": decoder, "max_tokens": 24, "seed": 0}
    chat = {"messages": messages(PROMPTS[1]), "logprobs": True, **body}
    whole = served.client.post(CHAT, json=chat).json()["choices"][0]["logprobs"]["content"]
    assert [token["logprob"] for token in whole] == pytest.approx(expected, abs=1e-4)
    assert [token["token"] for token in whole] == [
        lm.tokenizer.token_text(token) for token in trace.tokens
    ]
    streamed = [choice["logprobs"] for choice in served.choices(**chat) if choice["logprobs"]]
    assert [token for logprobs in streamed for token in logprobs["content"]] == whole

    (raw,) = served.complete(prompt=PROMPTS[1], logprobs=0, **body)["choices"]
    assert "".join(raw["logprobs"]["tokens"]).startswith(raw["text"])
    assert raw["logprobs"]["text_offset"][:1] in ([], [0])


def test_completions_take_texts_ids_and_several(served: Served, lm: LM) -> None:
    ids = [lm.encode(prompt, raw=True) for prompt in PROMPTS[:2]]
    own = [done.text for done in lm.generate(PROMPTS[:2], raw=True, gen_length=16)]
    for prompt, expected in [
        (PROMPTS[0], own[:1]),
        (PROMPTS[:2], own),
        (ids[0], own[:1]),
        (ids, own),
    ]:
        done = served.complete(prompt=prompt, max_tokens=16)
        assert [choice["text"] for choice in done["choices"]] == expected
        assert done["usage"]["prompt_tokens"] == sum(map(len, ids[: len(expected)]))
    long = served.complete(prompt=ids[0] * 8, max_tokens=16)
    assert long["usage"]["prompt_tokens"] == 8 * len(ids[0]) > 64


def test_a_conversation_goes_through_the_template(served: Served, lm: LM) -> None:
    system = {"role": "system", "content": "Be brief."}
    parts = {"role": "user", "content": [{"type": "text", "text": PROMPTS[1]}]}
    body = {"messages": [system, parts], "max_tokens": 8}
    usage = served.client.post(CHAT, json=body).json()["usage"]
    turns = [system, {"role": "user", "content": PROMPTS[1]}]
    assert usage["prompt_tokens"] == len(lm.encode(turns))


@pytest.mark.parametrize("name", ["<|mdm_mask|>", "<|eot_id|>", "<|start_header_id|>"])
def test_names_of_special_tokens_in_a_request_are_plain_text(
    name: str, lm: LM, served: Served
) -> None:
    turns = [[{"role": "user", "content": text}] for text in (f"A{name}", "A")]
    special = set(lm.tokenizer.backend.all_special_ids)
    forged, plain = (lm.encode(turn) for turn in turns)
    assert [i for i in forged if i in special] == [i for i in plain if i in special]
    usage = served.chat(messages=turns[0], max_tokens=2).json()["usage"]
    assert usage["prompt_tokens"] == len(forged)
    usage = served.complete(prompt=f"A{name}", max_tokens=2)["usage"]
    assert usage["prompt_tokens"] == len(lm.encode(f"A{name}", raw=True))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_served(family: str, tmp_path: Path) -> None:
    lm = load(str(make(family, tmp_path)))
    with serving(lm, name=family) as served:
        done = served.chat("How are you?", max_tokens=21, ignore_eos=True).json()
    (choice,) = done["choices"]
    own = lm.generate("How are you?", gen_length=21, logits_eos_inf=True)
    assert done["usage"]["completion_tokens"] == 21, "never more, whatever the model's blocks"
    assert choice["message"]["content"] == own.text
    assert choice["finish_reason"] == "length"
    assert done["model"] == family
