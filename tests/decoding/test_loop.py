"""The loop over requests: the same answers in a batch as alone, blocks from left to right, and
places that become free.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import (
    Request,
    new_infill_request,
    new_request,
)
from creditdecoding.lm import LM
from creditdecoding.text.tokenizer import Tokenizer
from tests.helpers.toys import (
    ALPHABET,
    CPU,
    DECODERS,
    DRAWS,
    END,
    FEW,
    LAST,
    MASK,
    PROMPTS,
    SIZE,
    STOPS,
    WIDTH,
    WORDS,
    Letters,
    assert_same,
    plan,
    requests_of,
    tiny,
    toy,
    traces_of,
)


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("options", [DRAWS[0], DRAWS[-1], LAST, {"logits_eos_inf": True}])
def test_prompts_of_mixed_length_get_in_a_batch_what_they_get_alone(
    decoder: str, options: dict[str, Any]
) -> None:
    rows = requests_of(PROMPTS[:3], decoder=decoder, gen_length=14, block_length=5, **options)
    together = traces_of(toy(), rows)
    for row, ours in zip(rows, together):
        assert_same(ours, traces_of(toy(), [row])[0])


@FEW
@given(
    seed=st.integers(0, 2**31),
    batch_size=st.integers(1, 6),
    picks=st.lists(
        st.tuples(
            st.sampled_from(DECODERS),
            st.sampled_from([*DRAWS, LAST]),
            st.integers(1, 13),
            st.integers(1, 9),
            st.booleans(),
        ),
        min_size=2,
        max_size=6,
    ),
)
def test_requests_of_different_decoders_lengths_and_blocks_share_passes(
    seed: int, batch_size: int, picks: list[tuple[Any, ...]]
) -> None:
    """Whatever the neighbours, the order of admission and the widths of the other blocks."""
    noise = torch.Generator().manual_seed(seed)
    rows = []
    for i, (decoder, options, gen_length, block_length, early_stop) in enumerate(picks):
        prompt = torch.randint(
            0, 10, (int(torch.randint(1, 9, (1,), generator=noise)),), generator=noise
        ).tolist()
        config = GenerationConfig(
            decoder=decoder,
            gen_length=gen_length,
            block_length=block_length,
            early_stop=early_stop,
            **options,
        )
        rows.append(new_request(i, prompt, config, WORDS, 200))
    model = toy()
    for row, ours in zip(rows, traces_of(model, rows, batch_size)):
        assert_same(ours, traces_of(toy(), [row])[0])
    assert max(len({r for r, _ in read}) for read in model.reads) <= batch_size


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "seed": 3}])
@pytest.mark.parametrize(
    "decoder",
    ["fixed", "threshold:threshold=0.7", "credit:threshold=0.8", "credit_full:threshold=0.8"],
)
def test_a_transformer_gives_each_request_of_a_batch_what_it_gets_alone(
    decoder: str, options: dict[str, Any]
) -> None:
    """Padding is hidden by `allowed`: same tokens, confidences to float tolerance."""
    rows = requests_of(PROMPTS, decoder=decoder, gen_length=12, block_length=5, **options)
    for row, ours in zip(rows, traces_of(tiny(), rows)):
        assert_same(ours, traces_of(tiny(), [row])[0])


def test_the_seed_decides_what_is_drawn() -> None:
    options = {"decoder": "threshold", "gen_length": 20, "temperature": 1.0}
    answers = [
        traces_of(toy(), requests_of([[1, 2, 3]], seed=seed, **options))[0].tokens
        for seed in (0, 0, 1, 2**62)
    ]
    assert answers[0] == answers[1] and len(set(answers)) == 3


@pytest.mark.parametrize("block_length", (1, 8, 64))
def test_draws_differ_between_positions_blocks_and_steps(block_length: int) -> None:
    """A model that knows nothing: each position, in any block, is drawn again at every step."""

    def blank(tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        return torch.zeros(len(read[0]), WIDTH)

    options = {
        "gen_length": 64,
        "block_length": block_length,
        "temperature": 1.0,
        "early_stop": False,
    }
    (trace,) = traces_of(blank, requests_of([[0]], decoder="fixed", **options))
    written = [trace.written[p] for p in range(1, 65)]
    assert set(written) == set(range(SIZE)) - {MASK}
    assert max(sum(a == b for a, b in zip(written, written[shift:])) for shift in (1, 2, 8)) < 20
    if block_length == 64:
        last = [
            dict(zip(step.positions, step.tokens))[trace.steps[-1].positions[0]]
            for step in trace.steps
        ]
        assert len(set(last)) > 6 and sum(a == b for a, b in itertools.pairwise(last)) < 20


@pytest.mark.parametrize(
    ("gen_length", "block_length"), [(12, 4), (10, 4), (5, 32), (1, 1), (7, 1), (9, 8)]
)
@pytest.mark.parametrize("decoder", ["fixed", "threshold", "credit"])
def test_blocks_go_left_to_right_and_cover_the_answer(
    decoder: str, gen_length: int, block_length: int
) -> None:
    """Also when block_length does not divide gen_length, or exceeds it; each position is written
    once and by its block.
    """
    prompt = [1, 2, 3]
    (trace,) = traces_of(
        toy(),
        requests_of(
            [prompt],
            decoder=decoder,
            gen_length=gen_length,
            block_length=block_length,
            early_stop=False,
        ),
    )
    written = [(step.block, position) for step in trace.steps for position in step.commits()]
    assert sorted(position for _, position in written) == list(range(3, 3 + gen_length))
    assert [block for block, _ in written] == sorted((p - 3) // block_length for _, p in written)
    assert all(block == (position - 3) // block_length for block, position in written)
    for block, steps in itertools.groupby(trace.steps, key=lambda step: step.block):
        left = set(
            range(3 + block * block_length, min(3 + (block + 1) * block_length, 3 + gen_length))
        )
        for number, step in enumerate(steps):
            assert step.step == number and set(step.positions) == left
            left -= set(step.commits())
        assert not left


@pytest.mark.parametrize(
    ("k", "gen_length", "block_length", "passes"),
    [(1, 12, 4, 12), (1, 11, 4, 11), (2, 12, 4, 6), (2, 12, 32, 6), (2, 10, 5, 6), (4, 12, 4, 3)],
)
def test_fixed_takes_exactly_its_passes(
    k: int, gen_length: int, block_length: int, passes: int
) -> None:
    """k = 1: as many as tokens; k = 2: half of them where k divides the block, rounded up in each
    block elsewhere.
    """
    for model in (toy(), tiny()):
        for trace in traces_of(
            model,
            requests_of(
                PROMPTS,
                decoder=f"fixed:k={k}",
                gen_length=gen_length,
                block_length=block_length,
                early_stop=False,
            ),
        ):
            assert trace.nfe == passes and len(trace.written) == gen_length
            assert (
                len(trace.tokens) == gen_length
                or trace.written[len(trace.prompt) + len(trace.tokens)] in STOPS
            )


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("temperature", (0.0, 1.5))
def test_neither_the_mask_nor_a_meaningless_id_is_written(decoder: str, temperature: float) -> None:
    """Although the model prefers them at every position."""
    for model in (toy(), toy(scale=0.0), tiny()):
        for trace in traces_of(
            model,
            requests_of(
                PROMPTS[:2],
                decoder=decoder,
                gen_length=9,
                block_length=4,
                temperature=temperature,
                early_stop=False,
            ),
        ):
            assert set(trace.written.values()) <= set(range(SIZE)) - {MASK}
            assert all(set(step.tokens) <= set(range(SIZE)) - {MASK} for step in trace.steps)


def test_a_mask_in_the_prompt_is_text() -> None:
    """Only what is appended is filled."""
    (trace,) = traces_of(toy(), requests_of([[1, MASK, 3]], gen_length=6, early_stop=False))
    assert trace.prompt == (1, MASK, 3) and sorted(trace.written) == list(range(3, 9))


def test_a_request_that_ends_frees_its_place_for_the_next_one() -> None:
    """Two places, four requests: the third joins in the pass after the first one's last."""
    short, long = [(END, 0.9), *[(1, 0.5)] * 5], [(1, 0.9 - 0.1 * i) for i in range(6)]
    model = plan(short, long, long, short)
    traces = traces_of(
        model, requests_of([[0], [1], [2], [3]], decoder="fixed", gen_length=6), batch_size=2
    )
    assert [[step.forward for step in trace.steps] for trace in traces] == [
        [0],
        list(range(6)),
        list(range(1, 7)),
        [6],
    ]
    assert model.calls == 7 and model.rows == 14


def test_requests_are_taken_only_when_there_is_a_place() -> None:
    """`rows` may be a generator: nothing is started ahead of its turn."""
    taken: list[int] = []

    def source() -> Iterable[Request]:
        for row in requests_of([[0], [1], [2]], decoder="fixed", gen_length=2):
            taken.append(row.index)
            yield row

    seen = [
        (event.row, len(taken))
        for event in denoise(plan(*[[(1, 0.9), (2, 0.8)]] * 3), source(), WORDS, CPU, 1)
    ]
    assert seen == [(i, i + 1) for i in range(3) for _ in range(3)]
    assert list(denoise(toy(), [], WORDS, CPU)) == []


def test_a_requests_seconds_run_from_joining_the_batch_to_its_end() -> None:
    """One place, two requests of four passes of 10 ms: each took its own 40 ms, no less, and not
    its neighbour's as well.
    """
    model, now = plan(ALPHABET, ALPHABET), [0.0]
    clock = pytest.MonkeyPatch()
    clock.setattr("creditdecoding.decoding.loop.time.perf_counter", lambda: now[0])

    def slow(tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        now[0] += 0.01
        return model(tokens, read, allowed)

    lm = LM(slow, Tokenizer(Letters(), MASK, STOPS, SIZE), max_length=99, device=CPU, batch_size=1)
    try:
        answers = lm.generate(["a", "b"], decoder="fixed", gen_length=4, raw=True)
    finally:
        clock.undo()
    assert [answer.text for answer in answers] == ["abcd", "abcd"]
    assert [answer.trace.seconds for answer in answers] == pytest.approx([0.04, 0.04])


def test_infilling_shares_passes_with_answers() -> None:
    fill = new_infill_request(
        0, [3, MASK, MASK, 1, 1, 1, MASK, 2], GenerationConfig(block_length=2), WORDS, 99
    )
    answer = new_request(1, [1, 2], GenerationConfig(gen_length=9, block_length=5), WORDS, 99)
    for row, ours in zip((fill, answer), traces_of(toy(), [fill, answer])):
        assert_same(ours, traces_of(toy(), [row])[0])
