"""Requests: gaps inside a text, and what is refused before the model runs."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import (
    new_infill_request,
    new_request,
)
from creditdecoding.errors import OptionError
from creditdecoding.trace import total
from tests.helpers.oracle import PlanModel
from tests.helpers.toys import (
    DECODERS,
    END,
    FEW,
    MASK,
    SIZE,
    STOPS,
    WIDTH,
    WORDS,
    toy,
    traces_of,
)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("block_length", (1, 4, 64))
def test_infilling_writes_the_gaps_and_nothing_else(decoder: str, block_length: int) -> None:
    """Several gaps, text on both sides; blocks without a mask are skipped."""
    text = [1, 2, MASK, 3, MASK, MASK, 4, *[5] * 14, MASK, END, 6]
    gaps = [i for i, token in enumerate(text) if token == MASK]
    model = toy()
    row = new_infill_request(
        0, text, GenerationConfig(decoder=decoder, block_length=block_length), WORDS, 200
    )
    assert (
        all(any(a <= gap < b for gap in gaps) for a, b in row.blocks)
        and row.blocks[0][0] == gaps[0]
        and row.blocks[-1][1] == gaps[-1] + 1
    )
    (trace,) = traces_of(model, [row])
    assert (
        sorted(trace.written) == gaps
        and trace.finish is not None
        and trace.finish.reason == "length"
    )
    assert list(trace.finish.tokens) == [
        trace.written.get(i, token) for i, token in enumerate(text)
    ]
    assert MASK not in trace.finish.tokens and model.calls == trace.nfe <= (
        len(gaps) if not row.capabilities.can_edit else 99
    )
    order = [(step.block, position) for step in trace.steps for position in step.commits()]
    assert all(row.blocks[block][0] <= position < row.blocks[block][1] for block, position in order)
    assert [block for block, _ in order] == sorted(block for block, _ in order)


def test_an_infilled_text_ends_by_being_full() -> None:
    """Neither an end token given in the text nor a stop string cuts it, and no gap gets an end
    token.
    """
    model = PlanModel({0: {1: (END, 0.9), 3: (2, 0.5), 4: (3, 0.4)}}, WIDTH, SIZE, MASK)
    config = GenerationConfig(decoder="fixed", stop=("c", "a"))
    (trace,) = traces_of(
        model, [new_infill_request(0, [0, MASK, END, MASK, MASK, 9], config, WORDS, 99)]
    )
    assert trace.nfe == 3 and trace.finish is not None and trace.finish.reason == "length"
    assert trace.written[1] not in STOPS and trace.finish.tokens == (
        0,
        trace.written[1],
        END,
        2,
        3,
        9,
    )


def test_infilling_counts_only_what_was_filled() -> None:
    """Tokens per pass are those the model wrote, not the text around them."""
    model = PlanModel({0: {2: (1, 0.9), 4: (2, 0.5)}}, WIDTH, SIZE, MASK)
    (trace,) = traces_of(
        model,
        [
            new_infill_request(
                0, [0, 5, MASK, 5, MASK, *[6] * 40], GenerationConfig(decoder="fixed"), WORDS, 99
            )
        ],
    )
    assert trace.nfe == 2 and trace.tpf == 1.0 and total([trace]).tokens == 2


@FEW
@given(
    holes=st.lists(st.booleans(), min_size=1, max_size=24),
    block_length=st.integers(1, 30),
    decoder=st.sampled_from(DECODERS),
)
def test_any_pattern_of_gaps_is_filled(holes: list[bool], block_length: int, decoder: str) -> None:
    text = [MASK if hole else 5 for hole in holes]
    config = GenerationConfig(decoder=decoder, block_length=block_length)
    if not any(holes):
        with pytest.raises(OptionError, match="no mask"):
            new_infill_request(0, text, config, WORDS, 99)
        return
    (trace,) = traces_of(toy(), [new_infill_request(0, text, config, WORDS, 99)])
    assert sorted(trace.written) == [i for i, hole in enumerate(holes) if hole]
    assert trace.finish is not None and all(
        a == b for a, b, hole in zip(trace.finish.tokens, text, holes) if not hole
    )


def test_a_request_that_cannot_be_served_is_refused_before_the_model_runs() -> None:
    config = GenerationConfig(gen_length=8)
    with pytest.raises(OptionError, match="empty"):
        new_request(0, [], config, WORDS, 64)
    with pytest.raises(OptionError, match="do not fit"):
        new_request(0, [1] * 57, config, WORDS, 64)
    assert len(new_request(0, [1] * 56, config, WORDS, 64).canvas) == 64
    for text in ([], [1, 2, 3]):
        with pytest.raises(OptionError, match="no mask"):
            new_infill_request(0, text, config, WORDS, 64)
    with pytest.raises(OptionError, match="longer"):
        new_infill_request(0, [MASK] * 65, config, WORDS, 64)
    with pytest.raises(OptionError, match="unknown decoder"):
        new_request(0, [1], GenerationConfig(decoder="greedy", gen_length=8), WORDS, 64)


@pytest.mark.parametrize(
    "options",
    [
        {"gen_length": 0},
        {"block_length": 0},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"seed": -1},
        {"stop": ("",)},
        {"stop": ["a", ""]},
        {"gen_length": 2.5},
        {"early_stop": 1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options)).split("_")[0]):
        GenerationConfig(**options)


def test_after_a_step_only_what_it_changes_differs() -> None:
    """The same as `dataclasses.replace`."""
    request = new_request(0, [1, 2], GenerationConfig(gen_length=4), WORDS, 99)
    changes = {"step": 3, "block_index": 1, "initial_masks": 2}
    assert vars(request.after_step(**changes)) == vars(dataclasses.replace(request, **changes))
    assert request.step == 0
    assert request.pass_shape is request.pass_shape and request.pass_shape.width == 6
    assert request.after_step(prefill_end=2).pass_shape.width == 2, "of the next pass"
