"""Initial weights with look-up circuits in the first two layers, and a drill that sharpens them.

A small network trained on worked answers does not learn associative look-up ("what followed this
word before?") by itself within the budget of a laptop (docs/research/log.md). So it starts with
induction heads (arXiv 2209.11895): heads of layer 0 note the token one or two positions back, heads
of layer 1 attend where that note equals their own and copy the token there. As in mimetic
initialisation (arXiv 2305.09828) these are initial values only; everything is trained.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.config import ModelConfig
from creditdecoding.models.moe import SwiGLU
from creditdecoding.models.transformer import Layer, Transformer
from creditdecoding.train.objective import TrainingBatch

OFFSETS = (1, 1, 2)  # how far back each head of layer 0 looks
NOTE_GROUPS = (0, 0, 0, 1, 1)  # the notes that each head of layer 1 compares: offset 1, offset 2
SLOW = 0.008  # radians a position: rotary planes slower than this compare content
CONSTANT = 0.14  # feature 0 of every embedding, by which heads attend to positions alone
SHARPNESS = 1.3
COMPARE = 1.5
DRILL_PROMPT = 40  # tokens of a drill's prompt at most
DRILL_ANSWER = 32


@torch.no_grad()
def init_induction_heads(model: Transformer, generator: torch.Generator) -> None:
    """Change freshly initialised weights in place, if there are two layers of five heads and enough
    features; otherwise change nothing.
    """
    config = model.config
    dim = config.head_dim
    size = config.hidden_size
    angle = plane_angles(config)
    planes = len(angle)
    slow = (angle < SLOW).nonzero()[:, 0]
    if not _has_room(config) or not len(slow):
        return
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    _damp_outputs(layers)
    model.embed.weight[:, 0] = CONSTANT
    # Notes and contents leave feature 0 alone.
    basis = torch.zeros(size - 1, size)
    basis[:, 1:] = _random_rotation(size - 1, generator)
    order = torch.randperm(size - 1, generator=generator)
    notes = basis[: 3 * dim]
    content = basis[order[: 3 * dim]]
    _init_noting_heads(layers[0], angle, notes, content)
    copied = _random_rotation(size, generator)
    compared = torch.cat((slow, slow + planes))
    _init_matching_heads(layers[1], notes, copied, compared, dim)


def plane_angles(config: ModelConfig) -> Tensor:
    """Radians a position of each rotary plane of a head [head_dim / 2]."""
    planes = config.head_dim // 2
    angles: Tensor = config.rope_theta ** (-torch.arange(planes) / planes)
    return angles


def _random_rotation(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix [size, size]."""
    matrix = torch.randn(size, size, generator=generator)
    rotation: Tensor = torch.linalg.qr(matrix).Q
    return rotation


def _has_room(config: ModelConfig) -> bool:
    """Whether there are layers, heads and features enough for the circuits."""
    has_layers = config.num_layers >= 2
    has_heads = config.num_heads >= 5 and config.num_kv_heads == config.num_heads
    has_features = config.hidden_size >= 6 * config.head_dim
    return has_layers and has_heads and has_features


def _damp_outputs(layers: Sequence[Layer]) -> None:
    """Let attention and feed-forward layers add a tenth of what they did."""
    for layer in layers:
        layer.o.weight.mul_(0.1)
        if isinstance(layer.mlp, SwiGLU):
            layer.mlp.down.weight.mul_(0.1)


def _init_noting_heads(layer: Layer, angle: Tensor, notes: Tensor, content: Tensor) -> None:
    """Head i attends OFFSETS[i] positions back and writes that token's content as a note."""
    dim = 2 * len(angle)
    query_direction = torch.cat((torch.ones_like(angle), torch.zeros_like(angle)))
    for head, offset in enumerate(OFFSETS):
        part = slice(head * dim, (head + 1) * dim)
        turn = offset * angle
        key_direction = torch.cat((turn.cos(), turn.sin()))
        layer.q.weight[part] *= 0.1
        layer.q.weight[part, 0] = SHARPNESS * query_direction
        layer.k.weight[part] *= 0.1
        layer.k.weight[part, 0] = SHARPNESS * key_direction
        layer.v.weight[part] = content[part]
        layer.o.weight[:, part] = 0.05 * notes[part].T


def _init_matching_heads(
    layer: Layer,
    notes: Tensor,
    copied: Tensor,
    compared: Tensor,
    dim: int,
) -> None:
    """Heads attend where the features `compared` of a note equal their own, and copy the token."""
    groups = (notes[: 2 * dim], notes[2 * dim :])
    used = [0, 0]
    count = len(compared)
    for head, group in enumerate(NOTE_GROUPS):
        start = head * dim
        part = slice(start, start + dim)
        unused_first = groups[group].roll(-used[group], 0)
        code = unused_first[:count]
        used[group] += count
        for weight in (layer.q.weight, layer.k.weight):
            weight[part] *= 0.1
            weight[start + compared] = COMPARE * code
        layer.v.weight[part] = copied[part]
        layer.o.weight[:, part] = 0.1 * copied[part].T


def lookup_drill(rows: int, ids: Sequence[int], rng: random.Random) -> TrainingBatch:
    """Rows of random ids followed by pieces of the same row: all but the first token of a piece can
    be looked up.
    """
    lengths = [rng.randint(24, DRILL_PROMPT) for _ in range(rows)]
    tokens = torch.full((rows, DRILL_PROMPT + DRILL_ANSWER), ids[0])
    for row, length in enumerate(lengths):
        prompt = rng.choices(ids, k=length)
        answer: list[int] = []
        while len(answer) < DRILL_ANSWER:
            start = rng.randrange(length - 1)
            end = start + rng.randint(2, 5)
            answer += prompt[start:end]
        drill = prompt + answer[:DRILL_ANSWER]
        tokens[row, : len(drill)] = torch.tensor(drill)
    return TrainingBatch(
        tokens=tokens,
        prompt_lengths=torch.tensor(lengths),
        answer_lengths=torch.full((rows,), DRILL_ANSWER),
    )
