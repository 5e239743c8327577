"""What the model is shown, ids that must not be written, and logits that are refused."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.loop import denoise
from creditdecoding.errors import ModelError
from creditdecoding.trace import StepEvent
from tests.helpers.oracle import HashModel
from tests.helpers.toys import (
    CPU,
    DECODERS,
    END,
    MASK,
    PROMPTS,
    SIZE,
    STOPS,
    WIDTH,
    WORDS,
    assert_same,
    plan,
    requests_of,
    spoiled,
    toy,
    traces_of,
)


@pytest.mark.parametrize("batch_size", (1, 2, 5))
def test_the_model_is_asked_only_for_masked_positions_of_current_blocks(batch_size: int) -> None:
    """`read` of each pass is exactly what the events of that pass list, row by row."""
    model = toy()
    events: dict[int, list[StepEvent]] = {}
    rows = requests_of(
        PROMPTS,
        *(
            GenerationConfig(decoder=d, gen_length=11, block_length=4)
            for d in ("credit", "fixed:k=2", "threshold")
        ),
    )
    for event in denoise(model, rows, WORDS, CPU, batch_size):
        if isinstance(event, StepEvent):
            events.setdefault(event.forward, []).append(event)
    assert len(model.reads) == len(events) == model.calls
    for forward, read in enumerate(model.reads):
        assert read == [
            (slot, position)
            for slot, event in enumerate(events[forward])
            for position in event.positions
        ]


def test_what_the_model_sees() -> None:
    """Ids in int64, prompt and commits in place, masks elsewhere; `allowed` is there only when rows
    differ in length, True on their own positions.
    """
    seen: list[tuple[Tensor, Tensor | None]] = []
    model = toy()

    def spy(tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        seen.append((tokens.clone(), allowed))
        return model(tokens, read, allowed)

    traces_of(spy, requests_of([[1, 2], [3, 4]], gen_length=4))
    assert all(allowed is None for _, allowed in seen)
    seen.clear()
    first, second = traces_of(
        spy, requests_of([[1, 2], [3, 4, 5, 6]], gen_length=4, decoder="fixed", early_stop=False)
    )
    for i, (tokens, allowed) in enumerate(seen):
        assert tokens.dtype == torch.long and tokens.shape == (2, 8)
        assert allowed is not None and allowed.dtype == torch.bool and allowed.shape == (2, 1, 8)
        assert allowed[:, 0].tolist() == [[True] * 6 + [False] * 2, [True] * 8]
        for line, trace, length in zip(tokens.tolist(), (first, second), (6, 8)):
            done = {p: t for step in trace.steps[:i] for p, t in step.commits().items()}
            assert line[:length] == [
                *trace.prompt,
                *(done.get(p, MASK) for p in range(len(trace.prompt), length)),
            ]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("temperature", (0.0, 1.0))
def test_logits_eos_inf_never_writes_a_stop_id(decoder: str, temperature: float) -> None:
    """And a neighbour without the option still does, as if alone."""
    answer = [(END, 0.97)] * 6
    both = [
        GenerationConfig(
            decoder=decoder,
            gen_length=6,
            temperature=temperature,
            logits_eos_inf=never,
            early_stop=False,
        )
        for never in (True, False)
    ]
    never, plain = traces_of(plan(answer, answer), requests_of([[0], [1]], *both))
    assert not set(never.written.values()) & set(STOPS) and len(never.tokens) == 6
    assert set(plain.written.values()) & set(STOPS)
    assert_same(plain, traces_of(plan(answer, answer), requests_of([[0], [1]], *both)[1:])[0])


@pytest.mark.parametrize(
    "decoder", [text for text in DECODERS if "random" not in text and not text.startswith("fixed:")]
)
def test_confidence_eos_eot_inf_writes_stop_ids_last(decoder: str) -> None:
    """They are written, with confidence 0, and only where nothing else of the block is left;
    without the option they come first.
    """
    answer = [(1, 0.4), (2, 0.5), (END, 0.9), (3, 0.45), (STOPS[1], 0.8), (4, 0.3)]
    late = GenerationConfig(
        decoder=decoder, gen_length=6, confidence_eos_eot_inf=True, early_stop=False
    )
    soon = dataclasses.replace(late, confidence_eos_eot_inf=False)
    trace, other = traces_of(plan(answer, answer), requests_of([[0], [1]], late, soon))
    order = [p for step in trace.steps for p in step.commits()]
    assert sorted(order[-2:]) == [3, 5] and trace.written == {
        1 + i: token for i, (token, _) in enumerate(answer)
    }
    assert all(
        c == 0.0
        for step in trace.steps
        for p, c in zip(step.positions, step.confidence)
        if p in (3, 5)
    )
    assert all(
        c > 0.0
        for step in trace.steps
        for p, c in zip(step.positions, step.confidence)
        if p not in (3, 5)
    )
    assert 3 in other.steps[0].commits()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [text for text in DECODERS if "random" not in text])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 2}])
def test_requests_that_treat_end_tokens_differently_do_not_mix(
    decoder: str, options: dict[str, Any]
) -> None:
    """One decoder, end tokens plain, suppressed, forbidden and both: each request as alone."""
    model = HashModel(WIDTH, MASK, 6.0, push={10: 3.0, 11: 2.0})
    ways = [
        dict(zip(("confidence_eos_eot_inf", "logits_eos_inf"), way))
        for way in itertools.product((False, True), repeat=2)
    ]
    configs = [
        GenerationConfig(
            decoder=decoder, gen_length=8, block_length=6, early_stop=False, **way, **options
        )
        for way in ways
    ]
    alone = [traces_of(model, requests_of([[1, 2]], config))[0] for config in configs]
    for order in ((2, 0, 3, 1),):
        for i, ours in zip(
            order, traces_of(model, requests_of([[1, 2]] * 4, *(configs[i] for i in order)))
        ):
            assert_same(ours, alone[i])


@pytest.mark.parametrize(
    "decoder", ["fixed", "threshold", "credit:alpha=0.0", "credit_full:alpha=0.0"]
)
def test_confidences_are_renormalised_without_forbidden_and_suppressed_ids(decoder: str) -> None:
    """Without the end tokens' share: .3 of .3 + .1, also where an end token is the top-1
    and will be written.
    """

    def half_ends(
        tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        logits = torch.full((len(read[0]), WIDTH), math.log(0.1 / (SIZE - 4)))
        logits[:, 1], logits[:, END], logits[:, STOPS[1]] = (
            math.log(0.3),
            math.log(0.25),
            math.log(0.35),
        )
        logits[read[1] == 1, STOPS[1]] = math.log(0.2)
        return logits

    options = {"decoder": decoder, "gen_length": 2, "early_stop": False}
    hushed, never = (
        traces_of(half_ends, requests_of([[0]], **options, **{name: True}))[0]
        for name in ("confidence_eos_eot_inf", "logits_eos_inf")
    )
    assert hushed.steps[0].tokens == (1, STOPS[1]) and hushed.steps[0].confidence == pytest.approx(
        [0.75, 0.0], abs=1e-5
    )
    assert never.steps[0].tokens == (1, 1) and never.steps[0].confidence == pytest.approx(
        [0.75, 0.75], abs=1e-5
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:-1],
        lambda x: torch.cat((x, x[:1])),
        lambda x: x[None],
        lambda x: x[:, 0],
        lambda x: x[:, : SIZE - 1],
        lambda x: x[:0],
    ],
    ids=("short", "long", "batched", "flat", "narrow", "none"),
)
def test_logits_of_the_wrong_shape_are_refused(change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(ModelError, match="wrong shape"):
        traces_of(spoiled(change), requests_of(PROMPTS, gen_length=4))


@pytest.mark.parametrize("value", (math.nan, math.inf))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("late", (False, True))
def test_logits_that_are_not_numbers_are_refused(
    value: float, dtype: torch.dtype, late: bool
) -> None:
    def change(x: Tensor) -> Tensor:
        x[-1, 4] = value
        return x.to(dtype)

    with pytest.raises(ModelError, match="not numbers"):
        traces_of(spoiled(change), requests_of(PROMPTS, gen_length=4, confidence_eos_eot_inf=late))


def test_logits_of_forbidden_ids_may_be_anything() -> None:
    """NaN at the mask token and at meaningless ids does no harm: nothing reads it."""

    def change(x: Tensor) -> Tensor:
        x[:, MASK], x[:, SIZE:] = math.nan, math.inf
        return x

    for ours, expected in zip(
        traces_of(spoiled(change), requests_of(PROMPTS, gen_length=6)),
        traces_of(toy(), requests_of(PROMPTS, gen_length=6)),
    ):
        assert_same(ours, expected)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_models_of_other_types_are_decoded(dtype: torch.dtype) -> None:
    for trace in traces_of(
        spoiled(lambda x: x.to(dtype)), requests_of(PROMPTS, gen_length=6, early_stop=False)
    ):
        assert len(trace.written) == 6 and all(
            0.0 < c <= 1.0 + 1e-5 for step in trace.steps for c in step.confidence
        )
