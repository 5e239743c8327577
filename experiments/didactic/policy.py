"""The policy that learns: an autoregressive network in the manner of MADE (Germain et al., arXiv
1502.03509), many of them side by side.

A token's logits see earlier tokens only, by masks on three hidden layers: a unit of degree d sees
the first d tokens. Weights have a leading axis,
one entry a run, so that all seeds of an arm are one batched product; no run sees another's numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from experiments.didactic.task import Task, drawn

Weights = list[Tensor]
"""Matrix [runs, in, out] and bias [runs, 1, out] of each layer in turn."""
Tokens = Int[Tensor, "runs rows length"]
Noise = Float[Tensor, "runs rows length"]


@dataclass(frozen=True)
class Made:
    """The network of a task: `layers` hidden layers of `width` units."""

    task: Task
    width: int = 128
    layers: int = 3

    @cached_property
    def _edges(self) -> list[int]:
        """Hidden units of degree d are those from edges[d - 1] on, before edges[d]; degrees
        1..length-1.
        """
        return [self.width * degree // (self.task.length - 1) for degree in range(self.task.length)]

    @cached_property
    def _masks(self) -> list[Tensor]:
        """For each layer 1 where an output may see an input [in, out]."""
        degrees = torch.bucketize(torch.arange(self.width), torch.tensor(self._edges), right=True)
        places = torch.arange(self.task.length * self.task.tokens) // self.task.tokens + 1
        inner = [(degrees >= degrees[:, None]).float()] * (self.layers - 1)
        return [(degrees >= places[:, None]).float(), *inner, (places > degrees[:, None]).float()]

    def init(self, seeds: Sequence[int]) -> Weights:
        """Uniform weights, within 1 / sqrt(inputs), of a run a seed."""
        runs = [self._init(torch.Generator().manual_seed(seed)) for seed in seeds]
        return [torch.stack(parts) for parts in zip(*runs)]

    def _init(self, noise: torch.Generator) -> Weights:
        shapes = [shape for mask in self._masks for shape in (mask.shape, (1, mask.shape[1]))]
        bounds = [1 / math.sqrt(mask.shape[0]) for mask in self._masks for _ in range(2)]
        return [
            (2 * torch.rand(shape, generator=noise) - 1) * bound
            for shape, bound in zip(shapes, bounds)
        ]

    def log_probs(self, weights: Weights, tokens: Tokens) -> Float[Tensor, "runs rows length"]:
        """Log-probability of each token given those before it."""
        layer = F.one_hot(tokens, self.task.tokens).float().flatten(2)
        for number, mask in enumerate(self._masks):
            layer = torch.baddbmm(
                weights[2 * number + 1],
                layer.relu() if number else layer,
                weights[2 * number] * mask,
            )
        logits: Tensor = layer.unflatten(2, (self.task.length, self.task.tokens))
        return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]

    def draw(self, weights: Weights, noise: Noise, prefix: Tokens | None = None) -> Tokens:
        """Sequences that go on from `prefix` [runs, rows, fewer than length]; each hidden unit is
        computed once, when its degree is reached.
        """
        task, (runs, rows, _) = self.task, noise.shape
        tokens = torch.zeros(runs, rows, task.length, dtype=torch.long)
        seen = torch.zeros(runs, rows, task.length * task.tokens)
        hidden = [torch.zeros(runs, rows, self.width) for _ in range(self.layers)]
        start = 0 if prefix is None else prefix.shape[2]
        if prefix is not None and start:
            tokens[..., :start] = prefix
            seen[..., : start * task.tokens] = F.one_hot(prefix, task.tokens).flatten(2).float()
            self._advance(weights, seen, hidden, 0, start)
        for step in range(start, task.length):
            first, last = step * task.tokens, (step + 1) * task.tokens
            inner = hidden[-1][..., : self._edges[step]]
            logits = torch.baddbmm(
                weights[-1][..., first:last], inner, weights[-2][:, : self._edges[step], first:last]
            )
            tokens[..., step] = drawn(logits.softmax(-1), noise[..., step])
            if step + 1 < task.length:
                seen[..., first:last] = F.one_hot(tokens[..., step], task.tokens)
                self._advance(weights, seen, hidden, step, step + 1)
        return tokens

    def _advance(
        self, weights: Weights, seen: Tensor, hidden: list[Tensor], done: int, length: int
    ) -> None:
        """Compute the hidden units of degrees done+1 to `length`, in place: the first `length`
        tokens are there.
        """
        first, last = self._edges[done], self._edges[length]
        below = seen[..., : length * self.task.tokens]
        for number, layer in enumerate(hidden):
            matrix = weights[2 * number][:, : below.shape[2], first:last]
            if length > done + 1:  # units of one degree see all that is there
                matrix = matrix * self._masks[number][: below.shape[2], first:last]
            layer[..., first:last] = torch.baddbmm(
                weights[2 * number + 1][..., first:last], below, matrix
            ).relu()
            below = layer[..., :last]

    def success(self, weights: Weights, noise: Noise) -> Float[Tensor, " runs"]:
        """Unbiased estimate of the chance of the reward, of little variance however rare it is; for
        planted tokens that cannot overlap themselves.

        At every place where they may first appear: a drawn prefix that has neither won nor ended,
        and the probability that they follow it.
        """
        task = self.task
        tokens = self.draw(weights, noise)
        states, alive = task.walk(tokens)
        total = torch.zeros(noise.shape[0])
        for start in range(task.length - task.won + 1):
            planted = tokens.clone()
            planted[..., start : start + task.won] = torch.tensor(task.planted)
            chance = self.log_probs(weights, planted)[..., start : start + task.won].sum(-1).exp()
            total += (chance * alive[..., start] * (states[..., start] != task.won)).mean(1)
        return total
