"""What requests may say: fields of OpenAI's client one by one, answers sent back, seeds, limits
that are none, defaults, text filled in.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
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

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import new_infill_request, sample_seed
from creditdecoding.errors import CheckpointError, OptionError
from creditdecoding.lm import LM, load
from creditdecoding.server import schema
from creditdecoding.server import serve as run_module
from creditdecoding.server.fields import HARMLESS, MESSAGE_HARMLESS
from tests.helpers.cli import run_credit
from tests.helpers.serving import PROMPTS, Served, serving
from tools.make_checkpoint import make

torch.set_num_threads(1)
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket")


@pytest.fixture(scope="module")
def served(lm: LM) -> Iterator[Served]:
    with serving(lm) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def complaint(response: httpx.Response) -> dict[str, Any]:
    """The error of a refused request."""
    assert response.status_code == 400, response.text
    return dict(response.json()["error"])


def texts(served: Served, **fields: Any) -> list[str]:
    """The answers of /v1/completions."""
    response = served.client.post(TEXT, json=fields)
    assert response.status_code == 200, response.text
    return [choice["text"] for choice in response.json()["choices"]]


# OpenAI's client, field by field -----------------------------------------------------------------

OF_THE_CLIENT = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}


@pytest.mark.parametrize(
    ("create", "model"),
    [(Chats.create, schema.ChatRequest), (Texts.create, schema.CompletionRequest)],
)
def test_every_field_of_the_client_is_honoured_taken_or_refused(create: Any, model: Any) -> None:
    fields = set(inspect.signature(create).parameters) - OF_THE_CLIENT
    known = {*model.model_fields, *model.refused, *model.harmless}
    assert fields <= known, f"say in server/fields.py what becomes of {fields - known}"
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


USED: dict[str, Any] = {
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
    assert served.text(max_tokens=8, **USED) == plain
    everything = dict.fromkeys(
        [*HARMLESS, *schema.ChatRequest.refused, *schema.ChatRequest.model_fields]
    )
    del everything["messages"]
    assert served.text(**{**everything, "max_tokens": 8}) == plain, "null is as good as nothing"
    message = {"role": "user", "content": PROMPTS[0], **dict.fromkeys(MESSAGE_HARMLESS, "x")}
    body = {"messages": [message], "max_tokens": 8}
    assert served.client.post(CHAT, json=body).json()["choices"][0]["message"]["content"] == plain


def test_harmless_fields_are_listed_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    names = {*HARMLESS, *MESSAGE_HARMLESS, *schema.ChatRequest.refused, *schema.Message.refused}
    assert not {name for name in names if f"`{name}`" not in page}


def test_an_answer_can_be_sent_back(client: openai.OpenAI, served: Served) -> None:
    question = {"role": "user", "content": PROMPTS[1]}
    answer = client.chat.completions.create(model="pocket", messages=[question], max_tokens=16)
    dumped = answer.choices[0].message.model_dump()
    assert {"refusal", "tool_calls", "function_call", "audio"} <= set(dumped)
    for message in (
        dumped,
        {**dumped, "tool_calls": [], "reasoning_content": None, "name": "pocket"},
    ):
        turns: Any = [question, message, question]
        again = client.chat.completions.create(model="pocket", messages=turns, max_tokens=8)
        plain = [question, {"role": "assistant", "content": dumped["content"]}, question]
        assert (
            again.choices[0].message.content
            == served.client.post(CHAT, json={"messages": plain, "max_tokens": 8}).json()[
                "choices"
            ][0]["message"]["content"]
        )


def test_a_turn_without_content_is_the_assistants(served: Served) -> None:
    user = {"role": "user", "content": "hi"}
    for silent in ({"role": "assistant"}, {"role": "assistant", "content": None}):
        body = {"messages": [user, silent, user], "max_tokens": 2}
        assert served.client.post(CHAT, json=body).status_code == 200
    error = complaint(
        served.client.post(CHAT, json={"messages": [{"role": "user", "content": None}]})
    )
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
    assert complaint(served.chat(**fields))["param"] == param


def test_no_limit_as_vllm_says_it(lm: LM, served: Served) -> None:
    ids = lm.encode(PROMPTS[1], raw=True)
    fields = {
        "max_tokens": -1,
        "ignore_eos": True,
        "decoder": "fixed:k=64",
        "prompt": [ids, ids[:5]],
    }
    usage = served.client.post(TEXT, json=fields).json()["usage"]
    assert usage["completion_tokens"] == 2 * lm.max_length - len(ids) - 5
    drawn = {"prompt": PROMPTS[1], "temperature": 2.0, "seed": 3, "max_tokens": 8}
    assert (
        texts(served, top_k=-1, **drawn)
        == texts(served, top_k=0, **drawn)
        == texts(served, **drawn)
    )


# Seeds -------------------------------------------------------------------------------------------


def test_equal_prompts_draw_different_answers(lm: LM, served: Served) -> None:
    fields = {"prompt": [PROMPTS[1]] * 4, "temperature": 2.5, "max_tokens": 16}
    assert len(set(texts(served, **fields))) == 4
    assert texts(served, **fields) != texts(served, **fields), (
        "without a seed each request has its own"
    )
    seeded = texts(served, seed=11, **fields)
    assert len(set(seeded)) == 4 and texts(served, seed=11, **fields) == seeded
    own = [
        lm.generate(
            PROMPTS[1], raw=True, gen_length=16, temperature=2.5, seed=sample_seed(11, k)
        ).text
        for k in range(4)
    ]
    assert seeded == own
    assert texts(served, seed=11, **{**fields, "prompt": [PROMPTS[1]] * 2, "n": 2}) == own
    assert texts(served, seed=11, **{**fields, "prompt": PROMPTS[1]}) == own[:1]


# Between prompt and suffix -----------------------------------------------------------------------

BEFORE = "Tom has 6 apples. Tom finds"
AFTER = " more. Tom has 11 apples."


def gap(lm: LM, length: int, **options: Any) -> tuple[list[int], Any]:
    """Ids of the gap, and its trace, by filling masks inside a given text."""
    before, after = lm.encode(BEFORE, raw=True), lm.encode(AFTER, raw=True)
    config = GenerationConfig(gen_length=length, **options)
    masks = [lm.vocab.mask_id] * length
    row = new_infill_request(
        0, [*before, *masks, *after], config, lm.vocab, lm.max_length, lm.geometry
    )
    (done,) = lm.collect([row])
    return list(done.trace.tokens[len(before) : len(before) + length]), done.trace


@pytest.mark.parametrize("length", [1, 5, 40])
@pytest.mark.parametrize("decoder", ["credit", "fixed", "edit"])
def test_suffix_is_infill(length: int, decoder: str, lm: LM, served: Served) -> None:
    ids, trace = gap(lm, length, decoder=decoder)
    fields = {"prompt": BEFORE, "suffix": AFTER, "max_tokens": length, "decoder": decoder}
    done = served.client.post(TEXT, json={**fields, "logprobs": 0}).json()
    (choice,) = done["choices"]
    assert choice["text"] == lm.vocab.decode(ids) and choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == [lm.tokenizer.token_text(i) for i in ids]
    given = len(lm.encode(BEFORE, raw=True)) + len(lm.encode(AFTER, raw=True))
    usage = done["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (given, length)
    assert usage["nfe"] == trace.nfe


def test_suffix_is_seen_and_honours_the_rest(lm: LM, served: Served) -> None:
    fields = {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 12, "decoder": "fixed"}
    (whole,) = texts(served, **fields)
    assert texts(served, **{**fields, "suffix": " apples. Where is the ball?"}) != [whole]
    assert texts(served, **{**fields, "suffix": ""}) == texts(
        served, prompt=BEFORE, max_tokens=12, decoder="fixed"
    )
    cut = served.client.post(TEXT, json={**fields, "stop": whole[4:7]}).json()["choices"][0]
    assert cut["text"] == whole[: whole.find(whole[4:7])] and cut["finish_reason"] == "stop"
    drawn = {**fields, "temperature": 2.0, "seed": 5, "n": 3}
    several = texts(served, **drawn)
    assert len(set(several)) == 3
    assert several[2] == lm.vocab.decode(
        gap(lm, 12, decoder="fixed", temperature=2.0, seed=sample_seed(5, 2))[0]
    )
    with served.client.stream("POST", TEXT, json={**fields, "stream": True}) as response:
        lines = [line[6:] for line in response.iter_lines() if line.startswith("data: {")]
    pieces = [json.loads(line)["choices"][0]["text"] for line in lines]
    assert len(pieces) > 2 and "".join(pieces) == whole


def test_suffix_alone_and_among_prompts(lm: LM, served: Served) -> None:
    fields = {"suffix": AFTER, "max_tokens": 6}
    first = texts(served, prompt=BEFORE, **fields)
    assert texts(served, prompt=[BEFORE, PROMPTS[1]], **fields)[:1] == first
    assert texts(served, prompt=lm.encode(BEFORE, raw=True), **fields) == first
    assert len(texts(served, prompt="", **fields)) == 1, "text may be written before a text"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"suffix": 5}, "suffix"),
        ({"suffix": "word " * 480}, "prompt"),
        ({"suffix": "\ud800"}, "suffix"),
    ],
)
def test_suffixes_that_are_refused(fields: dict[str, Any], param: str, served: Served) -> None:
    body = json.dumps({"prompt": BEFORE, "suffix": AFTER, **fields})
    response = served.client.post(TEXT, content=body, headers={"content-type": "application/json"})
    assert complaint(response)["param"] == param


def test_chats_have_no_suffix(served: Served) -> None:
    assert complaint(served.chat(suffix=AFTER))["param"] == "suffix"


def test_a_block_causal_model_fills_in_within_a_block_alone(tmp_path: Path) -> None:
    """Behind a block such a model sees nothing: the answer would be written as if there were no
    suffix.
    """
    lm = load(str(make("sdar", tmp_path)))
    block = lm.geometry.causal_block
    assert block is not None
    config = GenerationConfig(gen_length=1)
    row = lm.new_request([5] * (block - 2), config, suffix=[6])
    expected = new_infill_request(
        0, row.canvas[:block].tolist(), config, lm.vocab, lm.max_length, lm.geometry
    )
    tokens = lm.collect([dataclasses.replace(row)])[0].trace.tokens
    assert tokens == lm.collect([expected])[0].trace.tokens[block - 2 : block - 1]
    with pytest.raises(OptionError, match="sees nothing after a block") as refused:
        lm.new_request([5] * (block - 1), config, suffix=[6])
    assert refused.value.param == "suffix"


def test_a_suffix_has_no_masks(lm: LM) -> None:
    with pytest.raises(OptionError, match="the mask token is in the suffix") as refused:
        lm.new_request([5], GenerationConfig(gen_length=2), suffix=[6, lm.vocab.mask_id])
    assert refused.value.param == "suffix"


# Whose defaults ----------------------------------------------------------------------------------


def test_requests_override_the_operator_who_overrides_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make("llada", tmp_path)
    path = folder / "generation_config.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(
        json.dumps(
            {**own, "decoder": "fixed:k=2", "gen_length": 24, "cache": "dual", "temperature": 0.7}
        )
    )
    served_with: list[LM] = []
    monkeypatch.setattr(run_module, "serve", lambda lm, *_: served_with.append(lm))
    command = [
        "serve",
        "--model",
        folder,
        "--port",
        "0",
        "--gen-length",
        "20",
        "--block-length",
        "10",
    ]
    assert run_credit(command).status == 0
    (lm,) = served_with
    assert lm.defaults["gen_length"] == 20 and lm.defaults["block_length"] == 10
    with serving(lm, name="llada") as served:
        fixed = {"ignore_eos": True}
        usage = served.chat(**fixed).json()["usage"]
        assert (usage["completion_tokens"], usage["nfe"]) == (20, 10), "fixed:k=2 for 20 tokens"
        usage = served.chat(max_tokens=6, decoder="fixed", **fixed).json()["usage"]
        assert (usage["completion_tokens"], usage["nfe"]) == (6, 6)
        assert served.text() == served.text(), "a checkpoint does not make answers random"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--decoder", "nonsense"], "unknown decoder"),
        (["--temperature", "-1"], "temperature is out of range"),
        (["--cache", "block"], "block"),
        (["--gen-length", "512"], "512 together"),
    ],
)
def test_defaults_that_cannot_be_served_end_the_command(flags: list[str], said: str) -> None:
    result = run_credit(["serve", "--port", "0", *flags])
    assert result.status == 2 and said in result.stderr


def test_a_checkpoint_with_a_bad_default_is_named(tmp_path: Path) -> None:
    folder = make("llada", tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"decoder": "nonsense"}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json has an option"):
        load(str(folder))
