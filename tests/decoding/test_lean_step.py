"""A request alone on the host takes a shorter way, on which everything is as in a batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Prediction,
    State,
    capabilities_of,
)
from creditdecoding.decoding import step
from creditdecoding.decoding.lean_step import PLAIN_CAPABILITIES, takes_lean_step
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, new_infill_request, new_request
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.trace import Event
from tests.helpers.toys import CPU, DRAWS, MASK, WORDS, requests_of, spoiled, tiny, toy

CACHES = ("none", "prefix", "dual", "every:n=2", "vicinity:w=2")
PLAIN = [
    name for name in names(controls=True) if capabilities_of(create(name)) in PLAIN_CAPABILITIES
]
"""The rules that can take the shorter way: they only write masks of the current block."""


def events_of(model: Any, request: Request) -> list[Event]:
    """The events of a request alone, their times left out."""
    events = denoise(model, [request], WORDS, CPU)
    return [dataclasses.replace(event, seconds=0.0) for event in map(_without_began, events)]


def _without_began(event: Event) -> Event:
    return dataclasses.replace(event, began=0.0) if hasattr(event, "began") else event


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Request], list[list[Event]]]:
    """The events of a request on the shorter way and in a batch; the first must be taken."""

    def run(model: Any, request: Request) -> list[list[Event]]:
        taken: list[bool] = []

        def watched(*arguments: Any) -> bool:
            taken.append(takes_lean_step(*arguments))
            return taken[-1]

        monkeypatch.setattr(step, "takes_lean_step", watched)
        lean = events_of(model, request)
        assert taken and all(taken)
        monkeypatch.setattr(step, "takes_lean_step", lambda *arguments: False)
        return [lean, events_of(model, request)]

    return run


Both = Callable[[Any, Request], list[list[Event]]]


def test_all_rules_take_it_that_only_write_the_current_block() -> None:
    assert {"fixed", "threshold", "credit", "credit_adaptive", "credit_full", "klass"} <= set(PLAIN)
    assert not {"edit", "wino", "thrift"} & set(PLAIN)


@pytest.mark.parametrize(
    ("cache", "draw"), [*zip(CACHES, itertools.cycle([{}, *DRAWS[1:]])), ("dual", {})], ids=str
)
@pytest.mark.parametrize("rule", PLAIN)
def test_every_rule_and_cache_has_the_events_of_a_batch(
    rule: str, cache: str, draw: dict[str, Any], both_ways: Both
) -> None:
    model = tiny()
    config = GenerationConfig(decoder=rule, cache=cache, gen_length=7, block_length=4, **draw)
    request = new_request(3, [1, 2, 3], config, WORDS, 64, model.geometry)
    lean, plain = both_ways(model, request)
    assert lean == plain


@pytest.mark.parametrize("rule", ["credit", "fixed:k=2", "fixed:order=random", "fixed:steps=3"])
def test_gaps_begun_answers_and_barred_end_tokens_are_as_in_a_batch(
    rule: str, both_ways: Both
) -> None:
    model = tiny(1)
    config = GenerationConfig(decoder=rule, block_length=4, gen_length=9)
    barred = dataclasses.replace(config, logits_eos_inf=True, early_stop=False)
    rest = (WORDS, 64, model.geometry)
    gaps = [MASK if i % 3 else 5 for i in range(14)]
    for request in (
        new_infill_request(0, gaps, config, *rest),
        new_request(0, [4, 2], config, *rest, answer_prefix=[7, 7, 1, 3, 5]),
        new_request(0, [4, 2], config, *rest, suffix=[6, 8]),
        new_request(0, [4, 2], barred, *rest),
    ):
        lean, plain = both_ways(model, request)
        assert lean == plain


@pytest.mark.parametrize("rule", PLAIN)
def test_a_request_that_stays_behind_goes_on_as_in_the_batch(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its state is as wide as the block of the request that has left."""
    slow = {"credit": "credit:threshold=1", "threshold": "threshold:threshold=1"}.get(rule, rule)
    steps_alone = 0

    def events(is_lean: bool) -> list[Event]:
        nonlocal steps_alone

        def takes(*arguments: Any) -> bool:
            nonlocal steps_alone
            steps_alone += is_lean
            return is_lean and takes_lean_step(*arguments)

        monkeypatch.setattr(step, "takes_lean_step", takes)
        model = tiny(2)
        rest = (WORDS, 64, model.geometry)
        narrow = GenerationConfig(decoder=slow, gen_length=5, block_length=5)
        wide = GenerationConfig(decoder="fixed:k=8", gen_length=8, block_length=8)
        both = [new_request(0, [4, 2], narrow, *rest), new_request(1, [3], wide, *rest)]
        return [
            dataclasses.replace(_without_began(event), seconds=0.0)
            for event in denoise(model, both, WORDS, CPU, 2)
        ]

    assert events(True) == events(False)
    assert steps_alone > 0


def test_what_needs_a_batch_does_not_take_it() -> None:
    def takes(request: Request, device: torch.device = CPU) -> bool:
        return takes_lean_step(toy(), request, device)

    [request] = requests_of([[1, 2]], decoder="credit", gen_length=4)
    assert takes(request)
    assert not takes(request, torch.device("meta"))
    others = [
        {"cfg_scale": 1.0},
        {"confidence_eos_eot_inf": True},
        {"decoder": "credit:live_blocks=2"},
    ]
    for options in others:
        assert not takes(requests_of([[1, 2]], gen_length=4, **options)[0])
    assert not takes(dataclasses.replace(request, top_logprobs=2))
    assert not takes(dataclasses.replace(request, scored_ids=((1,),) * 4))
    assert not takes(request.after_step(masked=torch.zeros_like(request.masked)))


class Undeclared(BaseDecoder):
    """Writes nothing and asks for what it does not declare."""

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        nothing = torch.zeros_like(block.masked)
        score = torch.zeros(block.masked.shape)
        return Decision(prediction.ids, nothing, score, remask=~nothing), state


def test_errors_are_those_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    [undeclared] = requests_of([[1]], decoder=Undeclared(), gen_length=4)
    [plain] = requests_of([[1]], decoder="fixed", gen_length=4)
    failing = (
        (toy(), undeclared, OptionError),
        (
            spoiled(lambda logits: logits.index_fill(1, torch.tensor([2]), torch.nan)),
            plain,
            ModelError,
        ),
        (spoiled(lambda logits: logits[:, :3]), plain, ModelError),
    )
    for model, request, kind in failing:
        texts = []
        for is_lean in (True, False):
            monkeypatch.setattr(step, "takes_lean_step", lambda *_, is_lean=is_lean: is_lean)
            with pytest.raises(kind) as caught:
                events_of(model, request)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]
