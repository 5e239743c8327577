"""Text between a prompt and a suffix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import new_infill_request, sample_seed
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from tests.helpers.serving import (
    PROMPTS,
    TEXT,
    Served,
    error_of,
)
from tools.make_checkpoint import make

BEFORE = "Tom has 6 apples. Tom finds"
AFTER = " more. Tom has 11 apples."


def infill(lm: LM, length: int, **options: Any) -> tuple[list[int], Any]:
    """Ids of the gap, and its trace, by filling masks inside a given text."""
    before = lm.encode(BEFORE, raw=True)
    after = lm.encode(AFTER, raw=True)
    config = GenerationConfig(gen_length=length, **options)
    masks = [lm.vocab.mask_id] * length
    request = new_infill_request(
        0, [*before, *masks, *after], config, lm.vocab, lm.max_length, lm.geometry
    )
    (done,) = lm.collect([request])
    return list(done.trace.tokens[len(before) : len(before) + length]), done.trace


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 5, 24])
@pytest.mark.parametrize("decoder", ["credit", "fixed", "edit"])
def test_suffix_is_infill(length: int, decoder: str, lm: LM, served: Served) -> None:
    ids, trace = infill(lm, length, decoder=decoder)
    fields = {"prompt": BEFORE, "suffix": AFTER, "max_tokens": length, "decoder": decoder}
    done = served.complete(**fields, logprobs=0)
    (choice,) = done["choices"]
    assert choice["text"] == lm.vocab.decode(ids)
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["tokens"] == [lm.tokenizer.token_text(i) for i in ids]
    prompt_tokens = len(lm.encode(BEFORE, raw=True)) + len(lm.encode(AFTER, raw=True))
    usage = done["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt_tokens, length)
    assert usage["nfe"] == trace.nfe


@pytest.mark.slow
def test_suffix_is_seen_and_honours_the_rest(lm: LM, served: Served) -> None:
    fields = {"prompt": BEFORE, "suffix": AFTER, "max_tokens": 12, "decoder": "fixed"}
    (whole,) = served.texts(**fields)
    assert served.texts(**{**fields, "suffix": " apples. Where is the ball?"}) != [whole]
    without = served.texts(prompt=BEFORE, max_tokens=12, decoder="fixed")
    assert served.texts(**{**fields, "suffix": ""}) == without
    (cut,) = served.complete(**fields, stop=whole[4:7])["choices"]
    assert cut["text"] == whole[: whole.find(whole[4:7])]
    assert cut["finish_reason"] == "stop"
    samples = served.texts(**fields, temperature=2.0, seed=5, n=3)
    assert len(set(samples)) == 3
    ids, _ = infill(lm, 12, decoder="fixed", temperature=2.0, seed=sample_seed(5, 2))
    assert samples[2] == lm.vocab.decode(ids)
    pieces = [event["choices"][0]["text"] for event in served.events(TEXT, **fields)]
    assert len(pieces) >= 2
    assert "".join(pieces) == whole


def test_suffix_alone_and_among_prompts(lm: LM, served: Served) -> None:
    fields = {"suffix": AFTER, "max_tokens": 6}
    first = served.texts(prompt=BEFORE, **fields)
    assert served.texts(prompt=[BEFORE, PROMPTS[1]], **fields)[:1] == first
    assert served.texts(prompt=lm.encode(BEFORE, raw=True), **fields) == first
    assert len(served.texts(prompt="", **fields)) == 1, "text may be written before a text"


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
    assert error_of(response)["param"] == param


def test_chats_have_no_suffix(served: Served) -> None:
    assert error_of(served.chat(suffix=AFTER))["param"] == "suffix"


def test_a_block_causal_model_fills_in_within_one_block(tmp_path: Path) -> None:
    """Such a model sees nothing after a block: it would write as if there were no suffix."""
    lm = load(str(make("sdar", tmp_path)))
    block = lm.geometry.causal_block
    assert block is not None
    config = GenerationConfig(gen_length=1)
    request = lm.new_request([5] * (block - 2), config, suffix=[6])
    expected = new_infill_request(
        0, request.canvas[:block].tolist(), config, lm.vocab, lm.max_length, lm.geometry
    )
    tokens = lm.collect([request])[0].trace.tokens
    assert tokens == lm.collect([expected])[0].trace.tokens[block - 2 : block - 1]
    with pytest.raises(OptionError, match="sees nothing after a block") as refused:
        lm.new_request([5] * (block - 1), config, suffix=[6])
    assert refused.value.param == "suffix"


def test_a_suffix_has_no_masks(lm: LM) -> None:
    with pytest.raises(OptionError, match="the mask token is in the suffix") as refused:
        lm.new_request([5], GenerationConfig(gen_length=2), suffix=[6, lm.vocab.mask_id])
    assert refused.value.param == "suffix"
