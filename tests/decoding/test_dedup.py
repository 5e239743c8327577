"""Requests with identical visible tokens share a row: the same tokens for less, and events that say
which request ran.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.cache_policy import supported_policies
from creditdecoding.decoding.dedup import representatives
from creditdecoding.decoding.engine import Engine
from creditdecoding.decoding.engine_stats import EngineStats
from creditdecoding.decoding.request import Request
from creditdecoding.lm import LM, load
from creditdecoding.trace import FinishEvent, StepEvent, Trace
from tools.make_checkpoint import FAMILIES, make

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
CACHES = {"every": "every:n=2", "vicinity": "vicinity:w=3"}
LONG, SHORT = "the sun is red the sun is", "x the sea"


@pytest.fixture(scope="module", params=FAMILIES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LM:
    """A random checkpoint with decided predictions."""
    loaded = load(str(make(request.param, tmp_path_factory.mktemp(request.param))))
    with torch.no_grad():
        loaded.model.embed.weight.mul_(20.0)  # type: ignore[attr-defined]
    return loaded


class Counting:
    """The model, and how many sequences it was shown."""

    def __init__(self, model: Any) -> None:
        self.model, self.geometry, self.new_cache, self.rows = (
            model,
            model.geometry,
            model.new_cache,
            0,
        )

    def __call__(self, tokens: Tensor, *rest: Any, **more: Any) -> Tensor:
        self.rows += len(tokens)
        logits: Tensor = self.model(tokens, *rest, **more)
        return logits


def decoded(
    lm: LM, rows: Sequence[Request], share: bool, batch_size: int = 16
) -> tuple[list[Trace], EngineStats, int]:
    model = Counting(lm.model)
    engine = Engine(model, lm.vocab, lm.device, EngineConfig(batch_size=batch_size), dedup=share)
    traces = {engine.submit(row): Trace(()) for row in rows}
    while engine.busy:
        for event in engine.step():
            assert isinstance(event, (StepEvent, FinishEvent))
            traces[event.row].add(event)
    return [*traces.values()], engine.stats, model.rows


def draws(lm: LM, cache: str, decoder: str, **options: Any) -> list[Request]:
    """Several draws from one prompt and from one begun answer, and others that have nothing in
    common with them.
    """
    requests = []
    for seed in range(8):
        text, begun = (LONG, (5, 6, 7)[: 3 * (seed % 2)]) if seed < 6 else (SHORT, ())
        width = lm.geometry.causal_block or 5
        config = GenerationConfig(
            decoder=decoder,
            cache=cache,
            gen_length=10,
            block_length=width,
            temperature=0.7,
            seed=seed,
            **options,
        )
        requests.append(lm.new_request(lm.encode(text, raw=True), config, begun=begun))
    return requests


def assert_same_decoding(ours: Trace, expected: Trace) -> None:
    """The same steps to float tolerance; in ours a request may have been computed for another."""
    assert ours.tokens == expected.tokens
    assert ours.nfe == expected.nfe == expected.sequence_forwards
    for step, other in zip(ours.steps, expected.steps):
        assert step.positions == other.positions
        assert step.tokens == other.tokens
        assert step.committed == other.committed
        assert (step.sequences, step.computed) in ((1, other.computed), (0, 0))
        assert step.confidence == pytest.approx(other.confidence, abs=1e-3)
        assert step.logprobs == pytest.approx(other.logprobs, abs=1e-2)


@pytest.mark.parametrize("decoder", ["credit", "edit", "wino"])
def test_shared_rows_give_the_same_tokens_for_less(lm: LM, decoder: str) -> None:
    policies = supported_policies(lm.geometry)
    for cache in (
        CACHES.get(name, name) for name in policies[: None if decoder == "credit" else 2]
    ):
        requests = draws(lm, cache, decoder)
        ours, stats, sequences = decoded(lm, requests, True)
        expected, plain, all_sequences = decoded(lm, requests, False)
        for our_trace, their_trace in zip(ours, expected):
            assert_same_decoding(our_trace, their_trace)
        assert sequences == sum(trace.sequence_forwards for trace in ours)
        assert all_sequences == sum(trace.nfe for trace in expected) == stats.passes
        assert stats.positions == sum(step.computed for trace in ours for step in trace.steps)
        assert stats.tokens == plain.tokens
        first = [trace.steps[0].sequences for trace in ours]
        if decoder == "wino":  # leave-one-out columns are not shared
            assert first == [1] * 8
        else:
            assert first == [1, 1, 0, 0, 0, 0, 1, 0], "a row for each prompt and answer prefix"
            assert sequences < all_sequences


def test_what_cannot_be_shared_is_not(lm: LM) -> None:
    guided = draws(lm, "auto", "credit", cfg_scale=1.0)
    assert representatives(guided) is None
    traces, _, sequences = decoded(lm, guided, True)
    assert sequences == sum(trace.sequence_forwards for trace in traces)
    assert sequences == 2 * sum(trace.nfe for trace in traces)
    cache = "block" if lm.geometry.causal_block else "dual"
    pairs = zip(draws(lm, "none", "fixed"), draws(lm, cache, "fixed"))
    mixed = [request for pair in pairs for request in pair]
    indices = representatives(mixed)
    assert indices is not None
    assert indices[:4] == [0, 1, 2, 3], "without a cache nothing is stored for those with one"
    for ours, expected in zip(decoded(lm, mixed, True)[0], decoded(lm, mixed, False)[0]):
        assert ours.tokens == expected.tokens


def test_a_batch_of_different_requests_is_left_alone(lm: LM) -> None:
    requests = draws(lm, "auto", "fixed")
    assert representatives([requests[0], requests[1], requests[6]]) is None
    assert representatives(requests[:1]) is None
