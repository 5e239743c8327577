"""Constrained answers over HTTP, with OpenAI's client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest

from creditdecoding.lm import LM
from tests.helpers.serving import Served, error_of, messages, serving
from tools.random_schemas import answer_all, tiny_lm

FAST_RULES = ("default", "credit", "threshold", "thrift")
RANDOM_SCHEMAS = [
    ("fixed", 5, 1),
    *((rule, 20, 3 * i + part) for i, rule in enumerate(FAST_RULES) for part in (2, 3, 4)),
]
"""A rule, how many schemas it answers, and which: 245 in parts that workers share."""


@pytest.fixture(scope="module")
def tiny(lm: LM) -> Iterator[Served]:
    """A server of a random model."""
    with serving(tiny_lm(lm), name="tiny", max_waiting=64) as served:
        yield served


@pytest.fixture(scope="module")
def client(tiny: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{tiny.url}/v1", api_key="none", max_retries=0)


def wrapped(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}}


@pytest.mark.slow
@pytest.mark.parametrize(("decoder", "count", "seed"), RANDOM_SCHEMAS)
def test_answers_to_random_schemas_are_valid(
    decoder: str, count: int, seed: int, tiny: Served
) -> None:
    """`python -m tools.random_schemas` answers as many as one likes."""
    assert answer_all(tiny.url, count, seed, decoder) == {"valid": count}


class Step(pydantic.BaseModel):
    explanation: str = pydantic.Field(max_length=12)
    result: Literal["yes", "no"] | None


class Plan(pydantic.BaseModel):
    steps: list[Step] = pydantic.Field(max_length=2)
    score: float = pydantic.Field(ge=0, le=1)


def test_the_client_parses_its_own_model(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(
        model="tiny", messages=messages(), response_format=Plan, max_tokens=160
    )
    plan = done.choices[0].message.parsed
    assert isinstance(plan, Plan) and 0 <= plan.score <= 1 and len(plan.steps) <= 2


PHONE = r"[0-9]{3}-[0-9]{4}"
BODIES: list[tuple[dict[str, Any], str]] = [
    ({"guided_choice": ["left", "right", "straight on"]}, "left|right|straight on"),
    ({"guided_regex": PHONE}, PHONE),
    ({"guided_json": {"const": [1, "a"]}}, r'\[1, "a"\]'),
    ({"guided_json": '{"enum": [1, 2]}'}, "[12]"),
    ({"structured_outputs": {"choice": ["a", "b"], "regex": None}}, "a|b"),
    ({"structured_outputs": {"regex": "[ab]{9}"}}, "[ab]{9}"),
    ({"structured_outputs": {"json": {"type": "boolean"}}}, "true|false"),
    ({"response_format": {"type": "text"}, "guided_regex": "a|bc"}, "a|bc"),
]


@pytest.mark.parametrize(("fields", "pattern"), BODIES)
def test_fields_of_openai_and_vllm(
    fields: dict[str, Any], pattern: str, client: openai.OpenAI
) -> None:
    done = client.completions.create(
        model="tiny", prompt=["a", "b"], n=2, extra_body=fields, temperature=1.0, logprobs=0
    )
    assert len(done.choices) == 4
    for choice in done.choices:
        assert re.fullmatch(pattern, choice.text) and choice.finish_reason == "stop"
        assert choice.logprobs is not None and choice.logprobs.tokens is not None
        assert "".join(choice.logprobs.tokens) == choice.text


def test_streams_and_gaps(client: openai.OpenAI, tiny: Served) -> None:
    fields = {"guided_regex": "([a-z]{2} ){8}"}
    stream = client.chat.completions.create(
        model="tiny", messages=messages(), extra_body=fields, stream=True
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == tiny.text(**fields)
    assert re.fullmatch(fields["guided_regex"], "".join(pieces))
    (gap,) = tiny.texts(prompt="Tom finds", suffix=" more.", max_tokens=3, guided_regex="[0-9]+")
    assert re.fullmatch("[0-9]{3}", gap)


@pytest.mark.parametrize(
    ("fields", "param", "what"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format", "json_object"),
        ({"response_format": {"type": "xml"}}, "response_format", "'xml'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "no schema"),
        ({"response_format": wrapped({"type": "object"})}, "response_format", "free map"),
        ({"guided_regex": r"(a)\1"}, "guided_regex", "a reference to a group"),
        ({"guided_regex": 3}, "guided_regex", "string"),
        ({"guided_choice": []}, "guided_choice", "choices must be"),
        ({"guided_json": "{"}, "guided_json", "no JSON"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs", "'grammar'"),
        ({"structured_outputs": {"json": {}, "regex": ""}}, "structured_outputs", "exclude"),
        ({"guided_json": '{"oneOf": [' + "{}," * 5000 + "{}]}"}, "guided_json", "too many lists"),
        ({"structured_outputs": {}}, "structured_outputs", "json, regex, choice"),
        ({"structured_outputs": {"json": None}}, "structured_outputs", "asks for nothing"),
        ({"structured_outputs": {"json": 0}}, "structured_outputs", "not an object"),
        ({"structured_outputs": {"regex": 0}}, "structured_outputs", "not a text"),
        ({"structured_outputs": {"choice": "yes"}}, "structured_outputs", "choices must be"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "exclude each other"),
        ({"guided_regex": "a", "stop": ["a"]}, "stop", "would cut"),
        ({"guided_regex": "a{99}", "max_tokens": 2}, "max_tokens", "no answer of this length"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar", "in place of a grammar"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], param: str, what: str, tiny: Served) -> None:
    error = error_of(tiny.chat(**fields))
    assert error["param"] == param and what in error["message"]
