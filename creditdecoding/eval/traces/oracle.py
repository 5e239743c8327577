"""The oracle: a rule that knows the answer and commits whatever the model already has right.

Nothing that ends in the same answer decodes in fewer passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders.base import Block, Decision, Prediction, State
from creditdecoding.decoding.request import Request, new_request
from creditdecoding.errors import OptionError
from creditdecoding.eval.traces.commit_timing import answer_tokens, token_timings
from creditdecoding.lm import LM
from creditdecoding.options import from_mapping
from creditdecoding.trace import Event, Trace


@dataclass(frozen=True)
class Oracle:
    """Commits every position whose top-1 is its known final token; if there is none, the known
    token that is likeliest.

    `tokens` begin at position `start` of the request; -1 is unknown. Made for one request.
    """

    start: int
    tokens: tuple[int, ...]

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No state."""
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare with the answer; without any known token the most confident one is written."""
        answer = torch.tensor(self.tokens, device=prediction.ids.device)
        index = prediction.sampling.position - self.start
        in_answer = (index >= 0) & (index < len(answer))
        target = torch.where(in_answer, answer[index.clamp(0, len(answer) - 1)], -1)
        known = block.editable & (target >= 0)
        tokens = torch.where(known, target, prediction.ids)
        confidence = prediction.confidence(tokens)
        hit = known & (prediction.ids == target)
        score = torch.where(block.editable, confidence, -1.0)
        score = torch.where(known, confidence + 2.0, score)
        best = torch.zeros_like(hit).scatter(1, score.argmax(-1, keepdim=True), True)
        commit = torch.where(hit.any(-1, keepdim=True), hit, best & block.editable)
        return Decision(tokens, commit, confidence.float()), state


def decode_with_oracle(
    lm: LM, references: Sequence[Trace], on_event: Callable[[Event], None] | None = None
) -> list[Trace]:
    """The oracle's trace to the answer of each reference trace, under that trace's settings.

    Raises `OptionError` if a trace is of another model.
    """
    requests = [_oracle_request(lm, index, trace) for index, trace in enumerate(references)]
    requests.sort(key=lambda request: len(request.canvas))
    completions = lm.collect(requests, on_event)
    traces = {request.index: done.trace for request, done in zip(requests, completions)}
    return [traces[index] for index in range(len(references))]


def _oracle_request(lm: LM, index: int, reference: Trace) -> Request:
    answer = answer_tokens(token_timings(reference))
    if not all(0 <= token < lm.vocab.size for token in (*reference.prompt, *answer.values())):
        raise OptionError(
            "the trace is of another model", hint="Name the model that made it with --model."
        )
    start = len(reference.prompt)
    tokens = tuple(answer.get(position, -1) for position in range(start, max(answer) + 1))
    options = {**reference.settings, "decoder": Oracle(start, tokens)}
    options["stop"] = tuple(options.get("stop", ()))
    answer_prefix = options.pop("begun", ())
    return new_request(
        index,
        reference.prompt,
        from_mapping(GenerationConfig, options),
        lm.vocab,
        lm.max_length,
        lm.geometry,
        answer_prefix,
    )
