"""Fields of requests: every field of OpenAI's client is used, ignored or refused by name."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.resources.chat.completions import Completions as Chats
from openai.resources.completions import Completions as Texts
from openai.types.chat import (
    ChatCompletionAssistantMessageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionMessage,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionUserMessageParam,
)

from creditdecoding.decoding.request import sample_seed
from creditdecoding.lm import LM
from creditdecoding.server import schema
from creditdecoding.server.fields import HARMLESS, MESSAGE_HARMLESS
from tests.helpers.serving import (
    PROMPTS,
    Served,
    error_of,
    messages,
)


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


@pytest.mark.parametrize(
    ("create", "model"),
    [(Chats.create, schema.ChatRequest), (Texts.create, schema.CompletionRequest)],
)
def test_every_field_of_the_client_is_used_ignored_or_refused(create: Any, model: Any) -> None:
    fields = set(inspect.signature(create).parameters) - OF_THE_CLIENT
    known = {*model.model_fields, *model.refused, *model.harmless}
    assert fields <= known, f"not in server/fields.py: {fields - known}"
    assert not set(model.model_fields) & {*model.refused, *model.harmless}
    assert not set(model.refused) & set(model.harmless)


@pytest.mark.parametrize(
    ("param", "model"),
    [
        (ChatCompletionSystemMessageParam, schema.Message),
        (ChatCompletionDeveloperMessageParam, schema.Message),
        (ChatCompletionUserMessageParam, schema.Message),
        (ChatCompletionAssistantMessageParam, schema.Message),
        (ChatCompletionMessage, schema.Message),
        (ChatCompletionContentPartTextParam, schema.TextPart),
        (ChatCompletionStreamOptionsParam, schema.StreamOptions),
    ],
)
def test_every_field_of_a_message_is_known(param: Any, model: Any) -> None:
    own = getattr(param, "model_fields", None)
    fields = set(own if own is not None else typing.get_type_hints(param))
    assert fields <= {*model.model_fields, *model.refused, *model.harmless}


IGNORED: dict[str, Any] = {
    "metadata": {"run": "7"},
    "parallel_tool_calls": True,
    "prediction": {"type": "content", "content": "Tom has 11 apples."},
    "prompt_cache_key": "mine",
    "reasoning_effort": "low",
    "safety_identifier": "user-7",
    "user": "user-7",
    "verbosity": "low",
    "store": False,
    "service_tier": "auto",
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": None,
    "response_format": {"type": "text"},
}


def test_harmless_fields_change_nothing(served: Served) -> None:
    plain = served.text(max_tokens=8)
    assert served.text(max_tokens=8, **IGNORED) == plain
    request = schema.ChatRequest
    names = {*HARMLESS, *request.refused, *request.model_fields} - {"messages", "max_tokens"}
    assert served.text(max_tokens=8, **dict.fromkeys(names)) == plain, "null is as good as nothing"
    message = {**messages()[0], **dict.fromkeys(MESSAGE_HARMLESS, "x")}
    assert served.text(messages=[message], max_tokens=8) == plain


def test_harmless_fields_are_listed_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "serving.md").read_text(encoding="utf-8")
    names = {*HARMLESS, *MESSAGE_HARMLESS, *schema.ChatRequest.refused, *schema.Message.refused}
    assert not {name for name in names if f"`{name}`" not in page}


def test_an_answer_can_be_sent_back(client: openai.OpenAI, served: Served) -> None:
    (question,) = messages(PROMPTS[1])
    answer = client.chat.completions.create(model="pocket", messages=[question], max_tokens=16)
    dumped = answer.choices[0].message.model_dump()
    assert {"refusal", "tool_calls", "function_call", "audio"} <= set(dumped)
    plain = {"role": "assistant", "content": dumped["content"]}
    expected = served.text(messages=[question, plain, question], max_tokens=8)
    more = {"tool_calls": [], "reasoning_content": None, "name": "pocket"}
    for message in (dumped, {**dumped, **more}):
        turns: Any = [question, message, question]
        again = client.chat.completions.create(model="pocket", messages=turns, max_tokens=8)
        assert again.choices[0].message.content == expected


def test_a_turn_without_content_is_the_assistants(served: Served) -> None:
    user = {"role": "user", "content": "hi"}
    for silent in ({"role": "assistant"}, {"role": "assistant", "content": None}):
        assert served.chat(messages=[user, silent, user], max_tokens=2).status_code == 200
    error = error_of(served.chat(messages=[{"role": "user", "content": None}]))
    assert error["param"] == "messages.0.content"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"store": True}, "store"),
        ({"frequency_penalty": False}, "frequency_penalty"),
        ({"echo": 0}, "echo"),
        ({"best_of": True}, "best_of"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"min_tokens": 3}, "min_tokens"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_would_change_the_answer_is_refused(
    fields: dict[str, Any], param: str, served: Served
) -> None:
    assert error_of(served.chat(**fields))["param"] == param


@pytest.mark.slow
def test_no_limit_as_vllm_says_it(lm: LM, served: Served) -> None:
    ids = lm.encode(PROMPTS[1], raw=True)
    fields = {
        "max_tokens": -1,
        "ignore_eos": True,
        "decoder": "fixed:k=64",
        "prompt": [ids, ids[:5]],
    }
    usage = served.complete(**fields)["usage"]
    assert usage["completion_tokens"] == 2 * lm.max_length - len(ids) - 5
    drawn = {"prompt": PROMPTS[1], "temperature": 2.0, "seed": 3, "max_tokens": 8}
    unlimited = served.texts(**drawn)
    assert served.texts(top_k=-1, **drawn) == unlimited
    assert served.texts(top_k=0, **drawn) == unlimited


def test_equal_prompts_draw_different_answers(lm: LM, served: Served) -> None:
    fields = {"temperature": 2.5, "max_tokens": 12}
    four = [PROMPTS[1]] * 4
    unseeded = served.texts(prompt=four, **fields)
    assert len(set(unseeded)) > 1, "two of four may be equal by chance"
    assert served.texts(prompt=four, **fields) != unseeded, "each request has a different seed"
    own = []
    for index in range(4):
        seed = sample_seed(11, index)
        done = lm.generate(PROMPTS[1], raw=True, gen_length=12, temperature=2.5, seed=seed)
        own.append(done.text)
    assert len(set(own)) == 4
    assert served.texts(prompt=four, seed=11, **fields) == own
    assert served.texts(prompt=four[:2], n=2, seed=11, **fields) == own
    assert served.texts(prompt=four[0], seed=11, **fields) == own[:1]
