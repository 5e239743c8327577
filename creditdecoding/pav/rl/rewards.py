"""What a step of an answer is rewarded with, by arm, and the baseline that is taken off.

With Q_h = Q^pi(s_h), h = 0..H the states of an answer and Q_H its verdict r, the score function of
step h (from s_{h-1} to s_h) is weighed by
    outcome      r, the verdict, for every step: one sample of Q^pi
    q            Q_h, the verifier's Q^pi: the policy gradient itself where Q^pi is exact
    effective    Q_h + alpha A^mu_h, A^mu_h = Q^BoK_h - Q^BoK_{h-1} of the step alone (arXiv
    2410.08146, Eq. 5)
    telescoped   r + alpha (A^mu_h + ... + A^mu_H): the trap. The sum is r - Q^BoK_{h-1}, and what
    depends on s_{h-1} alone is a baseline,
                 so its gradient is that of `outcome` times 1 + alpha
each less a baseline, a function of s_{h-1} or of the other samples alone, which leaves the
expectation as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.pav.verifier.model import advantage, effective_reward


def rewards(
    arm: str, q: Float[Tensor, " states"], alpha: float, k: float
) -> Float[Tensor, " steps"]:
    """What each step is rewarded with; `q` [H + 1] are Q^pi of the states of an answer, the last
    one its verdict.
    """
    if arm == "outcome":
        return q[-1].expand(len(q) - 1)
    if arm == "telescoped":
        return q[-1] + alpha * advantage(q[:-1], q[1:], k).flip(0).cumsum(0).flip(0)
    return step_reward(arm, q[:-1], q[1:], alpha, k)


def step_reward(
    arm: str,
    before: Float[Tensor, "*steps"],
    behind: Float[Tensor, "*steps"],
    alpha: float,
    k: float,
) -> Float[Tensor, "*steps"]:
    """What the arms `q` and `effective` reward a step with, from Q^pi of the states before and
    behind it alone.
    """
    return behind if arm == "q" else effective_reward(before, behind, alpha, k)


def needs_values(arm: str, baseline: str) -> bool:
    """Whether an arm with a baseline asks the verifier for anything."""
    return arm != "outcome" or baseline == "value"


def baseline(name: str, q: Float[Tensor, " states"], others: float) -> Float[Tensor, " steps"]:
    """What is taken off each step's reward: Q^pi of the state before it, the mean verdict of the
    problem's other samples, or nothing.
    """
    if name == "value":
        return q[:-1]
    return q.new_full((len(q) - 1,), others if name == "others" else 0.0)


def whiten(weights: Sequence[Float[Tensor, " steps"]]) -> list[Float[Tensor, " steps"]]:
    """The weights of several answers, changed to have the mean 0 and the spread 1 together."""
    flat = torch.cat(list(weights))
    flat = (flat - flat.mean()) / (flat.std(correction=0).item() or 1.0)
    return list(flat.split([len(each) for each in weights]))
