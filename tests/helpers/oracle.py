"""The dense oracle of CreditDecoding, written from Eq. 6 and 7 alone in float64, and two toy models
for the tests of decoding.

Nothing here imports the package, so that the package is not tested against itself. Everything is
plain rather than fast: C is [rows, length, vocab], the commit rule is a Python loop over rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What the oracle decides in a step: enhanced logits, their argmax and its probability, and
    which positions to write.
    """

    fused: Tensor
    tokens: Tensor
    confidence: Tensor
    commit: Tensor


@dataclass
class Oracle:
    """Trace credit held for every id. `adaptive`: section 4.3, constants from the mask ratio.
    `every`: our reading of Eq. 13.
    """

    threshold: float
    alpha: float = 0.65
    beta: float = 0.7
    gamma: float = 0.2
    adaptive: bool = False
    every: bool = False
    credit: Tensor | None = None

    def step(self, logits: Tensor, masked: Tensor, size: Tensor) -> Verdict:
        """One step over raw `logits` [rows, length, vocab], `masked` [rows, length]; `size` [rows]:
        masks the block began with.
        """
        raw = logits.double()
        credit = torch.zeros_like(raw) if self.credit is None else self.credit
        strength = 1.0 - masked.sum(-1).double() / size.double()
        per_row = lambda value: strength if self.adaptive else torch.full_like(strength, value)  # noqa: E731
        alpha, beta = per_row(self.alpha)[:, None, None], per_row(self.beta)[:, None, None]
        gamma = 1.0 if self.adaptive else self.gamma
        p = torch.softmax(raw, -1)
        credited = (
            torch.ones_like(p)
            if self.every
            else torch.nn.functional.one_hot(first_max(raw), raw.shape[-1]).double()
        )
        self.credit = beta * credit + credited * p**gamma * masked[..., None]
        fused = raw + alpha * torch.log(1.0 + self.credit)
        tokens = first_max(fused)
        confidence = torch.softmax(fused, -1).gather(-1, tokens[..., None])[..., 0]
        return Verdict(fused, tokens, confidence, commits(confidence, masked, self.threshold))


def first_max(values: Tensor) -> Tensor:
    """Index of the largest value along the last axis, the lowest of equals."""
    return (values == values.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1)


def commits(confidence: Tensor, masked: Tensor, threshold: float) -> Tensor:
    """At least `threshold`, and in every row that has a mask its best position, the first of
    equals.
    """
    commit = (confidence >= threshold) & masked
    for row in range(len(confidence)):
        where = masked[row].nonzero()[:, 0].tolist()
        if where:
            commit[row, max(where, key=lambda i: (float(confidence[row, i]), -i))] = True
    return commit


def decode_alone(
    model: Callable[..., Tensor],
    prompt: Sequence[int],
    gen_length: int,
    block_length: int,
    mask_id: int,
    size: int,
    oracle: Callable[[], Oracle],
    stops: Sequence[int] = (),
) -> tuple[list[int], list[list[int]]]:
    """A whole request decoded with the oracle, a fresh one a block: its ids, and the positions that
    each pass wrote.

    Ends when the canvas is full or when everything up to one of `stops` is written; the ids are cut
    there.
    """
    canvas = torch.tensor([[*prompt, *[mask_id] * gen_length]])
    log: list[list[int]] = []
    for start in range(len(prompt), canvas.shape[1], block_length):
        span = slice(start, min(start + block_length, canvas.shape[1]))
        judge = oracle()
        while bool((canvas[:, span] == mask_id).any()):
            masked = canvas[:, span] == mask_id
            where = masked.nonzero()[:, 1] + start
            seen = model(canvas, (torch.zeros_like(where), where), None)
            logits = torch.zeros(*masked.shape, seen.shape[1])
            logits[masked] = seen
            logits[..., mask_id] = -torch.inf
            logits[..., size:] = -torch.inf
            verdict = judge.step(logits, masked, torch.tensor([masked.shape[1]]))
            canvas[:, span] = torch.where(verdict.commit, verdict.tokens, canvas[:, span])
            log.append((verdict.commit.nonzero()[:, 1] + start).tolist())
            answer = canvas[0, len(prompt) :].tolist()
            settled = answer[: answer.index(mask_id)] if mask_id in answer else answer
            end = next((i for i, token in enumerate(settled) if token in stops), None)
            if end is not None:
                return settled[:end], log
    return canvas[0, len(prompt) :].tolist(), log


def _mixed(x: Tensor) -> Tensor:
    """A bijection of int64 that looks random."""
    for _ in range(2):
        x = (x ^ (x >> 29)) * -7046029254386353131 + 1442695040888963407
    return x ^ (x >> 32)


@dataclass
class HashModel:
    """Logits that are an exact function of a row's visible ids and the column, so that other rows of
    a batch cannot change a bit of them.

    Each column prefers an id, more clearly as masks disappear. Counts calls and rows, and keeps the
    positions of the logits that were read.
    """

    width: int
    mask_id: int
    scale: float = 6.0
    push: Mapping[int, float] = field(default_factory=dict)
    calls: int = 0
    rows: int = 0
    reads: list[list[tuple[int, int]]] = field(default_factory=list)

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(tokens)
        self.reads.append(list(zip(read[0].tolist(), read[1].tolist())))
        seen = torch.ones_like(tokens, dtype=torch.bool) if allowed is None else allowed[:, 0]
        column = torch.arange(tokens.shape[1])
        content = (_mixed(_mixed(column) + tokens) * seen).sum(-1)
        first = _mixed(tokens[:, 0])
        known = ((tokens != self.mask_id) & seen).sum(-1)
        ids = torch.arange(self.width)
        keys = [
            base[read[0]][:, None] + _mixed(read[1])[:, None] * 3 + _mixed(ids)
            for base in (first, content)
        ]
        steady, fickle = ((_mixed(key) >> 40).double() / 2**23 for key in keys)  # in [-1, 1)
        logits = self.scale * (
            steady * (0.6 + 0.05 * known[read[0]].double()[:, None]) + 0.5 * fickle
        )
        for token, more in self.push.items():
            logits[:, token] += more
        return logits.float()


@dataclass
class PlanModel:
    """Predicts, at every pass alike, `plan[first prompt id][column]` = (token, probability), the
    rest spread over the other ids.

    The mask id and the ids from `size` on have the largest logits, so they are written unless they
    are ruled out.
    """

    plan: Mapping[int, Mapping[int, tuple[int, float]]]
    width: int
    size: int
    mask_id: int
    calls: int = 0
    rows: int = 0

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        self.calls, self.rows = self.calls + 1, self.rows + len(tokens)
        logits = torch.full((len(read[0]), self.width), 9.0)
        for line, row, column in zip(logits, read[0].tolist(), read[1].tolist()):
            token, chance = self.plan[int(tokens[row, 0])][column]
            line[: self.size] = torch.tensor((1.0 - chance) / (self.size - 2)).log()
            line[token] = torch.tensor(chance).log()
            line[self.mask_id] = 9.0
        return logits
