"""Templates, scored choices and the likeliest tokens over HTTP, with OpenAI's client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from creditdecoding.lm import LM
from tests.helpers.serving import TEXT, Served, error_of, messages

TEMPLATE = "Tom has 6 apples. Tom finds [MASK*2] more. Tom has[MASK] apples."


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)


def test_templates_are_filled_as_in_python(client: openai.OpenAI, served: Served, lm: LM) -> None:
    own = lm.infill(TEMPLATE)
    body = {"template": True}
    done = client.completions.create(model="pocket", prompt=TEMPLATE, extra_body=body, logprobs=1)
    assert done.choices[0].text == own.text
    assert own.text.startswith("Tom has 6 apples. Tom finds")
    logprobs = done.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None
    assert sum(value is not None for value in logprobs.token_logprobs) == 3
    assert done.usage is not None and done.usage.completion_tokens == 3
    assert done.usage.prompt_tokens == len(own.trace.tokens) - 3
    events = served.events(TEXT, prompt=TEMPLATE, **body)
    assert "".join(event["choices"][0]["text"] for event in events) == own.text
    hot = served.texts(prompt=TEMPLATE, n=2, temperature=3.0, seed=1, **body)
    assert all(text.startswith("Tom has 6 apples. Tom finds") for text in hot)


def test_markers_are_plain_text_without_the_field(served: Served, lm: LM) -> None:
    usage = served.complete(prompt="a [MASK] b", max_tokens=1)["usage"]
    assert usage["prompt_tokens"] == len(lm.tokenizer.encode_plain("a [MASK] b"))


@pytest.mark.parametrize("template", [False, True])
def test_choices_are_scored_as_in_python(template: bool, client: openai.OpenAI, lm: LM) -> None:
    choices = [" Lima", " a city", " Quito"]
    own = lm.score_choices("The capital of Peru is[MASK].", choices, top_logprobs=2)
    prompt: dict[str, Any] = {"prompt": "The capital of Peru is", "suffix": "."}
    if template:
        prompt = {"prompt": "The capital of Peru is[MASK].", "extra_body": {"template": True}}
    fields = {**prompt.pop("extra_body", {}), "score_choices": choices}
    done = client.completions.create(model="pocket", logprobs=2, extra_body=fields, **prompt)
    assert [choice.text for choice in done.choices] == choices
    for choice, score in zip(done.choices, own):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(score.logprobs, abs=2e-6)
        assert choice.logprobs.tokens == [lm.tokenizer.token_text(token) for token in score.ids]
        for named, pairs in zip(choice.logprobs.top_logprobs or [], score.top_logprobs):
            assert named == {
                lm.tokenizer.token_text(token): pytest.approx(value, abs=2e-6)
                for token, value in pairs
            }


def test_the_likeliest_tokens_at_each_position(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="pocket", messages=messages(), max_tokens=12, logprobs=True, top_logprobs=4
    )
    assert chat.choices[0].logprobs is not None
    content = chat.choices[0].logprobs.content or []
    assert content
    for token in content:  # greedy: the written token is the likeliest
        assert len(token.top_logprobs) == 4
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-5)
        values = [other.logprob for other in token.top_logprobs]
        assert values == sorted(values, reverse=True)
    done = client.completions.create(model="pocket", prompt="Tom has", max_tokens=6, logprobs=3)
    assert done.choices[0].logprobs is not None
    for named in done.choices[0].logprobs.top_logprobs or [{}]:
        assert 0 < len(named) <= 3 and [*named.values()] == sorted(named.values(), reverse=True)


def test_what_a_constraint_rules_out_is_not_likely(served: Served) -> None:
    fields = {"prompt": "Tom has", "guided_choice": ["seven"], "logprobs": 4}
    (choice,) = served.complete(**fields)["choices"]
    assert [len(named) for named in choice["logprobs"]["top_logprobs"]] == [1] * len(
        choice["logprobs"]["tokens"]
    )


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": "[MASK*x]", "template": True}, "prompt", "malformed"),
    ({"prompt": "plain", "template": True}, "prompt", "no mask"),
    ({"prompt": "[MASK*9999]", "template": True}, "prompt", "longer than the model"),
    ({"prompt": "x " * 400 + "[MASK*300]", "template": True}, "prompt", "longer than the model"),
    ({"prompt": [5, 6], "template": True}, "prompt", "one prompt"),
    ({"prompt": ["[MASK]", "[MASK]"], "template": True}, "prompt", "one prompt"),
    ({"prompt": "[MASK]", "template": True, "max_tokens": 3}, "max_tokens", "no meaning"),
    ({"prompt": "[MASK]", "template": True, "stop": "x"}, "stop", "no meaning"),
    ({"prompt": "[MASK]", "template": True, "suffix": "x"}, "suffix", "no suffix"),
    ({"prompt": "[MASK]", "template": True, "guided_regex": "a"}, "guided_regex", "no meaning"),
    ({"prompt": "x", "score_choices": []}, "score_choices", "at least 1"),
    ({"prompt": "x", "score_choices": [""]}, "score_choices", "not empty"),
    ({"prompt": "x", "score_choices": [[10**7]]}, "score_choices", "outside the vocabulary"),
    ({"prompt": "x", "score_choices": ["a"], "stream": True}, "stream", "no meaning"),
    ({"prompt": "x", "score_choices": ["a"], "n": 2}, "n", "takes no n"),
    ({"prompt": "x", "logprobs": 21}, "logprobs", "less than or equal to 20"),
]


@pytest.mark.parametrize(("fields", "param", "what"), REFUSED)
def test_what_is_refused(fields: dict[str, Any], param: str, what: str, served: Served) -> None:
    error = error_of(served.client.post(TEXT, json=fields))
    assert error["param"] == param and what in error["message"]


def test_chat_has_no_templates(served: Served) -> None:
    error = error_of(served.chat(template=True))
    assert error["param"] == "template"
    assert error_of(served.chat(top_logprobs=2))["param"] == "top_logprobs"
