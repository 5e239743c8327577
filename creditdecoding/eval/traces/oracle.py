"""The oracle: a rule that is told the answer and commits whatever the model already has right, so
that nothing decodes in fewer passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.decoding.request import new_request
from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.commit_timing import token_timings
from creditdecoding.lm import LM
from creditdecoding.options import from_mapping
from creditdecoding.trace import Event, Trace


@dataclass(frozen=True)
class Oracle:
    """Commits every position whose top-1 is its known final token; if there is none, the known
    token that the model finds likeliest.

    `tokens` lie from position `start` of the row on, -1 where none is known. Made for one row.
    """

    start: int
    tokens: tuple[int, ...]

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare with the answer; where nothing is known at all, the most confident position is
        written as by any other rule.
        """
        answer = torch.tensor(self.tokens, device=prediction.ids.device)
        place = prediction.sampling.position - self.start
        inside = (place >= 0) & (place < len(answer))
        target = torch.where(inside, answer[place.clamp(0, len(answer) - 1)], -1)
        known = block.editable & (target >= 0)
        tokens = torch.where(known, target, prediction.ids)
        chance = prediction.confidence(tokens)
        hit = known & (prediction.ids == target)
        score = torch.where(known, chance + 2.0, torch.where(block.editable, chance, -1.0))
        forced = (
            torch.zeros_like(hit).scatter(1, score.argmax(-1, keepdim=True), True) & block.editable
        )
        return Decision(
            tokens, torch.where(hit.any(-1, keepdim=True), hit, forced), chance.float()
        ), state


def decode_with_oracle(
    lm: LM, references: Sequence[Trace], on_event: Callable[[Event], None] | None = None
) -> list[Trace]:
    """The oracle's trace to the answer of each reference trace, under that trace's settings. Raises
    `OptionError`.
    """
    rows = []
    for index, trace in enumerate(references):
        answer = {moment.position: moment.token for moment in token_timings(trace)}
        if any(not 0 <= token < lm.vocab.size for token in (*trace.prompt, *answer.values())):
            raise OptionError(
                "the trace is of another model", hint="Name the model that made it with --model."
            )
        start = len(trace.prompt)
        rule = Oracle(
            start, tuple(answer.get(position, -1) for position in range(start, max(answer) + 1))
        )
        known = {**trace.settings, "decoder": rule, "stop": tuple(trace.settings.get("stop", ()))}
        begun = known.pop("begun", ())
        rows.append(
            new_request(
                index,
                trace.prompt,
                from_mapping(GenerationConfig, known),
                lm.vocab,
                lm.max_length,
                lm.geometry,
                begun,
            )
        )
    rows.sort(key=lambda row: len(row.canvas))
    found = {row.index: done.trace for row, done in zip(rows, lm.collect(rows, on_event))}
    return [found[index] for index in range(len(references))]
