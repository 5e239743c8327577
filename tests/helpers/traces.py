"""Traces made by hand, with a vocabulary of seven tokens."""

from __future__ import annotations

from creditdecoding.trace import FinishEvent, StepEvent, Trace

MARKUP = "</script><img src=x>"
PIECES = ["The", " cat", " sat", ".", "\n", MARKUP, "<|end|>"]
END = 6


def piece(token: int) -> str:
    return PIECES[token]


def step(
    forward: int,
    block: int,
    number: int,
    start: int,
    tokens: list[int],
    confidence: list[float],
    done: list[int],
    credit: float | None,
) -> StepEvent:
    """An event for the positions from `start` on. `done` are indices of those committed; a token
    below 0 stands for a position that is not masked any more.
    """
    kept = [i for i, token in enumerate(tokens) if token >= 0]
    return StepEvent(
        row=0,
        forward=forward,
        block=block,
        step=number,
        positions=tuple(start + i for i in kept),
        tokens=tuple(tokens[i] for i in kept),
        confidence=tuple(confidence[i] for i in kept),
        credit=None if credit is None else tuple(credit + i for i in kept),
        committed=tuple(i in done for i in kept),
        seconds=0.1 * (forward + 1),
    )


def two_block_trace(credit: float | None = 0.5, prompt: tuple[int, ...] = (9, 9, 9)) -> Trace:
    """Two blocks of three: "The cat sat" + ". <end> <end>" in four passes, decoded out of order."""
    start = len(prompt)
    steps = [
        step(0, 0, 0, start, [0, 3, 2], [0.95, 0.3, 0.91], [0, 2], credit),
        step(1, 0, 1, start, [-1, 1, -1], [0, 0.8, 0], [1], credit),
        step(2, 1, 0, start + 3, [4, 6, 6], [0.2, 0.99, 0.5], [1], credit),
        step(3, 1, 1, start + 3, [3, -1, 6], [0.9, 0, 0.9], [0, 2], credit),
    ]
    settings = {"decoder": {"name": "credit" if credit else "threshold"}, "gen_length": 9}
    return Trace(prompt, steps, FinishEvent(0, "stop", (0, 1, 2, 3), 0.4), settings=settings)


def infilled_trace() -> Trace:
    """Two masks of a text of five tokens, filled in two passes."""
    steps = [StepEvent(0, 0, 0, 0, (1, 4), (1, 5), (0.7, 0.9), None, (False, True), 0.1)]
    steps.append(StepEvent(0, 1, 0, 1, (1,), (1,), (0.8,), None, (True,), 0.2))
    return Trace(
        (), steps, FinishEvent(0, "length", (0, 1, 2, 3, 5), 0.2), settings={"gen_length": 128}
    )
