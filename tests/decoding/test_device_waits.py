"""A step makes the host wait for the device once before its decision is copied: to check that the
logits are numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import _credit, create
from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Decoder,
    Prediction,
    State,
    capabilities_of,
)
from creditdecoding.decoding.forward import logits_at
from creditdecoding.decoding.request import LogitReads, new_infill_request, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.integrations.blocks import (
    ReservedIds,
    SamplingParams,
    advance_blocks,
    new_blocks,
)
from tests.helpers.device_waits import DeviceWaits
from tests.helpers.toys import CPU, MASK, WIDTH, WORDS, toy


@dataclass(frozen=True)
class Watched:
    """A decoder that notes for what the host has waited by the time it has decided."""

    rule: Decoder
    watch: DeviceWaits
    waits: list[list[str]]

    @property
    def capabilities(self) -> Capabilities:
        return capabilities_of(self.rule)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        return self.rule.init(rows, length, vocab, device)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        result = self.rule.step(prediction, block, state)
        self.waits.append(list(self.watch.waits))
        return result


def waits_of(rule: str, **options: Any) -> list[list[str]]:
    """What the host waits for in three steps of two requests."""
    config = GenerationConfig(gen_length=12, block_length=6, **options)
    watch = DeviceWaits()
    waits: list[list[str]] = []
    watched = Watched(create(rule), watch, waits)
    requests = [
        replace(new_request(i, prompt, config, WORDS, 200), decoder=watched)
        for i, prompt in enumerate(([1, 2, 3], [4, 5, 6, 7]))
    ]
    model = watch.from_device(toy())
    for _ in range(3):
        watch.waits.clear()
        with watch:
            requests, _ = denoise_step(model, requests, WORDS, CPU, dedup=True)
    return waits


@pytest.mark.parametrize("rule", ["credit", "threshold", "fixed", "klass", "entropy", "edit"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 4, "top_p": 0.9},
        {"logits_eos_inf": True},
        {"confidence_eos_eot_inf": True, "temperature": 1.0},
        {"cfg_scale": 1.5},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_the_host_waits_once_before_a_decision(
    rule: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To check that the logits are finite. On a device, credit slots grow without a question."""
    monkeypatch.setattr(_credit, "_must_grow", lambda slots, missing: True)
    assert waits_of(rule, **options) == [["is_nonzero"]] * 3


def test_the_logits_of_a_pass_are_not_waited_for() -> None:
    """Also where some requests may write end tokens and others may not."""
    config = GenerationConfig(gen_length=4)
    requests = [
        new_request(0, [1, 2], config, WORDS, 99),
        new_infill_request(1, [1, MASK, 2], config, WORDS, 99),
    ]
    watch = DeviceWaits()
    reads = LogitReads.plain(torch.tensor([0, 0, 1]), torch.tensor([2, 3, 1]))
    with watch:
        logits = logits_at(watch.from_device(toy()), requests, WORDS, CPU, reads)
    assert not watch.waits
    assert (logits[:, list(WORDS.stop_ids)] == -torch.inf).all(-1).tolist() == [False, False, True]


def test_the_watch_sees_what_a_device_would_wait_for() -> None:
    watch = DeviceWaits()
    model = watch.from_device(lambda: torch.tensor([[1.0, 2.0]]))
    with watch:
        logits = model()
        best = logits.argmax(-1)
        assert not watch.waits
        best.item()
        logits[logits > 1]
        (logits > 1).nonzero()
    assert watch.waits == ["_local_scalar_dense", "index", "nonzero"]


@pytest.mark.parametrize("rule", ["credit", "fixed", "klass"])
def test_drawn_steps_of_another_engines_blocks_are_not_waited_for(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the list of finished blocks, which is copied at the end of a step."""
    monkeypatch.setattr(_credit, "_must_grow", lambda slots, missing: True)
    watch = DeviceWaits()
    in_prompt = torch.zeros(2, 6, dtype=torch.bool)
    tokens = torch.full((2, 6), MASK)
    sampling = SamplingParams(temperature=1.0)
    blocks = new_blocks(~in_prompt, in_prompt, ["a", "b"], [sampling] * 2, [1, 2])
    positions = torch.arange(6).expand(2, -1)
    model = watch.from_device(lambda: torch.randn(12, WIDTH))
    with watch:
        for _ in range(3):
            blocks, _ = advance_blocks(
                create(rule), model(), tokens, positions, ReservedIds(MASK), blocks
            )
    assert not watch.waits
