"""The reward of each step of an answer, by arm, and the baseline that is subtracted.

With Q_h = Q^pi(s_h), h = 0..H the states of an answer and Q_H its verdict r, the score function of
step h (from s_{h-1} to s_h) is weighted by
    outcome      r, the verdict, for every step: one sample of Q^pi
    q            Q_h, the verifier's Q^pi: the policy gradient itself where Q^pi is exact
    effective    Q_h + alpha A^mu_h, A^mu_h = Q^BoK_h - Q^BoK_{h-1} of the step alone
                 (arXiv 2410.08146, Eq. 5)
minus a baseline, a function of s_{h-1} or of the other samples alone, which leaves the expectation
as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.pav.verifier.model import effective_reward


def rewards(
    arm: str, q: Float[Tensor, " states"], alpha: float, k: float
) -> Float[Tensor, " steps"]:
    """The reward of each step; `q` [H + 1] are Q^pi of the states, the last one the verdict."""
    if arm == "outcome":
        return q[-1].expand(len(q) - 1)
    return step_reward(arm, q[:-1], q[1:], alpha, k)


def step_reward(
    arm: str,
    before: Float[Tensor, "*steps"],
    after: Float[Tensor, "*steps"],
    alpha: float,
    k: float,
) -> Float[Tensor, "*steps"]:
    """The reward in the arms `q` and `effective`, from Q^pi of the states before and after."""
    return after if arm == "q" else effective_reward(before, after, alpha, k)


def needs_values(arm: str, baseline: str) -> bool:
    """Whether an arm with a baseline needs a verifier."""
    return arm != "outcome" or baseline == "value"


def baseline(name: str, q: Float[Tensor, " states"], others: float) -> Float[Tensor, " steps"]:
    """What is subtracted from each reward: Q^pi of the state before, the mean verdict of the
    problem's other samples, or nothing.
    """
    if name == "value":
        return q[:-1]
    return q.new_full((len(q) - 1,), others if name == "others" else 0.0)


def whiten(weights: Sequence[Float[Tensor, " steps"]]) -> list[Float[Tensor, " steps"]]:
    """The weights of several answers, shifted and scaled to mean 0 and variance 1 together."""
    flat = torch.cat(list(weights))
    flat = (flat - flat.mean()) / (flat.std(correction=0).item() or 1.0)
    return list(flat.split([len(steps) for steps in weights]))
