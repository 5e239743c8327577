"""Bad requests: each gets a status, a message and the field to blame."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.server.fields import REFUSED
from tests.helpers.serving import (
    CHAT,
    PATIENCE,
    TEXT,
    Served,
    error_of,
    messages,
    serving,
)

VALUES: dict[str, Any] = {
    "n": 2,
    "top_logprobs": 2,
    "response_format": {"type": "json_schema", "json_schema": {}},
    "store": True,
    "echo": True,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_not_supported_is_refused_by_name(name: str, served: Served) -> None:
    error = error_of(served.chat(**{name: VALUES.get(name, "something")}))
    assert f"{name} is not supported: " in error["message"]
    assert error["message"].count("not supported") == 1
    assert error["param"] == name
    for neutral in (None, *REFUSED[name][0]):
        assert served.chat(max_tokens=1, **{name: neutral}).status_code == 200, neutral


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tempreature": 1}, "Did you mean 'temperature'", "tempreature"),
    ({"temperature": "hot"}, "valid number", "temperature"),
    ({"temperature": -1}, "greater than or equal to 0", "temperature"),
    ({"temperature": True}, "valid number", "temperature"),
    ({"top_p": 0}, "greater than 0", "top_p"),
    ({"top_k": 10**40}, "less than or equal", "top_k"),
    ({"max_tokens": 0}, "greater than or equal to 1", "max_tokens"),
    ({"max_tokens": 10**9}, "less than or equal", "max_tokens"),
    ({"max_tokens": 3.5}, "valid integer", "max_tokens"),
    ({"max_tokens": -2}, "greater than or equal to 1; got -2", "max_tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "contradict each other", "max_tokens"),
    ({"max_tokens": 512}, "512 together", "max_tokens"),
    ({"max_completion_tokens": 511}, "allowed: 1 token. ", "messages"),
    ({"top_k": -2}, "greater than or equal to 1", "top_k"),
    ({"ignore_eos": True, "logits_eos_inf": False}, "contradict each other", "ignore_eos"),
    ({"seed": -1}, "greater than or equal to 0", "seed"),
    ({"n": 65}, "less than or equal to 64; got 65", "n"),
    ({"stop": [""]}, "must not be empty", "stop"),
    ({"stop": ["x"] * 17}, "at most 16", "stop"),
    ({"decoder": "nonsense"}, "unknown decoder", "decoder"),
    ({"decoder": "credit:alpha=-3"}, "alpha", "decoder"),
    ({"decoder": {"name": "credit", "alhpa": 1}}, "Did you mean 'alpha'", "decoder"),
    ({"decoder": {"alpha": 1}}, '{"name": NAME, knob: value}', "decoder"),
    ({"decoder": "credit:alpha=1,alpha=1"}, "alpha is given twice", "decoder"),
    ({"cache": "magic"}, "magic", "cache"),
    ({"cache": "block"}, "block", "cache"),
    ({"messages": []}, "at least 1", "messages"),
    ({"messages": "hi"}, "valid list", "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "'system'", "messages.0.role"),
    ({"messages": [{"role": "user", "content": " "}]}, "the prompt is empty", "messages"),
    ({"messages": [{"role": "user", "content": "x " * 5000}]}, "cannot fit", "messages"),
    ({"messages": [{"role": "user", "content": "x " * 500}]}, "or lower max_tokens", "messages"),
    (
        {"messages": [{"role": "user", "content": "x " * 500}], "max_completion_tokens": 40},
        "allowed: 472 tokens. Shorten messages or lower max_completion_tokens.",
        "messages",
    ),
    (
        {"messages": [{"role": "user", "content": "x " * 5000}], "max_tokens": -1},
        "Shorten messages.",
        "messages",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "prompts and answers are only text",
        "messages.0.content.0.image_url",
    ),
    ({"messages": [{"role": "user"}]}, "needs content", "messages.0.content"),
    (
        {"messages": [{"role": "user", "content": "x", "weight": 1}]},
        "unknown field",
        "messages.0.weight",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
        "the server calls no tools",
        "messages.0.tool_calls",
    ),
    ({"draft": True}, "needs stream", "draft"),
    ({"stream_options": {}}, "needs stream", "stream_options"),
    ({"stream": True, "stream_options": {"include": 1}}, "include", "stream_options.include"),
    ({"logprobs": 3}, "valid boolean", "logprobs"),
]


@pytest.mark.parametrize(
    ("fields", "text", "param"), BAD, ids=[json.dumps(fields)[:40] for fields, _, _ in BAD]
)
def test_bad_fields(fields: dict[str, Any], text: str, param: str, served: Served) -> None:
    error = error_of(served.chat(**{"messages": messages("hi"), **fields}))
    assert text in error["message"]
    assert error["param"] == param


BODIES: list[bytes] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"\xff\xfe{}",
    b'{"messages": [{"role": "user", "content": "\xff"}]}',
    b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}',
    b'{"messages": [{"role": "user", "content": "hi"}], "seed": ' + b"9" * 5000 + b"}",
    b"[" * 50_000,
    b'{"messages": [{"role": "user", "content": "hi"}], "\\ud800": 1}',
]


@pytest.mark.parametrize("body", BODIES, ids=[repr(body[:24]) for body in BODIES])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_bad_bodies(body: bytes, path: str, served: Served) -> None:
    headers = {"content-type": "application/json"}
    error_of(served.client.post(path, content=body, headers=headers))


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode",
    [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE],
    ids=lambda mode: mode.name,
)
def test_no_request_within_or_beyond_our_own_document_breaks_the_server(
    mode: schemathesis.GenerationMode, served: Served
) -> None:
    document = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    operations = [operation.ok() for operation in document.get_all_operations()]
    assert len(operations) == 6
    if mode == schemathesis.GenerationMode.NEGATIVE:
        operations = [operation for operation in operations if operation.method == "post"]
    cases = [operation.as_strategy(generation_mode=mode) for operation in operations]

    @settings(
        max_examples=40,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=st.one_of(cases))
    def ask(case: Any) -> None:
        shorten(case.body)
        response = case.call(timeout=PATIENCE)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    assert served.text(max_tokens=4)


def shorten(body: Any) -> None:
    """Ask for few tokens, unless the length is wrong anyway."""
    length = body.get("max_tokens", 4) if isinstance(body, dict) else ""
    if length in (None, -1):
        body["max_tokens"] = 4
    elif isinstance(length, int):
        body["max_tokens"] = min(length, 4)


def test_a_conversation_that_the_template_refuses(lm: LM) -> None:
    backend = copy.copy(lm.tokenizer.backend)
    backend.chat_template = "{{ raise_exception('roles must alternate') }}"
    other = copy.copy(lm)
    other.tokenizer = dataclasses.replace(lm.tokenizer, backend=backend)
    with serving(other) as served:
        assert "roles must alternate" in error_of(served.chat())["message"]


def test_an_error_repeats_the_beginning_of_a_long_value() -> None:
    error = str(OptionError("alpha has the wrong type", given="x" * 1000, hint="Change it."))
    assert len(error) < 500
    assert "xxx" in error
    assert "(1002 characters)" in error
