"""Laws of constrained answers: they satisfy the constraint whatever is written first, and a constraint
that allows everything changes nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.constraints.constraint import choice, json_schema, regex
from creditdecoding.constraints.tokens import TokenAutomaton
from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.constrained import answer_tokens
from creditdecoding.decoding.forward import logits_at
from creditdecoding.decoding.request import LogitReads, Request
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from creditdecoding.models.transformer import Transformer
from creditdecoding.ops import head_logits
from creditdecoding.trace import StepEvent
from tools.random_schemas import tiny_lm

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 9},
        "born": {"type": "string", "format": "date"},
        "size": {"type": ["number", "null"], "minimum": -2},
        "tags": {"type": "array", "items": {"enum": ["a", "é\n"]}, "maxItems": 3},
    },
}
PROMPT = "Tom has 6 apples."


@pytest.fixture(scope="module")
def pocket() -> LM:
    return load("pocket")


@pytest.fixture(scope="module")
def lm(pocket: LM) -> LM:
    """A random model, so that what it prefers is no answer."""
    return tiny_lm(pocket)


RULES = [name for name in names() if not capabilities_of(create(name)).leave_one_out]


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [*RULES, "fixed:k=9,order=random", "credit:live_blocks=2"])
def test_every_decoder_writes_valid_answers(decoder: str, lm: LM) -> None:
    options: dict[str, Any] = {"decoder": decoder, "gen_length": 64, "block_length": 16}
    answers = lm.generate([PROMPT, "x"], constraint=json_schema(SCHEMA), raw=True, **options)
    for answer in answers:
        jsonschema.validate(json.loads(answer.text), SCHEMA)
        assert answer.finish_reason == "stop"
    hot = lm.generate(PROMPT, constraint=regex(r"[a-z]{3}(-[a-z]{2,5})*"), temperature=3, **options)
    assert re.fullmatch(r"[a-z]{3}(-[a-z]{2,5})*", hot.text)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["wino", "wino:threshold=0.0001,threshold_back=0.99"])
def test_answers_end_though_tokens_are_taken_back(decoder: str, pocket: LM) -> None:
    answer = pocket.generate(PROMPT, constraint=json_schema(SCHEMA), decoder=decoder, gen_length=64)
    jsonschema.validate(json.loads(answer.text), SCHEMA)
    assert answer.nfe <= 64 + 32


def anything(lm: LM) -> TokenAutomaton:
    """The automaton in which every id may stand everywhere."""
    edge = np.zeros(1, dtype=np.int32)
    class_of = np.ones(lm.vocab.size, dtype=np.int32)
    everywhere = np.ones(1, dtype=np.bool_)
    first = np.array([0, 0, 1])
    return TokenAutomaton(class_of, edge, edge, first, everywhere, (edge, edge))


def steps(lm: LM, requests: list[Request]) -> list[Any]:
    return [
        replace(event, seconds=0.0) if isinstance(event, StepEvent) else (event.row, event.tokens)
        for event in lm.events(requests)
    ]


@pytest.mark.parametrize("decoder", ["credit", "edit", "fixed:k=5", "threshold:threshold=0.01"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_constraint_of_anything_changes_nothing(decoder: str, temperature: float, lm: LM) -> None:
    config = GenerationConfig(decoder, gen_length=40, block_length=20, temperature=temperature)
    plain = lm.new_requests([PROMPT, "x"], config, raw=True)
    free = [replace(request, constraint=anything(lm)) for request in plain]
    assert steps(lm, free) == steps(lm, plain)


def test_an_answer_is_the_same_alone_and_among_others(lm: LM) -> None:
    config = GenerationConfig("fixed:k=4", gen_length=72)
    ids = lm.encode_text(PROMPT)
    constraints = [None, json_schema(SCHEMA), choice(["Tom", "apples"]), regex("[a-z]+")]
    requests = [
        lm.new_request(ids, config, i, constraint=constraint)
        for i, constraint in enumerate(constraints)
    ]
    together = [done.text for done in lm.collect(requests)]
    assert together == [lm.collect([replace(r, index=0)])[0].text for r in requests]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "confidence_eos_eot_inf": True}])
def test_logits_that_are_never_written_get_the_same(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Constrained requests beside an unconstrained one, and each alone, without written logits."""
    monkeypatch.setattr(head_logits, "_CPU_TILE", 5000)
    lm = load("pocket")
    config = GenerationConfig("credit", gen_length=24, **options)
    ids = lm.encode_text(PROMPT)
    constraints = [regex(r"[a-z]{2,9} [0-9]+\."), None, choice(["Tom", "apples"])]
    answers = {}
    for mode in ("off", "on"):
        assert isinstance(lm.model, Transformer)
        lm.model.fused_head = mode
        lm.geometry = lm.model.geometry
        requests = [
            lm.new_request(ids, config, i, constraint=constraint)
            for i, constraint in enumerate(constraints)
        ]
        answers[mode] = [done.trace.tokens for done in lm.collect(requests)]
        alone = [lm.collect([replace(r, index=0)])[0].trace.tokens for r in requests]
        assert alone == answers[mode]
    assert answers["on"] == answers["off"]


def test_probabilities_are_the_dense_softmax_over_what_is_allowed(lm: LM) -> None:
    """Out of order: a token in the middle is known."""
    ids = lm.encode_text(PROMPT)
    request = lm.new_request(ids, GenerationConfig(gen_length=6), constraint=regex("[ab]{6}"))
    canvas, masked = request.canvas.clone(), request.masked.clone()
    (canvas[len(ids) + 2],) = lm.encode_text("b")
    masked[len(ids) + 2] = False
    request = replace(request, canvas=canvas, masked=masked)
    position = torch.arange(request.answer_start, request.answer_end)
    reads = LogitReads.plain(torch.zeros_like(position), position)
    plain = replace(request, constraint=None)
    dense = logits_at(lm.model, [plain], lm.vocab, lm.device, reads).double().softmax(-1)
    ours = logits_at(lm.model, [request], lm.vocab, lm.device, reads).double().softmax(-1)
    tokens = answer_tokens(request)
    assert request.constraint is not None
    for offset, row in enumerate(dense):
        allowed = []
        for token in range(lm.vocab.size):
            changed = [*tokens[:offset], token, *tokens[offset + 1 :]]
            reach = request.constraint.reach(changed)
            if request.constraint.fits(changed, reach, 0, len(changed)):
                allowed.append(token)
        expected = torch.zeros_like(row)
        expected[allowed] = row[allowed] / row[allowed].sum()
        assert torch.allclose(ours[offset], expected, atol=1e-5)
        assert allowed


def test_lengths_and_ends(lm: LM) -> None:
    config = GenerationConfig(gen_length=32)
    date = lm.new_request([5], config, constraint=regex(r"\d{4}-\d\d"))
    assert date.answer_end - date.answer_start == 8, "no more positions than the text needs"
    whole = replace(config, logits_eos_inf=True)
    filled = lm.collect([lm.new_request([5], whole, constraint=regex("[a-c ]*"))])[0]
    assert len(filled.trace.tokens) == 32 and set(filled.text) <= set("abc ")
    gap = lm.new_request(
        [5], GenerationConfig(gen_length=3), suffix=[6], constraint=regex("[0-9]+")
    )
    assert re.fullmatch("[0-9]{3}", lm.collect([gap])[0].text)
    with pytest.raises(OptionError, match="allowed: 7 or more") as refused:
        lm.new_request([5], GenerationConfig(gen_length=3), constraint=regex(r"\d{4}-\d\d"))
    assert refused.value.param == "max_tokens"
    with pytest.raises(OptionError, match=r"from 2 to 4\. An answer that cannot end"):
        lm.new_request([5], config, suffix=[6], constraint=regex("[0-9]{2,4}"))
    with pytest.raises(OptionError, match=r"got .3 tokens.\. An answer that cannot end"):
        lm.new_request([5], GenerationConfig(gen_length=3), suffix=[6], constraint=regex("(é🙂)*"))
    with pytest.raises(OptionError, match="stop string would cut"):
        lm.new_request([5], replace(config, stop=("a",)), constraint=regex("a"))
