"""How a request ends: end tokens, stop strings, and what of its answer is final."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from creditdecoding.decoding.advance import finalized_ids
from creditdecoding.decoding.step import denoise_step
from tests.helpers.oracle import HashModel, PlanModel
from tests.helpers.toys import (
    ALPHABET,
    CPU,
    DECODERS,
    END,
    FEW,
    MASK,
    PROMPTS,
    SIZE,
    STOPS,
    WIDTH,
    WORDS,
    outcome,
    plan,
    requests_of,
    toy,
    traces_of,
)


def test_an_end_token_ends_a_request_when_everything_before_it_is_written() -> None:
    """The end token comes first, then what lies behind it, then the two before it: four passes and
    not eight.
    """
    model = plan([(1, 0.5), (2, 0.6), (END, 0.95), (3, 0.9), *[(4, 0.2)] * 4])
    (trace,) = traces_of(model, requests_of([[0]], decoder="fixed", gen_length=8, block_length=8))
    assert trace.finish is not None and trace.finish.reason == "stop"
    assert [sorted(step.commits()) for step in trace.steps] == [[3], [4], [2], [1]]
    assert trace.tokens == (1, 2) and trace.nfe == model.calls == 4


def test_without_early_stop_every_position_is_written_and_the_answer_is_still_cut() -> None:
    model = plan([(1, 0.5), (2, 0.6), (END, 0.95), (3, 0.9), *[(4, 0.2)] * 4])
    (trace,) = traces_of(
        model, requests_of([[0]], decoder="fixed", gen_length=8, block_length=3, early_stop=False)
    )
    assert (
        trace.nfe == 8
        and trace.tokens == (1, 2)
        and trace.finish is not None
        and trace.finish.reason == "stop"
    )


def test_an_end_token_after_a_gap_does_not_stop() -> None:
    """Written but not settled: a mask lies before it. The first end token counts, not the first
    written.
    """
    model = plan([(END, 0.4), (2, 0.5), (END, 0.95)])
    (trace,) = traces_of(model, requests_of([[0]], decoder="fixed", gen_length=3))
    assert trace.nfe == 3 and trace.tokens == ()
    model = plan([(1, 0.95), (END, 0.9), (2, 0.5), (END, 0.99), (3, 0.3)])
    (trace,) = traces_of(model, requests_of([[0]], decoder="fixed", gen_length=5))
    assert [sorted(step.commits()) for step in trace.steps] == [[4], [1], [2]] and trace.tokens == (
        1,
    )


def test_an_end_token_in_the_prompt_does_not_stop() -> None:
    model = PlanModel({END: {1: (1, 0.9), 2: (2, 0.9)}}, WIDTH, SIZE, MASK)
    (trace,) = traces_of(model, requests_of([[END]], decoder="fixed", gen_length=2))
    assert trace.tokens == (1, 2) and trace.finish is not None and trace.finish.reason == "length"


@pytest.mark.parametrize(
    ("stop", "tokens"),
    [(("cd",), 4), (("d",), 4), (("xyz",), 8), (("h", "bc", "e"), 3), (("fg", "a"), 1)],
)
def test_stop_strings(stop: tuple[str, ...], tokens: int) -> None:
    """The row ends with the first token that completes one, also when it spans tokens."""
    (trace,) = traces_of(
        plan(ALPHABET), requests_of([[0]], decoder="fixed", gen_length=8, block_length=3, stop=stop)
    )
    assert trace.finish is not None
    assert trace.tokens == tuple(range(tokens)) and trace.nfe == tokens
    assert trace.finish.reason == ("length" if tokens == 8 else "stop")


def test_a_stop_string_waits_for_the_text_before_it_and_is_not_sought_after_an_end_token() -> None:
    """Written right to left: nothing is settled before the last pass. Behind an end token nothing
    counts.
    """
    (trace,) = traces_of(
        plan(list(zip(range(8), (0.2 + 0.05 * i for i in range(8))))),
        requests_of([[0]], decoder="fixed", gen_length=8, stop=("cd",)),
    )
    assert (
        trace.nfe == 8
        and trace.tokens == (0, 1, 2, 3)
        and trace.finish is not None
        and trace.finish.reason == "stop"
    )
    answer = [(0, 0.9), (END, 0.8), (2, 0.7), (3, 0.6)]
    (trace,) = traces_of(
        plan(answer),
        requests_of([[0]], decoder="fixed", gen_length=4, stop=("cd",), early_stop=False),
    )
    assert trace.nfe == 4 and trace.tokens == (0,)


@FEW
@given(
    seed=st.integers(0, 2**31),
    decoder=st.sampled_from([name for name in DECODERS if name != "edit"]),
    block_length=st.integers(1, 12),
)
def test_early_stop_only_cuts_work(seed: int, decoder: str, block_length: int) -> None:
    """The answer is the one of the full run; it ends at the first pass after which it was settled,
    which for `edit` is a block's last.
    """
    prompt = torch.randint(0, 10, (3,), generator=torch.Generator().manual_seed(seed)).tolist()
    model = HashModel(WIDTH, MASK, 6.0, push={END: 2.0})
    full, cut = (
        traces_of(
            model,
            requests_of(
                [prompt], decoder=decoder, gen_length=12, block_length=block_length, early_stop=e
            ),
        )[0]
        for e in (False, True)
    )
    assert cut.tokens == full.tokens and full.nfe >= cut.nfe
    assert outcome(cut)[:-1] == outcome(full)[: cut.nfe]
    written: dict[int, int] = {}
    for number, step in enumerate(cut.steps, 1):
        written |= step.commits()
        prefix = itertools.takewhile(
            lambda token: token is not None, (written.get(p) for p in range(3, 15))
        )
        stopped = number == cut.nfe and cut.finish is not None and cut.finish.reason == "stop"
        assert any(token in STOPS for token in prefix) == stopped


def test_final_ids_are_the_prefix_that_no_later_step_changes() -> None:
    (row,) = requests_of([[0, 1]], gen_length=5)
    assert finalized_ids(row, WORDS) == ([], False)
    masked, canvas = row.masked.clone(), row.canvas.clone()
    masked[2:4], canvas[2:4] = False, torch.tensor([7, 8])
    canvas[5], masked[5] = END, False
    assert finalized_ids(dataclasses.replace(row, masked=masked, canvas=canvas), WORDS) == (
        [7, 8],
        False,
    )
    canvas[4], masked[4] = 9, False
    assert finalized_ids(dataclasses.replace(row, masked=masked, canvas=canvas), WORDS) == (
        [7, 8, 9],
        True,
    )


def test_a_step_makes_new_requests() -> None:
    """Rows are values: the old ones still hold what they held, so a run can be repeated or
    branched.
    """
    rows = requests_of(PROMPTS, gen_length=6, block_length=3)
    kept = [(row.canvas.clone(), row.masked.clone(), row.step, row.block_index) for row in rows]
    after, _ = denoise_step(toy(), rows, WORDS, CPU)
    second, _ = denoise_step(toy(), after, WORDS, CPU)
    again, _ = denoise_step(toy(), after, WORDS, CPU)
    for row, (canvas, masked, step, span) in zip(rows, kept):
        assert (
            torch.equal(row.canvas, canvas)
            and torch.equal(row.masked, masked)
            and (row.step, row.block_index, row.state) == (step, span, None)
        )
    assert all(torch.equal(a.canvas, b.canvas) for a, b in zip(second, again))
