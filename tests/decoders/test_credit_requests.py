"""Credit over whole requests: against the oracle, and nothing crosses blocks, requests or failures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create
from creditdecoding.decoders.base import Block, Decision, Prediction, State, from_logits
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.trace import FinishEvent, StepEvent
from tests.decoders.test_credit import oracle_for
from tests.helpers.oracle import HashModel, Oracle, decode_alone

CPU = torch.device("cpu")
CREDITS = ("credit", "credit_adaptive", "credit_full")


MASK, SIZE, WIDTH = 9, 10, 12
WORDS = SpecialTokens(MASK, (8,), SIZE, lambda ids: "".join(chr(97 + i) for i in ids))


def toy(scale: float = 6.0) -> HashModel:
    return HashModel(
        WIDTH, MASK, scale, push={MASK: 50.0, 11: 60.0}
    )  # the raw top-1 is forbidden everywhere


def decode(
    model: Any, prompts: list[list[int]], decoder: Any, batch_size: int = 4, **options: Any
) -> dict[int, list[StepEvent | FinishEvent]]:
    config = GenerationConfig(decoder=decoder, **options)
    rows = [new_request(i, prompt, config, WORDS, 200) for i, prompt in enumerate(prompts)]
    events: dict[int, list[StepEvent | FinishEvent]] = {row.index: [] for row in rows}
    for event in denoise(model, rows, WORDS, CPU, batch_size):
        events[event.row].append(event)
    return events


def numbers(events: list[StepEvent | FinishEvent]) -> list[Any]:
    """Events without their times and pass numbers."""
    return [
        (
            e.tokens,
            getattr(e, "positions", ()),
            getattr(e, "confidence", ()),
            getattr(e, "credit", ()),
            getattr(e, "committed", ()),
        )
        for e in events
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", CREDITS)
@pytest.mark.parametrize(("gen_length", "block_length"), [(20, 20), (20, 6), (24, 8)])
@pytest.mark.parametrize("early_stop", (False, True))
def test_whole_requests_agree_with_the_oracle(
    name: str, gen_length: int, block_length: int, early_stop: bool
) -> None:
    """Blocks, banning, stopping and all, a batch of mixed prompts: the oracle decodes each alone, a
    fresh one a block.
    """
    prompts = [[1, 2, 3], [4, 5], [6], [7, 0, 1, 2, 3]]
    events = decode(
        toy(),
        prompts,
        create(name, threshold=0.8),
        gen_length=gen_length,
        block_length=block_length,
        early_stop=early_stop,
    )
    fresh: Callable[[], Oracle] = lambda: oracle_for(name, 0.8)  # noqa: E731
    for i, prompt in enumerate(prompts):
        ids, log = decode_alone(
            toy(),
            prompt,
            gen_length,
            block_length,
            MASK,
            SIZE,
            fresh,
            WORDS.stop_ids if early_stop else (),
        )
        *steps, end = events[i]
        assert [sorted(step.commits()) for step in steps if isinstance(step, StepEvent)] == log
        assert list(end.tokens) == (ids[: ids.index(8)] if 8 in ids else ids)


@pytest.mark.parametrize("name", CREDITS)
def test_no_credit_crosses_blocks_requests_failures_or_abandoned_runs(name: str) -> None:
    """One decoder object and one list of rows, used over and over: an undisturbed run's numbers to
    the last bit.
    """
    decoder = create(name, threshold=0.85)
    prompts = [[1, 2, 3], [4, 5]]
    options = {"gen_length": 18, "block_length": 6}
    expected = {
        i: numbers(events)
        for i, events in decode(toy(), prompts, create(name, threshold=0.85), **options).items()
    }

    class Broken(HashModel):
        def __call__(
            self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
        ) -> Tensor:
            if self.calls == 3:
                raise RuntimeError("the device is gone")
            return super().__call__(tokens, read, allowed)

    config = GenerationConfig(decoder=decoder, **options)
    rows = [new_request(i, prompt, config, WORDS, 200) for i, prompt in enumerate(prompts)]

    def again() -> dict[int, list[Any]]:
        events: dict[int, list[StepEvent | FinishEvent]] = {0: [], 1: []}
        for event in denoise(toy(), rows, WORDS, CPU, 4):
            events[event.row].append(event)
        return {i: numbers(events) for i, events in events.items()}

    assert again() == expected
    half = denoise(toy(), rows, WORDS, CPU, 4)
    for _ in range(7):
        next(half)
    half.close()
    assert again() == expected
    with pytest.raises(RuntimeError, match="device"):
        list(denoise(Broken(WIDTH, MASK), rows, WORDS, CPU, 4))
    assert again() == expected
    decode(toy(), [[3, 3], [2, 2, 2]], decoder, **options)  # other requests through the same object
    assert again() == expected


@pytest.mark.parametrize("name", CREDITS)
def test_a_finished_block_drops_its_state(name: str) -> None:
    row = new_request(
        0,
        [1, 2],
        GenerationConfig(
            decoder=create(name, threshold=1.0), gen_length=6, block_length=3, early_stop=False
        ),
        WORDS,
        99,
    )
    seen = []
    while row.block_index < len(row.blocks):
        (row,), (event,) = denoise_step(toy(), [row], WORDS, CPU)
        seen.append((event.block, event.step, row.state is None))
    assert seen == [
        (0, 0, False),
        (0, 1, False),
        (0, 2, True),
        (1, 0, False),
        (1, 1, False),
        (1, 2, True),
    ]


def test_the_banned_mask_never_holds_credit() -> None:
    """Top-1 is taken after the mask token is forbidden: credit goes to a real id although the model
    prefers the mask.
    """
    row = new_request(
        0,
        [1, 2],
        GenerationConfig(decoder=create("credit", threshold=1.0), gen_length=6, block_length=6),
        WORDS,
        99,
    )
    for _ in range(4):
        (row,), (event,) = denoise_step(toy(), [row], WORDS, CPU)
        assert row.state is not None
        assert not bool(torch.isin(row.state["slot_ids"], torch.tensor([MASK + 1, 12])).any())
        assert event.credit is not None and all(c > 0 for c in event.credit)


def test_a_prediction_over_all_masks_matches_the_loops_own() -> None:
    """`from_logits` shows a decoder the same as the loop does: the oracle tests stand for the loop."""
    seen: list[Prediction] = []

    class Spy:
        def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
            return {}

        def step(
            self, prediction: Prediction, block: Block, state: State
        ) -> tuple[Decision, State]:
            seen.append(prediction)
            tokens, confidence = prediction.choose()
            return Decision(tokens, block.editable, confidence.float()), state

    decode(toy(), [[1, 2, 3]], Spy(), gen_length=5, block_length=5)
    model = toy()
    where = torch.arange(3, 8)
    logits = model(torch.tensor([[1, 2, 3, *[MASK] * 5]]), (torch.zeros_like(where), where), None)
    logits[:, MASK], logits[:, SIZE:] = -torch.inf, -torch.inf
    made = from_logits(logits[None], torch.ones(1, 5, dtype=torch.bool))
    assert (
        torch.equal(made.ids, seen[0].ids)
        and torch.equal(made.logit, seen[0].logit)
        and torch.equal(made.lse, seen[0].lse)
    )
