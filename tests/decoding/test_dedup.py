"""Rows that show the network the same are computed once: the same tokens for less, and events that
say who ran.
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
from creditdecoding.decoding.engine import Engine, EngineStats
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
    found = load(str(make(request.param, tmp_path_factory.mktemp(request.param))))
    with torch.no_grad():
        found.model.embed.weight.mul_(20.0)  # type: ignore[attr-defined]
    return found


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
        found: Tensor = self.model(tokens, *rest, **more)
        return found


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
    found = []
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
        found.append(lm.new_request(lm.encode(text, raw=True), config, begun=begun))
    return found


@pytest.mark.parametrize("decoder", ["credit", "edit", "wino"])
def test_shared_passes_give_the_same_tokens_for_less(lm: LM, decoder: str) -> None:
    for cache in (CACHES.get(name, name) for name in supported_policies(lm.geometry)):
        rows = draws(lm, cache, decoder)
        (ours, stats, ran), (theirs, plain, unshared) = (
            decoded(lm, rows, True),
            decoded(lm, rows, False),
        )
        for mine, other in zip(ours, theirs):
            assert [(s.positions, s.tokens, s.committed) for s in mine.steps] == [
                (s.positions, s.tokens, s.committed) for s in other.steps
            ]
            assert mine.tokens == other.tokens and mine.nfe == other.nfe == other.sequence_forwards
            assert all(
                (s.sequences, s.computed) in ((1, t.computed), (0, 0))
                for s, t in zip(mine.steps, other.steps)
            )
            for s, t in zip(mine.steps, other.steps):
                assert s.confidence == pytest.approx(
                    t.confidence, abs=1e-3
                ) and s.logprobs == pytest.approx(t.logprobs, abs=1e-2)
        assert (
            ran == sum(trace.sequence_forwards for trace in ours)
            and unshared == sum(trace.nfe for trace in theirs) == stats.passes
        )
        assert (
            stats.positions == sum(step.computed for trace in ours for step in trace.steps)
            and stats.tokens == plain.tokens
        )
        first = [trace.steps[0].sequences for trace in ours]
        assert first == ([1] * 8 if decoder == "wino" else [1, 1, 0, 0, 0, 0, 1, 0]), (
            "one leader a prompt and begun answer"
        )
        assert ran < unshared or decoder == "wino"


def test_what_cannot_be_shared_is_not(lm: LM) -> None:
    guided = draws(lm, "auto", "credit", cfg_scale=1.0)
    assert representatives(guided) is None
    ours, _, ran = decoded(lm, guided, True)
    assert (
        ran
        == sum(trace.sequence_forwards for trace in ours)
        == 2 * sum(trace.nfe for trace in ours)
    )
    kept = "block" if lm.geometry.causal_block else "dual"
    mixed = [
        row for pair in zip(draws(lm, "none", "fixed"), draws(lm, kept, "fixed")) for row in pair
    ]
    assert representatives(mixed)[:4] == [0, 1, 2, 3], (
        "who keeps nothing computes for nobody who does"
    )  # type: ignore[index]
    for mine, other in zip(decoded(lm, mixed, True)[0], decoded(lm, mixed, False)[0]):
        assert mine.tokens == other.tokens


def test_a_batch_without_twins_is_left_alone(lm: LM) -> None:
    rows = draws(lm, "auto", "fixed")
    assert (
        representatives([rows[0], rows[1], rows[6]]) is None and representatives(rows[:1]) is None
    )
