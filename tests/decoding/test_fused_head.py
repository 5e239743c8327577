"""Requests decoded from the head, without written logits, get what they get with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding import fused_head
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.request import Request, new_infill_request, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.errors import OptionError
from creditdecoding.models.transformer import Transformer
from creditdecoding.ops import head_logits
from creditdecoding.ops.head_logits import HeadLogits
from creditdecoding.trace import Trace
from tests.helpers.llada_network import CPU, MASK, WORDS, network, traces
from tests.helpers.toys import assert_same

SPARSE = [name for name in names() if not capabilities_of(create(name)).dense_state]
OPTIONS: list[dict[str, Any]] = [
    {"logits_eos_inf": True, "cache": "dual"},
    {"confidence_eos_eot_inf": True, "temperature": 0.7},
]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of few lines and few ids, so that a tiny vocabulary has several."""
    monkeypatch.setattr(head_logits, "_CPU_TILE", 20)
    monkeypatch.setattr(head_logits, "_CPU_LINES", 4)


def requests(model: Transformer, decoder: str, **options: Any) -> list[Request]:
    config = GenerationConfig(decoder=decoder, gen_length=6, block_length=3, **options)
    prompts = ([1, 2, 3], [4, 5])
    return [new_request(i, p, config, WORDS, 128, model.geometry) for i, p in enumerate(prompts)]


def decoded(model: Transformer, mode: str, decoder: str, **options: Any) -> list[Trace]:
    model.fused_head = mode
    return traces(model, requests(model, decoder, **options))


def assert_equal_traces(model: Transformer, decoder: str, **options: Any) -> None:
    plain = decoded(model, "off", decoder, **options)
    for ours, expected in zip(decoded(model, "on", decoder, **options), plain, strict=True):
        assert_same(ours, expected)
        for a, b in zip(ours.steps, expected.steps):
            assert a.top == b.top
            assert a.logprobs == pytest.approx(b.logprobs, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("decoder", SPARSE)
def test_every_sparse_decoder_writes_the_same(decoder: str) -> None:
    model = network()
    for options in OPTIONS:
        assert_equal_traces(model, decoder, **options)


@pytest.mark.parametrize(
    "shape",
    [{"logit_shift": True}, {"embedding_rows": 29}, {"causal_block": 3}, {}],
    ids=["shifted", "padded", "causal", "tied"],
)
def test_every_shape_of_head_writes_the_same(shape: dict[str, Any]) -> None:
    model = network(**shape)
    if not shape:
        model.head = None
    assert_equal_traces(model, "credit:threshold=0.6", temperature=0.5, seed=3)


def test_bfloat16_writes_the_same() -> None:
    model = network().to(torch.bfloat16)
    for decoder in ("credit", "entropy"):
        assert_equal_traces(model, decoder, temperature=0.9)


def test_shared_rows_and_a_mixed_pass() -> None:
    """Requests with equal tokens share a row, and decoders and settings differ."""
    model = network()
    events = {}
    for mode in ("off", "on"):
        model.fused_head = mode
        mixed = [
            *requests(model, "credit", temperature=0.8),
            *requests(model, "margin"),
            *requests(model, "wino", confidence_eos_eot_inf=True),
        ]
        for _ in range(2):
            mixed, events[mode] = denoise_step(
                model, mixed, WORDS, CPU, clock=lambda: 0.0, dedup=True
            )
    assert [e.tokens for e in events["on"]] == [e.tokens for e in events["off"]]
    assert [e.committed for e in events["on"]] == [e.committed for e in events["off"]]
    assert [e.sequences for e in events["on"]] == [e.sequences for e in events["off"]]


def test_gaps_are_never_filled_with_end_tokens() -> None:
    model = network()
    model.fused_head = "on"
    config = GenerationConfig(decoder="fixed:k=4")
    gaps = [new_infill_request(0, [1, MASK, 2, MASK], config, WORDS, 128, model.geometry)]
    [trace] = traces(model, gaps)
    assert not set(trace.tokens) & set(WORDS.stop_ids)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the logits of each pass were written."""
    kinds: list[bool] = []
    original = Transformer.forward

    def watched(*arguments: Any, **named: Any) -> Any:
        logits = original(*arguments, **named)
        kinds.append(not isinstance(logits, HeadLogits))
        return logits

    monkeypatch.setattr(Transformer, "forward", watched)
    return kinds


def test_auto_writes_small_logits_and_no_large_ones(
    written: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    both = requests(model, "fixed")
    denoise_step(model, both, WORDS, CPU)
    monkeypatch.setattr(fused_head, "AUTO_BYTES", 3 * model.geometry.line_bytes)
    denoise_step(model, both, WORDS, CPU)
    denoise_step(model, both[:1], WORDS, CPU)
    assert written == [True, False, True]


WHOLE: list[dict[str, Any]] = [
    {"decoder": "klass"},
    {"decoder": "credit", "cfg_scale": 1.0},
    {"decoder": "credit", "temperature": 1.0, "top_k": 3},
    {"decoder": "credit", "temperature": 1.0, "top_p": 0.9},
]


@pytest.mark.parametrize("options", WHOLE, ids=str)
def test_what_needs_whole_logits_is_refused_or_gets_them(
    options: dict[str, Any], written: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = network()
    monkeypatch.setattr(fused_head, "AUTO_BYTES", 0)
    denoise_step(model, [*requests(model, "fixed"), *requests(model, **options)], WORDS, CPU)
    assert written == [True]
    model.fused_head = "on"
    with pytest.raises(OptionError, match="fused_head auto"):
        requests(model, **options)


def test_unwritten_lines_can_be_indexed() -> None:
    """What a decoder of a user gets that reads `Prediction.logits`."""
    hidden = torch.randint(-4, 5, (3, 16)).float()  # exact in every order of summation
    weight = torch.randint(-4, 5, (WORDS.size, 16)).float()
    stops = torch.tensor([True, False, True])
    logits = HeadLogits(hidden, weight, (MASK,), WORDS.stop_ids, no_stop=stops)
    dense = logits[torch.tensor([[0, 1], [2, 2]])]
    assert dense.shape == (2, 2, WORDS.size)
    assert dense[..., MASK].isinf().all()
    assert dense[..., WORDS.stop_ids[0]].isinf().tolist() == [[True, False], [True, True]]
    assert torch.equal(logits[1:][0], dense[0, 1])


def test_an_engine_admits_what_is_never_written(
    written: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large requests take the limit alone, and share no pass with those that need whole logits."""
    model = network()
    needs = {}
    for mode in ("off", "auto", "on"):
        model.fused_head = mode
        monkeypatch.setattr(fused_head, "AUTO_BYTES", 2 * model.geometry.line_bytes)
        monkeypatch.setattr(fused_head, "FUSED_BYTES", 1)
        engine = Engine(model, WORDS, CPU)
        needs[mode] = engine.memory_bytes(requests(model, "credit")[0])
    line = model.geometry.line_bytes
    assert needs["off"] - needs["auto"] == line - 3  # three positions of a block
    assert needs["off"] - needs["on"] == 3 * line - 3
    model.fused_head = "auto"
    engine = Engine(model, WORDS, CPU)
    for request in (*requests(model, "credit"), *requests(model, "klass")):
        engine.submit(request)
    while engine.busy:
        engine.step()
    assert set(written) == {True, False}
    assert engine.stats.finished == 4
