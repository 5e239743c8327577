"""Toy vocabularies, models and requests, on which the tests of decoding run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor

from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import (
    Request,
    SpecialTokens,
    new_request,
)
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.trace import Trace
from tests.helpers.oracle import HashModel, PlanModel

CPU = torch.device("cpu")


FEW = settings(max_examples=8, deadline=None, database=None)


STOPS, MASK, SIZE, WIDTH = (10, 11), 12, 13, 16


END = STOPS[0]


def letters(ids: Sequence[int]) -> str:
    return "".join("abcdefghij"[i] for i in ids if i < 10)


WORDS = SpecialTokens(MASK, STOPS, SIZE, letters)


PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 0, 1], [2, 2], [9, 8, 7, 6]]


DECODERS = [
    "fixed",
    "fixed:k=3",
    "fixed:k=2,order=random",
    "threshold:threshold=0.6",
    "credit:threshold=0.7",
    "credit_adaptive",
    "credit_full",
]
DECODERS += [
    name
    for name in names()
    if name not in {text.split(":")[0] for text in DECODERS}
    and not capabilities_of(create(name)).leave_one_out
]


def toy(scale: float = 6.0) -> HashModel:
    """A batch-exact random model whose top choice is the mask token, then an id that means nothing,
    and which seldom ends.
    """
    return HashModel(WIDTH, MASK, scale, push={MASK: 60.0, 14: 50.0, 10: -2.0, 11: -2.0})


def requests_of(
    prompts: Sequence[Sequence[int]], *configs: GenerationConfig, **options: Any
) -> list[Request]:
    """A row a prompt; `configs` in turn, or one made of `options`."""
    turn = itertools.cycle(configs or (GenerationConfig(**options),))
    return [
        new_request(i, prompt, config, WORDS, 200)
        for i, (prompt, config) in enumerate(zip(prompts, turn))
    ]


def traces_of(model: Any, rows: Iterable[Request], batch_size: int = 16) -> list[Trace]:
    """Decode, one trace a row."""
    rows = list(rows)
    traces_by_row = {
        row.index: Trace(tuple(row.canvas[: row.answer_start].tolist())) for row in rows
    }
    for event in denoise(model, rows, WORDS, CPU, batch_size):
        traces_by_row[event.row].add(event)
    return list(traces_by_row.values())


def outcome(trace: Trace) -> list[Any]:
    """What a trace says, but pass numbers and times."""
    assert trace.finish is not None
    return [(s.block, s.step, s.positions, s.tokens, s.committed) for s in trace.steps] + [
        (trace.finish.reason, trace.finish.tokens)
    ]


def assert_same(ours: Trace, expected: Trace) -> None:
    """The same steps, tokens and answers; confidences and credit to float tolerance."""
    assert outcome(ours) == outcome(expected)
    for a, b in zip(ours.steps, expected.steps):
        assert a.confidence == pytest.approx(b.confidence, rel=1e-4, abs=1e-6)
        assert (a.credit is None) == (b.credit is None)
        if a.credit is not None:
            assert a.credit == pytest.approx(b.credit, rel=1e-4, abs=1e-6)


DRAWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 5},
    {"temperature": 1.2, "top_k": 3},
    {"temperature": 1.0, "top_p": 0.7},
]


LAST = {"confidence_eos_eot_inf": True}


def tiny(seed: int = 0) -> Transformer:
    """A random network with decided predictions."""
    config = ModelConfig(
        "llada", 32, 2, 4, 2, 8, 48, WIDTH, 64, 10_000.0, 1e-5, False, True, MASK, STOPS, 15
    )
    model = Transformer(config).eval()
    init_weights(model, torch.Generator().manual_seed(seed))
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.mul_(40.0)
        model.embed.weight.mul_(50.0)
    return model


def plan(*answers: Sequence[tuple[int, float]]) -> PlanModel:
    """A model whose row i, with the prompt [i], predicts `answers[i]` as (token, probability) at
    the columns after it.
    """
    return PlanModel(
        {
            i: {1 + position: pair for position, pair in enumerate(answer)}
            for i, answer in enumerate(answers)
        },
        WIDTH,
        SIZE,
        MASK,
    )


ALPHABET = [(i, 0.9 - 0.05 * i) for i in range(8)]


def spoiled(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    model = toy()
    return lambda tokens, read, allowed=None: change(model(tokens, read, allowed))


class Letters:
    """A stand-in for a tokenizer's backend: ids are letters."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return ["abcdefghij".index(letter) for letter in text]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return letters(ids)
