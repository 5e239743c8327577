"""What every state and token is worth under a policy: exactly by dynamic programming, and by
rollouts; what a prover says about a base policy.

Q(s, a) is the chance of the reward after token a in state s, V(s) its mean under the policy, A = Q
- V. As the state after (s, a) is certain,
Q(s, a) = V(s'), and along a sequence A is the rise of V from prefix to prefix: the sum from any
step on is the reward less V there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.didactic.task import Task, drawn

Policy = Float[Tensor, "states tokens"]


@dataclass(frozen=True)
class Values:
    """Q and V of a policy, steps first; V has one step more, after the last token."""

    q: Float[Tensor, "length states tokens"]
    v: Float[Tensor, "length+1 states"]

    @property
    def a(self) -> Float[Tensor, "length states tokens"]:
        """Advantages."""
        return self.q - self.v[:-1, :, None]

    @property
    def success(self) -> float:
        """Chance of the reward from the start."""
        return float(self.v[0, 0])


def exact(task: Task, policy: Policy) -> Values:
    """Values by dynamic programming, from the last step backwards."""
    v = torch.zeros(task.length + 1, task.states, dtype=torch.float64)
    v[:, task.won] = 1
    q = torch.zeros(task.length, task.states, task.tokens, dtype=torch.float64)
    for step in reversed(range(task.length)):
        q[step] = v[step + 1][task.after]
        v[step, : task.won] = (policy * q[step]).sum(-1)[: task.won]
    return Values(q, v)


def estimated(task: Task, policy: Policy, rollouts: int, seed: int = 0) -> Values:
    """The same by Monte Carlo: `rollouts` completions after every token in every state of every
    step.
    """
    noise = torch.Generator().manual_seed(seed)
    q = torch.zeros(task.length, task.states, task.tokens, dtype=torch.float64)
    v = torch.zeros(task.length + 1, task.states, dtype=torch.float64)
    v[:, task.won] = 1
    for step in range(task.length):
        state = task.after.expand(rollouts, -1, -1)
        for _ in range(step + 1, task.length):
            state = task.after[
                state, drawn(policy[state], torch.rand(state.shape, generator=noise))
            ]
        q[step] = (state == task.won).double().mean(0)
        v[step] = (policy * q[step]).sum(-1)
    return Values(q, v)


@dataclass(frozen=True)
class Measures:
    """What Theorem 3.1 weighs, by step: how far a prover tells the base policy's tokens apart, and
    whether in the base policy's own sense.
    """

    distinguishability: Float[Tensor, " length"]
    alignment: Float[Tensor, " length"]


def measures(task: Task, base: Policy, prover: Policy) -> Measures:
    """Var[A^mu] and E[A^mu A^pi] over tokens of the base policy pi, in the states that it visits at
    each step.
    """
    pi, mu = exact(task, base).a, exact(task, prover).a
    here = torch.zeros(task.states, dtype=torch.float64)
    here[0] = 1
    spread, shared = [], []
    for step in range(task.length):
        mean = (base * mu[step]).sum(-1, keepdim=True)
        spread.append((here * (base * (mu[step] - mean) ** 2).sum(-1)).sum())
        shared.append((here * (base * mu[step] * pi[step]).sum(-1)).sum())
        here = torch.zeros_like(here).index_add(
            0, task.after.flatten(), (here[:, None] * base).flatten()
        )
    return Measures(torch.stack(spread), torch.stack(shared))


def along(values: Values, states: Int[Tensor, "*rows length+1"]) -> Float[Tensor, "*rows length+1"]:
    """V of every prefix of sequences whose states are given."""
    return values.v[torch.arange(states.shape[-1]), states]
