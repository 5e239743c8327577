"""Trajectory-aware commit gating (TACG, arXiv 2607.03236): a slow average of the logits ranks the
doubtful positions, and a streak of the same top-1 id gates them. Dense: its state is the average.

The slow average is linear in the logits, and logits are linear in the last hidden state. An engine
that sees hidden states could therefore keep the average of those, hidden_size numbers in place of
vocab, and pay one more product with the head a pass. A decoder here sees logits only, and softmax
of an average follows from no few numbers of each pass, so this one is dense.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from creditdecoding.decoders._order import best_first, best_scheduled
from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Capabilities,
    Decision,
    Positions,
    Prediction,
    Scores,
    State,
    Sweep,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Tacg(BaseDecoder):
    """Of the positions above the threshold, and a few of highest score between floor and threshold,
    commits those whose top-1 id stayed for `streak` passes or whose confidence is at least `sure`;
    if there are none, the most confident ones by LLaDA's schedule.

    With l the logits, e their slow average and g = softmax(e + (1 + guidance) (l - e)), the score
    is c + bonus * max(0, g(id) - softmax(e)(id)) for the top-1 id.
    """

    threshold: float = option(0.9, "Confidence above which a position is ready.", ge=0.0, le=1.0)
    floor: float = option(
        0.8, "Confidence above which a position may be ready by its score.", ge=0.0, le=1.0
    )
    sure: float = option(
        0.95, "Confidence from which a ready position needs no streak.", ge=0.0, le=1.0
    )
    streak: int = option(3, "Passes with the same top-1 id that open the gate.", ge=1)
    decay: float = option(0.95, "Decay a pass of the slow average of the logits.", ge=0.0, le=1.0)
    guidance: float = option(0.3, "How far to go beyond the logits, away from the average.", ge=0.0)
    bonus: float = option(0.05, "Weight of the probability gained over the average.", ge=0.0)
    extra: int = option(2, "Most positions a pass that are ready by their score.", ge=0)
    steps: int | None = option(
        None, "Steps a block of the schedule that is followed if the gate lets none pass.", ge=1
    )

    capabilities = Capabilities(dense_state=True)
    sweep = Sweep(
        "threshold",
        (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995),
        (("floor", 2.0, -1.0), ("sure", 0.5, 0.5)),
    )

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        """No pass seen. The average has width 0, which takes no memory."""
        no_id = torch.zeros(rows, length, dtype=torch.long, device=device)
        average = torch.zeros(rows, length, 0, device=device)
        return {"last_id": no_id, "streak": no_id, "average": average}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Update the average and the streaks, rank, gate."""
        tokens, confidence = prediction.choose()
        same = state["last_id"] == prediction.ids + 1
        streak = torch.where(same, state["streak"] + 1, 1)
        average, gained = self._average_and_gain(prediction, state)
        score = confidence + self.bonus * gained.clamp(min=0.0)
        ready = self._ready(confidence, score, block.editable)
        passed = ready & ((streak >= self.streak) | (confidence >= self.sure))
        fallback = best_scheduled(confidence, block, self.steps)
        commit = torch.where(passed.any(-1, keepdim=True), passed, fallback)
        after = {"last_id": prediction.ids + 1, "streak": streak, "average": average}
        return Decision(tokens, commit, score.float()), after

    def _ready(self, confidence: Scores, score: Scores, editable: Positions) -> Positions:
        """All above the threshold; and of those between floor and threshold the best by score, a
        quarter as many, at least one and at most `extra`.
        """
        above = editable & (confidence > self.threshold)
        between = editable & ~above & (confidence > self.floor)
        quarter = (above.sum(-1).clamp(min=1) + 3) // 4
        allowed = quarter.clamp(max=self.extra)[:, None]
        rank = best_first(score, between).argsort(dim=-1)
        return above | (between & (rank < allowed))

    def _average_and_gain(self, prediction: Prediction, state: State) -> tuple[Tensor, Scores]:
        """The slow average [rows, length, vocab] with this pass in it, and g(id) - softmax(e)(id)
        of the top-1 ids; a few positions at a time. The first pass of a position seeds its average.
        """
        rows, length = prediction.masked.shape
        vocab = prediction.logits.shape[1]
        average = torch.zeros(rows, length, vocab, device=prediction.logits.device)
        gained = torch.zeros_like(prediction.lse)
        for part in prediction.position_chunks():
            logits = prediction.logits[prediction.logit_row[part]].float()
            slow = self._slow(logits, state, part)
            average[part] = slow
            gained[part] = self._gain(logits, slow, prediction.ids[part])
        return average, gained

    def _gain(self, logits: Tensor, slow: Tensor, ids: Tensor) -> Tensor:
        """g(id) - softmax(e)(id) of logits and their average [n, vocab], for ids [n]."""
        guided = slow + (1 + self.guidance) * (logits - slow)
        guided = guided.masked_fill(logits.isneginf(), float("-inf"))
        gain = guided.softmax(-1) - slow.softmax(-1)
        return gain.gather(1, ids[:, None])[:, 0].nan_to_num(nan=0.0)

    def _slow(self, logits: Tensor, state: State, part: tuple[Tensor, Tensor]) -> Tensor:
        """e <- decay e + (1 - decay) l. Ids that may not be written (-inf) are left out."""
        if not state["average"].shape[-1]:  # no request has a step before
            return logits
        before = state["average"][part]
        seeded = (state["last_id"][part] != 0)[:, None] & before.isfinite()
        moved = self.decay * before + (1 - self.decay) * logits
        return torch.where(seeded, moved, logits)
