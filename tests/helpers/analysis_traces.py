"""Small traces made by hand, of standard decoding and of credit."""

from __future__ import annotations

from typing import Any

from creditdecoding.trace import FinishEvent, StepEvent, Trace

END = 9
Cell = tuple[int, float, bool]


def step(
    block: int,
    number: int,
    cells: dict[int, Cell],
    credit: dict[int, float] | None = None,
    top: dict[int, int] | None = None,
) -> StepEvent:
    """An event from position -> (token, confidence, committed); `top` names the model's first
    choices where they are others.
    """
    kept = None if credit is None else tuple(credit[position] for position in cells)
    first = tuple((top or {}).get(position, token) for position, (token, _, _) in cells.items())
    tokens, confidence, done = zip(*cells.values())
    return StepEvent(
        0, 0, block, number, tuple(cells), tokens, confidence, kept, done, 0.1, top=first
    )


def trace_settings(name: str, **knobs: Any) -> dict[str, Any]:
    return {
        "decoder": {"name": name, **knobs},
        "gen_length": 4,
        "block_length": 2,
        "early_stop": True,
        "stop": [],
        "temperature": 0.0,
    }


def standard_trace() -> Trace:
    """Prompt of 2; "5 6", then "7 end": one token a pass, two blocks of two."""
    steps = [
        step(0, 0, {2: (5, 0.9, True), 3: (4, 0.3, False)}),
        step(0, 1, {3: (6, 0.6, True)}),
        step(1, 0, {4: (7, 0.4, False), 5: (END, 0.8, True)}),
        step(1, 1, {4: (7, 0.7, True)}),
    ]
    return Trace(
        (1, 1),
        steps,
        FinishEvent(0, "stop", (5, 6, 7), 0.4),
        trace_settings("fixed", k=1, steps=None, order="low_confidence"),
    )


def credit_trace() -> Trace:
    """The same prompt: writes 5, then 8 where the model itself would have said 6; then all at once."""
    steps = [
        step(0, 0, {2: (5, 0.95, True), 3: (8, 0.4, False)}, {2: 1.0, 3: 0.8}),
        step(0, 1, {3: (8, 0.91, True)}, {3: 2.2}, {3: 6}),
        step(1, 0, {4: (7, 0.92, True), 5: (END, 0.97, True)}, {4: 0.9, 5: 1.0}),
    ]
    return Trace(
        (1, 1),
        steps,
        FinishEvent(0, "stop", (5, 8, 7), 0.3),
        trace_settings("credit", threshold=0.9),
    )
