"""Where training begins: look-up circuits laid into the first two layers, and a drill that sharpens
them.

A small network trained on worked answers does not find associative look-up ("what followed this
word before?") by itself in any
budget a laptop has (docs/log.md). So it starts with induction heads (arXiv 2209.11895): heads of
layer 0 that write the
token before (or two before) into a place, heads of layer 1 that attend where that note equals their
own and copy the token there. As in mimetic
initialisation (arXiv 2305.09828) these are initial values only; everything trains on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from creditdecoding.models.moe import SwiGLU
from creditdecoding.models.transformer import Layer, Transformer
from creditdecoding.train.objective import TrainingBatch

OFFSETS = (1, 1, 2)  # how far back each noting head of layer 0 looks
MATCHING = (
    0,
    0,
    0,
    1,
    1,
)  # which notes each head of layer 1 compares: 0 those of the first two, 1 those of the third
SLOW = 0.008  # radians a position: slower rotary planes serve to compare content
CONSTANT, SHARPNESS, COMPARE = 0.14, 1.3, 1.5
DRILL_PROMPT, DRILL_ANSWER = 40, 32  # tokens of a drill's row at most, and exactly


@torch.no_grad()
def init_induction_heads(model: Transformer, generator: torch.Generator) -> None:
    """Change freshly initialised weights in place; a network without two layers of five heads stays
    as it is.
    """
    config = model.config
    dim, size = config.head_dim, config.hidden_size
    angle = config.rope_theta ** (-torch.arange(dim // 2) / (dim // 2))
    slow = (angle < SLOW).nonzero()[:, 0]
    compared = torch.cat((slow, slow + dim // 2))
    if (
        config.num_layers < 2
        or config.num_heads < 5
        or config.num_kv_heads != config.num_heads
        or not len(slow)
        or size < 6 * dim
    ):
        return
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    for layer in layers:
        layer.o.weight.mul_(0.1)
        if isinstance(layer.mlp, SwiGLU):
            layer.mlp.down.weight.mul_(0.1)
    model.embed.weight[:, 0] = (
        CONSTANT  # the same in every token: what a head looks at to attend by place alone
    )
    basis = torch.zeros(size - 1, size)
    basis[:, 1:] = torch.linalg.qr(torch.randn(size - 1, size - 1, generator=generator)).Q
    notes = basis[: 3 * dim]
    seen = basis[torch.randperm(size - 1, generator=generator)[: 3 * dim]]
    first, second = layers[:2]
    for head, offset in enumerate(OFFSETS):
        part = slice(head * dim, (head + 1) * dim)
        first.q.weight[part] *= 0.1
        first.k.weight[part] *= 0.1
        first.q.weight[part, 0] = SHARPNESS * torch.cat(
            (torch.ones_like(angle), torch.zeros_like(angle))
        )
        first.k.weight[part, 0] = SHARPNESS * torch.cat(
            ((offset * angle).cos(), (offset * angle).sin())
        )
        first.v.weight[part] = seen[part]
        first.o.weight[:, part] = 0.05 * notes[part].T
    copied = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    groups = (notes[: 2 * dim], notes[2 * dim :])
    taken = [0, 0]
    for head, group in enumerate(MATCHING):
        part = slice(head * dim, (head + 1) * dim)
        code = groups[group].roll(-taken[group], 0)[: len(compared)]
        taken[group] += len(compared)
        for weight in (second.q.weight, second.k.weight):
            weight[part] *= 0.1
            weight[head * dim + compared] = COMPARE * code
        second.v.weight[part] = copied[part]
        second.o.weight[:, part] = 0.1 * copied[part].T


def lookup_drill(rows: int, ids: Sequence[int], rng: random.Random) -> TrainingBatch:
    """Rows of random ids, then pieces of the same row again: all but the first token of a piece can
    be looked up.
    """
    length = torch.tensor([rng.randint(24, DRILL_PROMPT) for _ in range(rows)])
    tokens = torch.full((rows, DRILL_PROMPT + DRILL_ANSWER), ids[0])
    for row, prompt in enumerate(length.tolist()):
        text = rng.choices(ids, k=prompt)
        again: list[int] = []
        while len(again) < DRILL_ANSWER:
            at = rng.randrange(prompt - 1)
            again += text[at : at + rng.randint(2, 5)]
        tokens[row, : prompt + DRILL_ANSWER] = torch.tensor(text + again[:DRILL_ANSWER])
    return TrainingBatch(tokens, length, torch.full((rows,), DRILL_ANSWER))
