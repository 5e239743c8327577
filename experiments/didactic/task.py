"""A planted sub-sequence: the reward is 1 where it appears contiguously; provers that know the next
planted token to a degree.

What counts of a prefix is one state of an automaton: how many planted tokens its end matches (the
longest match), whether all have appeared,
whether the end token was written before that. After the end token nothing follows: without the
planted tokens the reward is 0 for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from creditdecoding.errors import OptionError


@dataclass(frozen=True)
class Task:
    """The paper's constants; others serve tests. States 0..won-1 count matched tokens, then come
    `won` and `lost`. Raises `OptionError`.
    """

    tokens: int = 15
    end: int = 14
    length: int = 10
    planted: tuple[int, ...] = (3, 6, 0, 3, 5)

    def __post_init__(self) -> None:
        if (
            not all(0 <= token < self.tokens for token in (self.end, *self.planted))
            or self.end in self.planted
        ):
            raise OptionError(
                "no such tokens",
                given=(*self.planted, self.end),
                hint="Use 0..tokens-1, the end token not among the planted ones.",
            )
        if not 0 < len(self.planted) <= self.length:
            raise OptionError(
                "the planted tokens do not fit",
                given=len(self.planted),
                allowed=f"1..{self.length}",
                hint="Change one of the two.",
            )

    @property
    def won(self) -> int:
        """The state in which all planted tokens have appeared; nothing leads out of it."""
        return len(self.planted)

    @property
    def lost(self) -> int:
        """The state after an end token that came first; nothing leads out of it."""
        return self.won + 1

    @property
    def states(self) -> int:
        """Number of states."""
        return self.won + 2

    @cached_property
    def after(self) -> Int[Tensor, "states tokens"]:
        """The state after a token in a state."""
        rows = [
            [self._after(state, token) for token in range(self.tokens)] for state in range(self.won)
        ]
        return torch.tensor([*rows, [self.won] * self.tokens, [self.lost] * self.tokens])

    def _after(self, state: int, token: int) -> int:
        if token == self.end:
            return self.lost
        seen = (*self.planted[:state], token)
        return next(
            size
            for size in range(min(len(seen), self.won), -1, -1)
            if seen[len(seen) - size :] == self.planted[:size]
        )

    def walk(
        self, tokens: Int[Tensor, "*rows length"]
    ) -> tuple[Int[Tensor, "*rows length+1"], Bool[Tensor, "*rows length"]]:
        """The states before each token and after the last one, and which tokens are written: none
        after an end token.
        """
        states = [torch.zeros(tokens.shape[:-1], dtype=torch.long)]
        for column in tokens.unbind(-1):
            states.append(self.after[states[-1], column])
        ends = (tokens == self.end).long()
        return torch.stack(states, -1), ends.cumsum(-1) - ends == 0

    def prover(self, strength: float) -> Float[Tensor, "states tokens"]:
        """Probabilities of a policy that gives the next planted token the weight `strength` and
        each other token 1.
        """
        weights = torch.ones(self.states, self.tokens, dtype=torch.float64)
        weights[range(self.won), list(self.planted)] = strength
        return weights / weights.sum(-1, keepdim=True)


def drawn(
    probabilities: Float[Tensor, "*rows tokens"], uniforms: Float[Tensor, "*rows"]
) -> Int[Tensor, "*rows"]:
    """Tokens by inversion of the distribution function: one number in [0, 1) a token."""
    sums = probabilities.cumsum(-1)
    return (
        (sums < uniforms[..., None] * sums[..., -1:]).sum(-1).clamp(max=probabilities.shape[-1] - 1)
    )


def played(
    task: Task, policy: Float[Tensor, "states tokens"], uniforms: Float[Tensor, "*rows length"]
) -> Int[Tensor, "*rows length"]:
    """Sequences of a policy that looks at the state alone."""
    state, tokens = torch.zeros(uniforms.shape[:-1], dtype=torch.long), []
    for column in uniforms.unbind(-1):
        tokens.append(drawn(policy[state], column))
        state = task.after[state, tokens[-1]]
    return torch.stack(tokens, -1)
