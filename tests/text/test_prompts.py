"""What `LM.generate` takes as a prompt, and what Python and notebooks make of its answers."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

import creditdecoding as cd
from creditdecoding.text.prompts import parse_prompts
from creditdecoding.trace import FinishEvent, StepEvent, Trace

torch.set_num_threads(1)
TEXT = "Solve 3x+4=19 for x."
USER = {"role": "user", "content": TEXT}
PARTS = [{"type": "text", "text": "Solve 3x+4"}, {"type": "text", "text": "=19 for x."}]
NULLS = {"role": "user", "content": TEXT, "name": None, "tool_calls": None, "refusal": None}


@pytest.fixture(scope="module")
def lm() -> cd.LM:
    return cd.load("pocket")


SINGLE: dict[str, Any] = {
    "text": TEXT,
    "messages": [USER],
    "tuple": (USER,),
    "parts in a message": [{"role": "user", "content": PARTS}],
    "parts": PARTS,
    "nulls": [NULLS],
}
SEVERAL: dict[str, Any] = {
    "texts": [TEXT, TEXT],
    "conversations": [[USER], [USER]],
    "mixed": [TEXT, [USER], PARTS],
    "generator": (text for text in [TEXT]),
    "one in a list": [TEXT],
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_prompt_gets_one_answer(lm: cd.LM, name: str) -> None:
    done = lm.generate(SINGLE[name], gen_length=24)
    assert isinstance(done, cd.Completion) and done.text == lm.generate(TEXT, gen_length=24).text


@pytest.mark.parametrize("name", SEVERAL)
def test_several_prompts_get_a_list(lm: cd.LM, name: str) -> None:
    expected = lm.generate(TEXT, gen_length=24).text
    done = lm.generate(SEVERAL[name], gen_length=24)
    assert isinstance(done, list) and {completion.text for completion in done} == {expected}


def test_a_conversation_keeps_its_turns_and_an_answer_without_words() -> None:
    silent = {"role": "assistant", "content": None}
    (turns,), single = parse_prompts([USER, silent, USER])
    assert single and turns == [USER, {"role": "assistant", "content": ""}, USER]
    assert parse_prompts([]) == ([], False)


BAD: list[tuple[Any, str]] = [
    (USER, "not a prompt; got 'dict'.*single message into a list"),
    (5, "not a prompt; got 'int'"),
    (None, "not a prompt; got 'NoneType'"),
    (b"hello", "not a prompt; got 'bytes'"),
    ([1, 2, 3], "not a prompt; got 'int'"),
    (torch.ones(3), "not a prompt; got 'Tensor'"),
    ([USER, TEXT], "messages and other prompts in one list"),
    ([[TEXT, TEXT]], "not a message; got 'str'"),
    ([[]], "the prompt is empty"),
    ([{"content": TEXT}], "without a role"),
    ([{"role": "user"}], "content is not text; got 'NoneType'"),
    ([{"role": "user", "content": 5}], "content is not text; got 'int'"),
    (
        [{"role": "user", "content": [{"type": "image_url"}]}],
        "content part is not text; got 'image_url'",
    ),
    ([{"role": "user", "content": ["x"]}], "content part is not text; got 'str'"),
    ("half \ud800 a character", r"half a character.*U\+D800"),
    ([{"role": "user", "content": "\udcff"}], "not UTF-8"),
    ("", "the prompt is empty"),
    (" \n", "the prompt is empty"),
    ([{"role": "user", "content": []}], "the prompt is empty"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD, ids=[f"{i}" for i in range(len(BAD))])
def test_anything_else_is_refused_in_one_line(lm: cd.LM, prompt: Any, message: str) -> None:
    with pytest.raises(cd.OptionError, match=message) as error:
        lm.generate(prompt)
    assert "\n" not in str(error.value) and str(error.value).isprintable()


@pytest.mark.parametrize("text", [None, ["a [MASK]"], [{"role": "user", "content": "[MASK]"}]])
def test_a_text_with_gaps_is_one_text(lm: cd.LM, text: Any) -> None:
    with pytest.raises(cd.OptionError, match=r"must be text; got '(NoneType|list)'"):
        lm.infill(text)


def test_stop_strings_are_a_text_or_a_list(lm: cd.LM) -> None:
    whole = lm.generate("Tom has 6 apples.", gen_length=16).text
    letter = whole[len(whole) // 2]
    cut = whole[: whole.index(letter)]
    for stop in (letter, [letter], (letter,)):
        assert lm.generate("Tom has 6 apples.", gen_length=16, stop=stop).text == cut


def test_characters_that_cannot_be_written_are_refused_wherever_text_is_read(lm: cd.LM) -> None:
    for ask in (
        lm.infill,
        lambda text: lm.generate(text, raw=True),
        lambda text: list(lm.stream(text)),
        lm.tokenizer.encode,
    ):
        with pytest.raises(cd.OptionError, match="half a character"):
            ask("a \udfff [MASK]")
    assert lm.generate("nul \x00 and bell \x07", gen_length=8).trace.finish is not None


def test_a_trace_is_saved_under_a_name_that_is_text(
    lm: cd.LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = lm.generate(TEXT, gen_length=24).trace
    monkeypatch.chdir(tmp_path)
    for path in ("t.jsonl", tmp_path / "u.jsonl"):
        trace.save(path)
        assert Trace.load(path) == trace
    for bad in ("nowhere/t.jsonl", tmp_path):
        with pytest.raises(cd.OptionError, match="cannot write"):
            trace.save(bad)
        with pytest.raises(cd.OptionError, match="not a trace file"):
            Trace.load(bad)


def drawn(html: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(html).iter("{http://www.w3.org/2000/svg}rect"))


def test_a_notebook_shows_a_picture(lm: cd.LM) -> None:
    done = lm.generate(TEXT, gen_length=24)
    assert len(repr(done)) < 200 and len(repr(done.trace)) < 120
    assert len(drawn(done.trace._repr_html_())) == done.trace.token_count
    page = done._repr_html_()
    assert done.text in page and f"{done.nfe} forward passes" in page


def test_the_picture_is_escaped_and_of_bounded_size() -> None:
    trace = Trace((1, 2))
    for number in range(3000):
        position = 2 + number
        trace.add(
            StepEvent(0, number, 0, number, (position,), (5,), (number / 3000,), None, (True,), 0.1)
        )
    trace.add(FinishEvent(0, "length", (5,) * 3000, 1.0))
    done = cd.Completion("<script>alert(1)</script> & " * 500, "length", trace)
    page = done._repr_html_()
    assert "<script>" not in page and len(page) < 20_000 and len(drawn(page)) == 128
    assert len(repr(done)) < 200
    assert ElementTree.fromstring(Trace(())._repr_html_()) is not None and "not finished" in repr(
        Trace(())
    )
