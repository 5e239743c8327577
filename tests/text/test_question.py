"""The question is read back from a prompt's ids."""

from __future__ import annotations

import pytest

from creditdecoding.lm import load_tokenizer
from creditdecoding.text.question import question_text
from creditdecoding.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("pocket")


@pytest.mark.parametrize("text", ["What is 2+2?", "x", "0", "xx 00", "two\nlines  here"])
def test_a_question_comes_back_without_its_template(tokenizer: Tokenizer, text: str) -> None:
    prompt = tokenizer.encode_chat([{"role": "user", "content": text}])
    assert question_text(tokenizer, prompt) == text


def test_a_raw_prompt_comes_back_whole(tokenizer: Tokenizer) -> None:
    assert question_text(tokenizer, tokenizer.encode("What is 2+2?")) == "What is 2+2?"
    assert question_text(tokenizer, []) == ""
