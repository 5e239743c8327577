"""Rivals: unsure tokens that want the same ids are not written in one pass.

Two masked positions are rivals if some id is a likely candidate of both and neither is sure: when
one of them takes it, the other has to change its mind. The covariance of "i holds v" and "j holds
v" is at most the product of their standard deviations, sqrt(p (1 - p)); the rule bounds that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from creditdecoding.decoders.base import (
    BaseDecoder,
    Block,
    Decision,
    Positions,
    Prediction,
    State,
    Sweep,
    at_least_one,
)
from creditdecoding.options import option


@dataclass(frozen=True)
class Rivals(BaseDecoder):
    """Commits every position with confidence >= threshold that has no rival among the more
    confident ones, and always the best one.
    """

    most: float = option(
        0.05, "Largest covariance bound of two tokens of one pass.", ge=0.0, le=0.25
    )
    threshold: float = option(
        0.0, "Least confidence at which a token is committed.", ge=0.0, le=1.0
    )
    candidates: int = option(4, "Likeliest ids of a position that are compared.", ge=1)

    sweep = Sweep("most", (0.01, 0.02, 0.05, 0.1, 0.15, 0.25), low_is_safe=True)

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        """Compare each position with the more confident ones."""
        tokens, confidence = prediction.choose()
        deviation, ids = _deviations(prediction, self.candidates)
        bound = _largest_shared(deviation, ids)
        passed = block.editable & (confidence >= self.threshold)
        has_rival = ((bound > self.most) & _is_better(confidence, passed)).any(-1)
        commit = at_least_one(passed & ~has_rival, confidence, block.editable)
        return Decision(tokens, commit, confidence.float()), state


def _deviations(prediction: Prediction, count: int) -> tuple[Tensor, Tensor]:
    """The likeliest ids and the standard deviations of "this position holds this id", both [rows,
    length, count], deviations first.
    """
    count = min(count, prediction.logits.shape[-1])
    ids, logits = prediction.top(count)
    probability = prediction.probabilities_of_logits(logits)
    return (probability * (1 - probability)).clamp(min=0).sqrt(), ids


def _largest_shared(deviation: Tensor, ids: Tensor) -> Tensor:
    """The largest product of two positions' deviations over the ids that both have [rows, length,
    length].
    """
    same = ids[:, :, None, :, None] == ids[:, None, :, None, :]
    product = deviation[:, :, None, :, None] * deviation[:, None, :, None, :]
    return (product * same).amax((-1, -2))


def _is_better(confidence: Tensor, passed: Positions) -> Tensor:
    """Whether the second position passed and is more confident than the first one, or as confident
    and before it [rows, length, length].
    """
    index = torch.arange(confidence.shape[1], device=confidence.device)
    first = confidence[:, :, None]
    second = confidence[:, None, :]
    is_better = (second > first) | ((second == first) & (index[None, :] < index[:, None]))
    return is_better & passed[:, None, :]
