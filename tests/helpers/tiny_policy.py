"""A policy so small that all of its answers can be listed: three ids that may be written, left to
right, one a pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM, load_tokenizer
from creditdecoding.pav.rl.logprobs import (
    batches,
    distributions,
    scored_passes,
    token_logprobs,
    with_end,
)
from creditdecoding.pav.sampler import Cost, Rollout
from creditdecoding.pav.steps import PartialAnswer, complete
from creditdecoding.trace import FinishEvent, StepEvent

LENGTH, TEMPERATURE = 3, 1.7
WORDS = load_tokenizer("pocket")
IDS = (WORDS.encode("a")[0], WORDS.encode("b")[0], WORDS.encode(".")[0], WORDS.stop_ids[-1])
CONFIG = GenerationConfig(
    decoder="fixed", gen_length=LENGTH, block_length=1, temperature=TEMPERATURE
)
PROMPT = (WORDS.encode("go")[0],)


class Tiny(nn.Module):
    """Logits at a position: a sum over the canvas of what each id at each place says; other ids are
    never written.
    """

    def __init__(
        self, seed: int = 0, dtype: torch.dtype = torch.float64, scale: float = 1.0
    ) -> None:
        super().__init__()
        noise = torch.Generator().manual_seed(seed)
        size = len(PROMPT) + LENGTH
        self.table = nn.Parameter(
            scale
            * torch.randn(
                size, len(IDS) + 1, size, len(IDS), generator=noise, dtype=torch.float64
            ).to(dtype)
        )

    def forward(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        size = min(len(self.table), tokens.shape[1])  # of a longer prompt its end alone
        known = torch.stack([tokens[:, -size:] == i for i in IDS], dim=-1)
        known = torch.cat((known, ~known.any(-1, keepdim=True)), dim=-1).to(self.table.dtype)
        logits = torch.einsum("rli,lipv->rpv", known, self.table[:size, :, :size])[
            read[0], read[1] - tokens.shape[1] + size
        ]
        return torch.full((len(logits), WORDS.size), -torch.inf, dtype=logits.dtype).index_copy(
            1, torch.tensor(IDS), logits
        )


def tiny_lm(model: Tiny) -> LM:
    return LM(model, WORDS, max_length=64, device=torch.device("cpu"), batch_size=64)


def every_answer(lm: LM, config: GenerationConfig = CONFIG) -> list[Rollout]:
    """Each answer that can be written, with the trace of writing it."""
    whole = {
        ids[: ids.index(IDS[-1]) + 1] if IDS[-1] in ids else ids
        for ids in itertools.product(IDS, repeat=LENGTH)
    }
    return [_written(lm, ids, config) for ids in sorted(whole)]


def every_draw(lm: LM, config: GenerationConfig, threshold: float) -> list[tuple[float, Rollout]]:
    """Each way in which a threshold rule can write one block of the tiny policy, all draws told,
    with its chance.
    """
    row = lm.new_request(PROMPT, config)
    answers: list[tuple[float, Rollout]] = []

    def go(canvas: Tensor, chance: float, steps: list[StepEvent]) -> None:
        masked = (canvas == WORDS.mask_id).nonzero()[:, 0]
        if not len(masked):
            trace = lm.new_trace(row)
            ids = tuple(canvas[len(PROMPT) :].tolist())
            kept = ids[: ids.index(IDS[-1])] if IDS[-1] in ids else ids
            for event in (*steps, FinishEvent(0, "stop" if kept != ids else "length", kept, 0.0)):
                trace.add(event)
            state = complete(
                PartialAnswer(PROMPT),
                kept,
                trace.finish.reason if trace.finish else "",
                ".",
                WORDS.decode,
            )
            rollout = Rollout(with_end(state, ".", WORDS.decode), Cost(), math.nan, trace)
            answers.append((chance, rollout))
            return
        with torch.no_grad():
            logits = lm.model(canvas[None], (torch.zeros_like(masked), masked))
        sharp, p = logits.softmax(-1), (logits / config.temperature).softmax(-1)
        for draw in itertools.product(IDS, repeat=len(masked)):
            sure = [float(sharp[i, token]) for i, token in enumerate(draw)]
            keep = tuple(x >= threshold or x == max(sure) for x in sure)
            after = canvas.clone()
            after[masked[list(keep)]] = torch.tensor(draw)[list(keep)]
            step = StepEvent(
                0,
                len(steps),
                0,
                len(steps),
                tuple(masked.tolist()),
                draw,
                tuple(sure),
                None,
                keep,
                0.0,
            )
            go(
                after,
                chance * math.prod(float(p[i, token]) for i, token in enumerate(draw)),
                [*steps, step],
            )

    go(row.canvas, 1.0, [])
    return answers


def _written(lm: LM, ids: tuple[int, ...], config: GenerationConfig) -> Rollout:
    trace = lm.new_trace(lm.new_request(PROMPT, config))
    for i, token in enumerate(ids):
        trace.add(StepEvent(0, i, i, 0, (len(PROMPT) + i,), (token,), (1.0,), None, (True,), 0.0))
    kept = ids[:-1] if ids[-1] == IDS[-1] else ids
    trace.add(FinishEvent(0, "length" if kept == ids else "stop", kept, 0.0))
    state = complete(
        PartialAnswer(PROMPT), kept, trace.finish.reason if trace.finish else "", ".", WORDS.decode
    )
    state = with_end(state, ".", WORDS.decode)
    return Rollout(state, Cost(len(ids), len(ids), 0, len(kept)), math.nan, trace)


def step_logprobs(
    lm: LM,
    answers: Sequence[Rollout],
    temperature: float,
    tokens: str = "committed",
    batch_size: int = 16,
) -> list[Tensor]:
    """Log-probability of each step of each answer under `lm.model`, with gradient.

    Steps that were given with the question have 0.
    """
    sums = [torch.zeros(answer.state.depth, device=lm.device) for answer in answers]
    for batch in batches(scored_passes(lm, answers, tokens), batch_size):
        values = token_logprobs(distributions(lm.model, lm, batch, temperature), batch)
        for one, part in zip(batch, values.split([len(one.steps) for one in batch])):
            steps = torch.tensor(one.steps, device=part.device)
            sums[one.answer] = sums[one.answer].to(part.dtype).index_add(0, steps, part)
    return sums
