"""The loop over blocks: same answers in a batch as alone, blocks, stopping, infilling, errors, and
the counts that traces keep.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.config import GenerationConfig, ModelConfig
from creditdecoding.decoders import create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.advance import finalized_ids
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import (
    Request,
    SpecialTokens,
    new_infill_request,
    new_request,
)
from creditdecoding.decoding.step import denoise_step
from creditdecoding.errors import ModelError, OptionError
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import FinishEvent, StepEvent, Trace, total
from tests.helpers.oracle import HashModel, PlanModel

torch.set_num_threads(1)
CPU = torch.device("cpu")
FEW = settings(max_examples=12, deadline=None, database=None)

# Ids 0..9 are letters, 10 and 11 end an answer, 12 is the mask; rows 13, 14, 15 of the logits mean
# nothing.
STOPS, MASK, SIZE, WIDTH = (10, 11), 12, 13, 16
END = STOPS[0]


def letters(ids: Sequence[int]) -> str:
    return "".join("abcdefghij"[i] for i in ids if i < 10)


WORDS = SpecialTokens(MASK, STOPS, SIZE, letters)
PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 0, 1], [2, 2], [9, 8, 7, 6]]
DECODERS = [
    "fixed",
    "fixed:k=3",
    "fixed:k=2,order=random",
    "threshold:threshold=0.6",
    "credit:threshold=0.7",
    "credit_adaptive",
    "credit_full",
]
DECODERS += [
    name
    for name in names()
    if name not in {text.split(":")[0] for text in DECODERS}
    and not capabilities_of(create(name)).leave_one_out
]


def toy(scale: float = 6.0) -> HashModel:
    """A batch-exact random model whose top choice is the mask token, then an id that means nothing,
    and which seldom ends.
    """
    return HashModel(WIDTH, MASK, scale, push={MASK: 60.0, 14: 50.0, 10: -2.0, 11: -2.0})


def rows_of(
    prompts: Sequence[Sequence[int]], *configs: GenerationConfig, **options: Any
) -> list[Request]:
    """A row a prompt; `configs` in turn, or one made of `options`."""
    turn = itertools.cycle(configs or (GenerationConfig(**options),))
    return [
        new_request(i, prompt, config, WORDS, 200)
        for i, (prompt, config) in enumerate(zip(prompts, turn))
    ]


def traces_of(model: Any, rows: Iterable[Request], batch_size: int = 16) -> list[Trace]:
    """Decode, one trace a row."""
    rows = list(rows)
    found = {row.index: Trace(tuple(row.canvas[: row.answer_start].tolist())) for row in rows}
    for event in denoise(model, rows, WORDS, CPU, batch_size):
        found[event.row].add(event)
    return list(found.values())


def story(trace: Trace) -> list[Any]:
    """What a trace says, but pass numbers and times."""
    assert trace.finish is not None
    return [(s.block, s.step, s.positions, s.tokens, s.committed) for s in trace.steps] + [
        (trace.finish.reason, trace.finish.tokens)
    ]


def same(ours: Trace, theirs: Trace) -> None:
    """The same steps, tokens and answers; confidences and credit to float tolerance."""
    assert story(ours) == story(theirs)
    for a, b in zip(ours.steps, theirs.steps):
        assert a.confidence == pytest.approx(b.confidence, rel=1e-4, abs=1e-6)
        assert (a.credit is None) == (b.credit is None)
        if a.credit is not None:
            assert a.credit == pytest.approx(b.credit, rel=1e-4, abs=1e-6)


# A batch gives each row what it gets alone
# -----------------------------------------------------------------------------------

DRAWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.8, "seed": 5},
    {"temperature": 1.2, "top_k": 3},
    {"temperature": 1.0, "top_p": 0.7},
]
LAST = {"confidence_eos_eot_inf": True}


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("options", [*DRAWS, LAST, {"logits_eos_inf": True}])
def test_prompts_of_mixed_length_get_in_a_batch_what_they_get_alone(
    decoder: str, options: dict[str, Any]
) -> None:
    rows = rows_of(PROMPTS, decoder=decoder, gen_length=14, block_length=5, **options)
    together = traces_of(toy(), rows)
    for row, ours in zip(rows, together):
        same(ours, traces_of(toy(), [row])[0])


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
def test_rows_of_different_decoders_lengths_and_blocks_share_passes(
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
        same(ours, traces_of(toy(), [row])[0])
    assert max(len({r for r, _ in asked}) for asked in model.asked) <= batch_size


def tiny(seed: int = 0) -> Transformer:
    """A random network with decided predictions."""
    config = ModelConfig(
        "llada", 32, 2, 4, 2, 8, 48, WIDTH, 64, 10_000.0, 1e-5, False, True, MASK, STOPS, 15
    )
    model = Transformer(config).eval()
    init_weights(model, torch.Generator().manual_seed(seed))
    assert model.head is not None
    with torch.no_grad():
        model.head.weight.mul_(40.0)
        model.embed.weight.mul_(50.0)
    return model


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "seed": 3}])
@pytest.mark.parametrize(
    "decoder",
    ["fixed", "threshold:threshold=0.7", "credit:threshold=0.8", "credit_full:threshold=0.8"],
)
def test_a_transformer_gives_each_row_of_a_batch_what_it_gets_alone(
    decoder: str, options: dict[str, Any]
) -> None:
    """Padding is hidden by `allowed`: same tokens, confidences to float tolerance."""
    rows = rows_of(PROMPTS, decoder=decoder, gen_length=12, block_length=5, **options)
    for row, ours in zip(rows, traces_of(tiny(), rows)):
        same(ours, traces_of(tiny(), [row])[0])


def test_the_seed_decides_what_is_drawn() -> None:
    options = {"decoder": "threshold", "gen_length": 20, "temperature": 1.0}
    answers = [
        traces_of(toy(), rows_of([[1, 2, 3]], seed=seed, **options))[0].tokens
        for seed in (0, 0, 1, 2**62)
    ]
    assert answers[0] == answers[1] and len(set(answers)) == 3


@pytest.mark.parametrize("block_length", (1, 8, 64))
def test_draws_differ_between_positions_blocks_and_steps(block_length: int) -> None:
    """A model that knows nothing: each position, whatever its block, is drawn anew at every step."""

    def blank(tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        return torch.zeros(len(read[0]), WIDTH)

    options = {
        "gen_length": 64,
        "block_length": block_length,
        "temperature": 1.0,
        "early_stop": False,
    }
    (trace,) = traces_of(blank, rows_of([[0]], decoder="fixed", **options))
    written = [trace.written[p] for p in range(1, 65)]
    assert set(written) == set(range(SIZE)) - {MASK}
    assert max(sum(a == b for a, b in zip(written, written[shift:])) for shift in (1, 2, 8)) < 20
    if block_length == 64:
        last = [
            dict(zip(step.positions, step.tokens))[trace.steps[-1].positions[0]]
            for step in trace.steps
        ]
        assert len(set(last)) > 6 and sum(a == b for a, b in itertools.pairwise(last)) < 20


# Blocks
# --------------------------------------------------------------------------------------------------------------------


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
        rows_of(
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
            rows_of(
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


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("temperature", (0.0, 1.5))
def test_neither_the_mask_nor_a_meaningless_id_is_written(decoder: str, temperature: float) -> None:
    """Although the model prefers them at every position."""
    for model in (toy(), toy(scale=0.0), tiny()):
        for trace in traces_of(
            model,
            rows_of(
                PROMPTS,
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
    (trace,) = traces_of(toy(), rows_of([[1, MASK, 3]], gen_length=6, early_stop=False))
    assert trace.prompt == (1, MASK, 3) and sorted(trace.written) == list(range(3, 9))


# The model is asked for what is needed, and counted
# ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", (1, 2, 5))
def test_the_model_is_asked_only_for_masked_positions_of_current_blocks(batch_size: int) -> None:
    """`read` of each pass is exactly what the events of that pass list, row by row."""
    model = toy()
    events: dict[int, list[StepEvent]] = {}
    rows = rows_of(
        PROMPTS,
        *(
            GenerationConfig(decoder=d, gen_length=11, block_length=4)
            for d in ("credit", "fixed:k=2", "threshold")
        ),
    )
    for event in denoise(model, rows, WORDS, CPU, batch_size):
        if isinstance(event, StepEvent):
            events.setdefault(event.forward, []).append(event)
    assert len(model.asked) == len(events) == model.calls
    for forward, asked in enumerate(model.asked):
        assert asked == [
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

    traces_of(spy, rows_of([[1, 2], [3, 4]], gen_length=4))
    assert all(allowed is None for _, allowed in seen)
    seen.clear()
    first, second = traces_of(
        spy, rows_of([[1, 2], [3, 4, 5, 6]], gen_length=4, decoder="fixed", early_stop=False)
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


@pytest.mark.parametrize("batch_size", (1, 2, 3, 16))
@pytest.mark.parametrize("decoder", ["fixed", "threshold:threshold=0.5", "credit:threshold=0.5"])
def test_traces_count_what_the_model_did(decoder: str, batch_size: int) -> None:
    model = toy()
    traces = traces_of(
        model, rows_of(PROMPTS, decoder=decoder, gen_length=10, block_length=4), batch_size
    )
    totals = total(traces)
    assert totals.requests == len(PROMPTS)
    assert totals.forwards == model.calls and totals.sequence_forwards == model.rows == sum(
        trace.nfe for trace in traces
    )
    assert totals.tokens == sum(
        len(trace.tokens) for trace in traces
    ) and totals.nfe == model.rows / len(PROMPTS)
    assert totals.tpf == pytest.approx(totals.tokens / model.rows)
    assert totals.seconds == max(trace.finish.seconds for trace in traces if trace.finish)
    for trace in traces:
        assert trace.tpf == len(trace.tokens) / trace.nfe
        answer = [
            trace.written[p]
            for p in range(len(trace.prompt), len(trace.prompt) + len(trace.tokens))
        ]
        assert list(trace.tokens) == answer and not set(answer) & set(STOPS)
        times = [step.seconds for step in trace.steps]
        assert (
            times == sorted(times)
            and trace.finish is not None
            and trace.finish.seconds >= times[-1]
        )
        passes = [step.forward for step in trace.steps]
        assert passes == list(
            range(passes[0], passes[0] + len(passes))
        )  # once admitted, a row takes part in every pass


def test_sums_over_nothing() -> None:
    assert total([]) == dataclasses.replace(
        total([]), requests=0, forwards=0, sequence_forwards=0, tokens=0, seconds=0.0
    )
    assert (
        total([]).nfe == total([]).tpf == Trace(()).tpf == Trace(()).seconds == 0.0
        and Trace(()).tokens == ()
    )


# Stopping
# ------------------------------------------------------------------------------------------------------------------


def plan(*answers: Sequence[tuple[int, float]]) -> PlanModel:
    """A model whose row i, with the prompt [i], predicts `answers[i]` as (token, probability) at
    the columns after it.
    """
    return PlanModel(
        {i: {1 + at: pair for at, pair in enumerate(answer)} for i, answer in enumerate(answers)},
        WIDTH,
        SIZE,
        MASK,
    )


def test_an_end_token_ends_a_row_as_soon_as_everything_before_it_is_written() -> None:
    """The end token comes first, then what lies behind it, then the two before it: four passes and
    not eight.
    """
    model = plan([(1, 0.5), (2, 0.6), (END, 0.95), (3, 0.9), *[(4, 0.2)] * 4])
    (trace,) = traces_of(model, rows_of([[0]], decoder="fixed", gen_length=8, block_length=8))
    assert trace.finish is not None and trace.finish.reason == "stop"
    assert [sorted(step.commits()) for step in trace.steps] == [[3], [4], [2], [1]]
    assert trace.tokens == (1, 2) and trace.nfe == model.calls == 4


def test_without_early_stop_every_position_is_written_and_the_answer_is_still_cut() -> None:
    model = plan([(1, 0.5), (2, 0.6), (END, 0.95), (3, 0.9), *[(4, 0.2)] * 4])
    (trace,) = traces_of(
        model, rows_of([[0]], decoder="fixed", gen_length=8, block_length=3, early_stop=False)
    )
    assert (
        trace.nfe == 8
        and trace.tokens == (1, 2)
        and trace.finish is not None
        and trace.finish.reason == "stop"
    )


def test_an_end_token_behind_a_gap_does_not_stop() -> None:
    """Written but not settled: a mask lies before it. The first end token counts, not the first
    written.
    """
    model = plan([(END, 0.4), (2, 0.5), (END, 0.95)])
    (trace,) = traces_of(model, rows_of([[0]], decoder="fixed", gen_length=3))
    assert trace.nfe == 3 and trace.tokens == ()
    model = plan([(1, 0.95), (END, 0.9), (2, 0.5), (END, 0.99), (3, 0.3)])
    (trace,) = traces_of(model, rows_of([[0]], decoder="fixed", gen_length=5))
    assert [sorted(step.commits()) for step in trace.steps] == [[4], [1], [2]] and trace.tokens == (
        1,
    )


def test_an_end_token_in_the_prompt_does_not_stop() -> None:
    model = PlanModel({END: {1: (1, 0.9), 2: (2, 0.9)}}, WIDTH, SIZE, MASK)
    (trace,) = traces_of(model, rows_of([[END]], decoder="fixed", gen_length=2))
    assert trace.tokens == (1, 2) and trace.finish is not None and trace.finish.reason == "length"


def test_a_row_that_ends_frees_its_place_for_the_next_one() -> None:
    """Two places, four requests: the third joins in the pass after the first one's last."""
    short, long = [(END, 0.9), *[(1, 0.5)] * 5], [(1, 0.9 - 0.1 * i) for i in range(6)]
    model = plan(short, long, long, short)
    traces = traces_of(
        model, rows_of([[0], [1], [2], [3]], decoder="fixed", gen_length=6), batch_size=2
    )
    assert [[step.forward for step in trace.steps] for trace in traces] == [
        [0],
        list(range(6)),
        list(range(1, 7)),
        [6],
    ]
    assert model.calls == 7 and model.rows == 14


def test_rows_are_taken_only_when_there_is_a_place() -> None:
    """`rows` may be a generator: nothing is started ahead of its turn."""
    taken: list[int] = []

    def source() -> Iterable[Request]:
        for row in rows_of([[0], [1], [2]], decoder="fixed", gen_length=2):
            taken.append(row.index)
            yield row

    seen = [
        (event.row, len(taken))
        for event in denoise(plan(*[[(1, 0.9), (2, 0.8)]] * 3), source(), WORDS, CPU, 1)
    ]
    assert seen == [(i, i + 1) for i in range(3) for _ in range(3)]
    assert list(denoise(toy(), [], WORDS, CPU)) == []


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
    never, plain = traces_of(plan(answer, answer), rows_of([[0], [1]], *both))
    assert not set(never.written.values()) & set(STOPS) and len(never.tokens) == 6
    assert set(plain.written.values()) & set(STOPS)
    same(plain, traces_of(plan(answer, answer), rows_of([[0], [1]], *both)[1:])[0])


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
    trace, other = traces_of(plan(answer, answer), rows_of([[0], [1]], late, soon))
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


@pytest.mark.parametrize("decoder", [text for text in DECODERS if "random" not in text])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 2}])
def test_rows_that_treat_end_tokens_differently_do_not_mix(
    decoder: str, options: dict[str, Any]
) -> None:
    """One decoder, end tokens plain, hushed, forbidden and both, in any order: each row as alone."""
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
    alone = [traces_of(model, rows_of([[1, 2]], config))[0] for config in configs]
    for order in ((0, 1, 2, 3), (3, 2, 1, 0)):
        for i, ours in zip(
            order, traces_of(model, rows_of([[1, 2]] * 4, *(configs[i] for i in order)))
        ):
            same(ours, alone[i])


@pytest.mark.parametrize(
    "decoder", ["fixed", "threshold", "credit:alpha=0.0", "credit_full:alpha=0.0"]
)
def test_confidences_beside_forbidden_and_hushed_ids_are_renormalised(decoder: str) -> None:
    """Without the end tokens' share: .3 of .3 + .1, also where an end token is the likeliest and is
    what will be written.
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
        traces_of(half_ends, rows_of([[0]], **options, **{name: True}))[0]
        for name in ("confidence_eos_eot_inf", "logits_eos_inf")
    )
    assert hushed.steps[0].tokens == (1, STOPS[1]) and hushed.steps[0].confidence == pytest.approx(
        [0.75, 0.0], abs=1e-5
    )
    assert never.steps[0].tokens == (1, 1) and never.steps[0].confidence == pytest.approx(
        [0.75, 0.75], abs=1e-5
    )


# a b c d e f g h, sure from left to right
ALPHABET = [(i, 0.9 - 0.05 * i) for i in range(8)]


@pytest.mark.parametrize(
    ("stop", "tokens"),
    [(("cd",), 4), (("d",), 4), (("xyz",), 8), (("h", "bc", "e"), 3), (("fg", "a"), 1)],
)
def test_stop_strings(stop: tuple[str, ...], tokens: int) -> None:
    """The row ends with the first token that completes one, also when it spans tokens."""
    (trace,) = traces_of(
        plan(ALPHABET), rows_of([[0]], decoder="fixed", gen_length=8, block_length=3, stop=stop)
    )
    assert trace.finish is not None
    assert trace.tokens == tuple(range(tokens)) and trace.nfe == tokens
    assert trace.finish.reason == ("length" if tokens == 8 else "stop")


def test_a_stop_string_waits_for_what_lies_before_it_and_ignores_what_lies_behind_an_end() -> None:
    """Written right to left: nothing is settled before the last pass. Behind an end token nothing
    counts.
    """
    (trace,) = traces_of(
        plan(list(zip(range(8), (0.2 + 0.05 * i for i in range(8))))),
        rows_of([[0]], decoder="fixed", gen_length=8, stop=("cd",)),
    )
    assert (
        trace.nfe == 8
        and trace.tokens == (0, 1, 2, 3)
        and trace.finish is not None
        and trace.finish.reason == "stop"
    )
    answer = [(0, 0.9), (END, 0.8), (2, 0.7), (3, 0.6)]
    (trace,) = traces_of(
        plan(answer), rows_of([[0]], decoder="fixed", gen_length=4, stop=("cd",), early_stop=False)
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
            rows_of(
                [prompt], decoder=decoder, gen_length=12, block_length=block_length, early_stop=e
            ),
        )[0]
        for e in (False, True)
    )
    assert cut.tokens == full.tokens and full.nfe >= cut.nfe
    assert story(cut)[:-1] == story(full)[: cut.nfe]
    written: dict[int, int] = {}
    for number, step in enumerate(cut.steps, 1):
        written |= step.commits()
        prefix = itertools.takewhile(
            lambda token: token is not None, (written.get(p) for p in range(3, 15))
        )
        stopped = number == cut.nfe and cut.finish is not None and cut.finish.reason == "stop"
        assert any(token in STOPS for token in prefix) == stopped


def test_settled_is_the_prefix_that_no_later_step_changes() -> None:
    (row,) = rows_of([[0, 1]], gen_length=5)
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


# Infilling
# -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("block_length", (1, 3, 4, 64))
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


def test_infilling_shares_passes_with_answers() -> None:
    fill = new_infill_request(
        0, [3, MASK, MASK, 1, 1, 1, MASK, 2], GenerationConfig(block_length=2), WORDS, 99
    )
    answer = new_request(1, [1, 2], GenerationConfig(gen_length=9, block_length=5), WORDS, 99)
    for row, ours in zip((fill, answer), traces_of(toy(), [fill, answer])):
        same(ours, traces_of(toy(), [row])[0])


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


# Refusals
# ------------------------------------------------------------------------------------------------------------------


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
        {"stop": "text"},
        {"gen_length": 2.5},
        {"early_stop": 1},
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options)).split("_")[0]):
        GenerationConfig(**options)


def spoiled(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    model = toy()
    return lambda tokens, read, allowed=None: change(model(tokens, read, allowed))


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
        traces_of(spoiled(change), rows_of(PROMPTS, gen_length=4))


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
        traces_of(spoiled(change), rows_of(PROMPTS, gen_length=4, confidence_eos_eot_inf=late))


def test_what_is_forbidden_may_be_anything() -> None:
    """NaN at the mask token and at meaningless ids does no harm: nothing reads it."""

    def change(x: Tensor) -> Tensor:
        x[:, MASK], x[:, SIZE:] = math.nan, math.inf
        return x

    for ours, theirs in zip(
        traces_of(spoiled(change), rows_of(PROMPTS, gen_length=6)),
        traces_of(toy(), rows_of(PROMPTS, gen_length=6)),
    ):
        same(ours, theirs)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16, torch.float64))
def test_models_of_other_types_are_decoded(dtype: torch.dtype) -> None:
    for trace in traces_of(
        spoiled(lambda x: x.to(dtype)), rows_of(PROMPTS, gen_length=6, early_stop=False)
    ):
        assert len(trace.written) == 6 and all(
            0.0 < c <= 1.0 + 1e-5 for step in trace.steps for c in step.confidence
        )


def test_a_step_makes_new_rows() -> None:
    """Rows are values: the old ones still hold what they held, so a run can be repeated or
    branched.
    """
    rows = rows_of(PROMPTS, gen_length=6, block_length=3)
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


# Traces on disk, and times
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["credit", "fixed"])
@pytest.mark.parametrize("finished", (True, False))
def test_a_trace_survives_saving(decoder: str, finished: bool, tmp_path: Path) -> None:
    (trace,) = traces_of(toy(), rows_of([[1, 2, 3]], decoder=decoder, gen_length=9, block_length=4))
    trace.settings = {"decoder": {"name": decoder, "threshold": 0.9}, "seed": 3, "top_k": None}
    assert trace.finish is not None
    trace.finish = dataclasses.replace(trace.finish, seconds=2.5, began=0.25) if finished else None
    path = tmp_path / "trace.jsonl"
    trace.save(path)
    loaded = Trace.load(path)
    assert loaded == trace
    assert (loaded.nfe, loaded.tokens, loaded.tpf, loaded.seconds, loaded.written) == (
        trace.nfe,
        trace.tokens,
        trace.tpf,
        trace.seconds,
        trace.written,
    )
    assert len(path.read_text().splitlines()) == 1 + trace.nfe + finished


HEAD = '{"kind": "trace", "prompt": [1], "settings": {}}\n'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"kind": "trace"}',
        b"\xff\xfe\x00",
        *(HEAD.encode() + x for x in (b"{}", b'{"kind": "step"}', b"[1]", b"5", b"null")),
    ],
)
def test_another_file_is_no_trace(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(OptionError, match="not a trace file"):
        Trace.load(path)
    with pytest.raises(OptionError, match="not a trace file"):
        Trace.load(tmp_path / "absent")


class Letters:
    """A stand-in for a tokenizer's backend: ids are letters."""

    chat_template = None

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return ["abcdefghij".index(letter) for letter in text]

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return letters(ids)


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
        found = lm.generate(["a", "b"], decoder="fixed", gen_length=4, raw=True)
    finally:
        clock.undo()
    assert [answer.text for answer in found] == ["abcd", "abcd"]
    assert [answer.trace.seconds for answer in found] == pytest.approx([0.04, 0.04])


def test_an_lms_trace_survives_saving(tmp_path: Path) -> None:
    """With the settings that the library itself writes into it."""
    lm = LM(plan(ALPHABET), Tokenizer(Letters(), MASK, STOPS, SIZE), max_length=99, device=CPU)
    trace = lm.generate("a", raw=True, decoder="fixed", gen_length=8, stop=("cd",)).trace
    trace.save(tmp_path / "t")
    assert Trace.load(tmp_path / "t") == trace
    assert isinstance(trace.finish, FinishEvent) and trace.tokens == (0, 1, 2, 3)
