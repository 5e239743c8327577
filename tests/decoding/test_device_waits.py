"""A step makes the host wait for the device once: for one copy of all that it decided."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.device import SIZES, PlacedModel, random_network
from creditdecoding.config import GenerationConfig, ModelConfig, MoEConfig
from creditdecoding.constraints.tokens import TokenAutomaton
from creditdecoding.decoders import _credit, create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding import block_batch, lean_step, outcome
from creditdecoding.decoding.advance import finish_event
from creditdecoding.decoding.forward import logits_at
from creditdecoding.decoding.request import (
    LogitReads,
    Request,
    new_infill_request,
    new_request,
)
from creditdecoding.decoding.step import denoise_step
from creditdecoding.integrations.blocks import (
    BlockRound,
    ReservedIds,
    SamplingParams,
    new_blocks,
)
from creditdecoding.models.kv_cache import KVCache
from creditdecoding.models.transformer import Transformer
from creditdecoding.ops import transfer, vocab_stats
from tests.helpers import tiny_networks
from tests.helpers.device_waits import DeviceWaits
from tests.helpers.meta_device import META, HostCopies, MadeUpOutcomes, on_meta
from tests.helpers.toys import CPU, MASK, SIZE, WIDTH, WORDS, toy

STEPS = 3
ROWS, WIDTH_OF_BLOCK = 2, 6
MOST_FIELDS = 9
"""Numbers that a step may bring to the host of each position: those of an `StepOutcome`."""


@pytest.fixture
def as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps take the ways that they take on a device."""
    for module in (transfer, vocab_stats, block_batch, lean_step, _credit):
        monkeypatch.setattr(module, "is_host", lambda device: False)


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> MadeUpOutcomes:
    """What steps read in place of their copy."""
    outcomes = MadeUpOutcomes(vocab_size=10)
    monkeypatch.setattr(outcome, "download", outcomes)
    return outcomes


def requests_of_two(rule: str, **options: Any) -> list[Request]:
    config = GenerationConfig(
        gen_length=12, block_length=WIDTH_OF_BLOCK, decoder=rule, early_stop=False, **options
    )
    prompts = ([1, 2, 3], [4, 5, 6, 7])
    return [new_request(i, prompt, config, WORDS, 200) for i, prompt in enumerate(prompts)]


def watched_steps(requests: list[Request]) -> DeviceWaits:
    """What the host waits for in a few steps of these requests."""
    watch = DeviceWaits()
    model = watch.from_device(toy())
    for _ in range(STEPS):
        with watch:
            requests, _ = denoise_step(model, requests, WORDS, CPU, dedup=True)
    return watch


OPTIONS: list[dict[str, Any]] = [
    {"logits_eos_inf": True},
    {"temperature": 0.7, "top_k": 4, "top_p": 0.9, "cfg_scale": 1.5},
    {"confidence_eos_eot_inf": True, "temperature": 1.0},
]
SPARSE = [
    name
    for name in names()
    if not capabilities_of(create(name)).leave_one_out
    and not capabilities_of(create(name)).dense_state
]


@pytest.mark.parametrize("rule", SPARSE)
@pytest.mark.usefixtures("as_on_a_device")
def test_a_step_waits_for_one_copy(rule: str) -> None:
    """Every decoder but those declared dense, and every way to draw."""
    for options in OPTIONS:
        watch = watched_steps(requests_of_two(rule, **options))
        assert not watch.waits, options
        assert len(watch.copies) == STEPS, options
        assert max(watch.copies) <= ROWS * 2 * WIDTH_OF_BLOCK * MOST_FIELDS  # two blocks ahead


def some_letters() -> TokenAutomaton:
    """Answers of the ids 1 to 4, in any order."""
    class_of = np.zeros(SIZE, dtype=np.int32)
    class_of[1:5] = 1
    edge = np.zeros(1, dtype=np.int32)
    everywhere = np.ones(1, dtype=np.bool_)
    return TokenAutomaton(class_of, edge, edge, np.array([0, 0, 1]), everywhere, (edge, edge))


@pytest.mark.parametrize("rule", ["credit", "threshold", "fixed"])
@pytest.mark.usefixtures("as_on_a_device")
def test_a_constraint_waits_for_the_same_copy(rule: str) -> None:
    requests = [replace(request, constraint=some_letters()) for request in requests_of_two(rule)]
    watch = watched_steps(requests)
    assert not watch.waits
    assert len(watch.copies) == STEPS


MOE = {"moe": MoEConfig(8, 2, 16, dense_layers=1)}
GEOMETRIES: dict[str, dict[str, Any]] = {
    "full": {},
    "full experts": MOE,
    "blocks": {"causal_block": 4, "qk_norm": True},
    "shifted blocks experts": {"causal_block": 4, "logit_shift": True, **MOE},
}
CACHES = {
    geometry: ["none", "block"] if "blocks" in geometry else ["none", "prefix", "dual", "every"]
    for geometry in GEOMETRIES
}
EVERYTHING: list[dict[str, Any]] = [
    {"cfg_scale": 1.5, "early_stop": True, "stop": ("1 2",)},
    {"temperature": 0.7, "top_k": 3, "top_p": 0.9, "logits_eos_inf": True},
    {"temperature": 1.0, "confidence_eos_eot_inf": True, "cache": "vicinity:w=1"},
]


def steps_on_meta(geometry: str, **options: Any) -> int:
    """How many passes three requests take there; none may wait for a value."""
    sizes = {**tiny_networks.FULL, **GEOMETRIES[geometry], "num_layers": 2}
    model = on_meta(Transformer(ModelConfig(**sizes)))
    config = GenerationConfig(gen_length=8, block_length=4, **options)
    words = tiny_networks.WORDS
    prompts = ([1, 2, 3], [1, 2, 3], [4, 5, 6, 7, 8])
    requests = [
        new_request(i, prompt, config, words, 200, model.geometry)
        for i, prompt in enumerate(prompts)
    ]
    requests = [r.after_step(cache_slot=r.index, unconditional_slot=r.index + 3) for r in requests]
    cache = model.new_cache()
    cache.reserve(6, 16)
    steps = 0
    with HostCopies() as watch:
        while requests and steps < STEPS:
            requests, _ = denoise_step(model, requests, words, META, cache=cache, dedup=True)
            requests = [r for r in requests if not finish_event(r, words, 0.0)]
            steps += 1
    assert not watch.waits
    return steps


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_cache_on_a_device_without_values(geometry: str, made_up: MadeUpOutcomes) -> None:
    """The network too: its experts, masks and caches."""
    steps = sum(
        steps_on_meta(geometry, decoder="credit", cache=cache) for cache in CACHES[geometry]
    )
    assert len(made_up.copies) == steps


@pytest.mark.parametrize("rule", names())
def test_every_decoder_on_a_device_without_values(rule: str, made_up: MadeUpOutcomes) -> None:
    """Also those that keep a number for each id, and `wino`, which asks for columns of its own."""
    steps = steps_on_meta("full experts", decoder=rule, cache="dual")
    assert len(made_up.copies) == steps


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("rule", SPARSE)
def test_a_step_on_a_gpu_waits_for_one_copy(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself raises where the host waits; the one copy alone may."""
    device = torch.device("cuda")
    model = random_network(SIZES["tiny"], device)
    placed = PlacedModel(model, device)
    requests, _ = denoise_step(model, placed.requests(4, rule), placed.words, device)
    copies = []

    def allowed_download(*tensors: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        fetched = transfer.download(*tensors)
        torch.cuda.set_sync_debug_mode("error")
        copies.append(fetched)
        return fetched

    monkeypatch.setattr(outcome, "download", allowed_download)
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        denoise_step(model, requests, placed.words, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(copies) == 1


@pytest.mark.parametrize("options", EVERYTHING, ids=str)
def test_every_option_on_a_device_without_values(
    options: dict[str, Any], made_up: MadeUpOutcomes
) -> None:
    steps = steps_on_meta("full", decoder="threshold", **options)
    assert len(made_up.copies) == steps


def test_the_device_without_values_refuses_what_waits() -> None:
    numbers = torch.empty(4, 3, device=META)
    for wait in (torch.Tensor.tolist, torch.Tensor.cpu, torch.nonzero, lambda x: x[x > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait(numbers)
    with HostCopies() as watch:
        torch.zeros(3).to(META, non_blocking=True)
        numbers.fill_(2.0)
        assert not watch.waits
        numbers[[1, 2]] = 0.0
        numbers[torch.tensor([1, 2])]
        torch.tensor([1, 2], device=META)
        torch.zeros(3).to(META)
    assert watch.waits == ["__setitem__", "index", "tensor", "_to_copy"]


def test_copied_slots_are_not_waited_for() -> None:
    cache = KVCache(1, 2, 4, META, torch.float32)
    cache.reserve(4, 8)
    with HostCopies() as watch:
        cache.copy_slots([0, 1], [2, 3])
    assert not watch.waits


@pytest.mark.usefixtures("as_on_a_device")
def test_groups_of_a_pass_share_the_copy() -> None:
    requests = [requests_of_two(rule)[i] for i, rule in enumerate(("credit", "edit"))]
    watch = watched_steps(requests)
    assert not watch.waits
    assert len(watch.copies) == STEPS


@pytest.mark.parametrize("rule", [*SPARSE, "credit_full"])
def test_the_one_copy_holds_what_the_host_reads_itself(
    rule: str, request: pytest.FixtureRequest
) -> None:
    """The same steps with the copy and without."""
    model: Any = toy()
    plain = requests_of_two(rule)
    copied = list(plain)
    events = [denoise_step(model, plain, WORDS, CPU, clock=lambda: 0.0)]
    request.getfixturevalue("as_on_a_device")
    events.append(denoise_step(model, copied, WORDS, CPU, clock=lambda: 0.0))
    assert events[0][1] == events[1][1]
    for read, fetched in zip(events[0][0], events[1][0]):
        assert torch.equal(read.canvas, fetched.canvas)
        assert torch.equal(read.masked, fetched.masked)


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
    assert not watch.waits + watch.copies
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
        bool(best > 0)
        best.tolist()
        assert best.cpu().tolist() == [1]
    seen = {"item", "_local_scalar_dense", "index", "nonzero", "__bool__", "tolist"}
    assert seen <= set(watch.waits)
    assert watch.copies == [1]


@pytest.mark.parametrize("rule", ["credit", "fixed", "klass"])
def test_drawn_steps_of_another_engines_blocks_are_not_waited_for(
    rule: str, as_on_a_device: None
) -> None:
    """But for the list of finished blocks, which an engine may copy when it likes."""
    watch = DeviceWaits()
    in_prompt = torch.zeros(2, 6, dtype=torch.bool)
    tokens = torch.full((2, 6), MASK)
    sampling = SamplingParams(temperature=1.0)
    blocks = new_blocks(~in_prompt, in_prompt, ["a", "b"], [sampling] * 2, [1, 2])
    positions = torch.arange(6).expand(2, -1)
    model = watch.from_device(lambda: torch.randn(12, WIDTH))
    with watch:
        for _ in range(3):
            batch = BlockRound(create(rule), ReservedIds(MASK), blocks)
            batch.step(model(), tokens, positions)
            blocks = batch.states()
            batch.step(model(), tokens, positions)
            blocks = batch.states()
        assert not watch.waits
        batch.read()
    assert watch.waits == ["tolist"]
