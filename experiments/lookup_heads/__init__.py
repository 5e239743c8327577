"""Two more layers with look-up heads for a trained small network: `python -m
experiments.lookup_heads FROM TO`.

In `Ann picked 16 apples` the digits stand three and four tokens behind the name. The heads that
`credit train` lays into the first layers (`creditdecoding.train.initial`) look one and two tokens
back, and training alone did not find the longer way. So the first of the new layers notes which
word stands three and four tokens back, and the second attends where that note equals its own and
copies the token there. All is fitted by least squares to what the network computes on training
rows; training goes on from there.
"""

from __future__ import annotations

import copy
import dataclasses
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from creditdecoding.models.moe import SwiGLU
from creditdecoding.models.transformer import Layer, Transformer, init_weights
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.synthetic.facts import COUNTRIES
from creditdecoding.tasks.synthetic.words import LETTERS, PEOPLE
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.train.initial import plane_angles
from creditdecoding.train.loop import NOISY_WIDTH
from creditdecoding.train.objective import MaskedBatch, two_stream
from creditdecoding.train.rows import draw_items, end_ids, make_batches, with_shares
from experiments.lookups import TASK as LOOKUPS

OFFSETS = (3, 4)
"""How far back the noted words stand."""
CODE = 16
"""Numbers of a word's code, in the slowest planes of the rotary embedding."""
FAST_PLANES = 4
"""Rotary planes by which a head finds a position."""
NOTED = {*PEOPLE, *LETTERS, *"0123456789", *(row[0] for row in COUNTRIES)}
"""Words that get a code; all others get zeros."""
POSITION_SHARPNESS = 9.0
MATCH_SHARPNESS = 13.0
"""Sizes of queries and keys: the larger, the more of the attention goes to one token."""
MASK_PENALTY = 10.0
"""Keeps a mask from finding itself, whose note is its own."""
NOTE_SIZE = 0.3
COPY_SIZE = 0.06
"""Sizes of what the layers add, relative to the states that they add it to."""


@dataclass(frozen=True)
class States:
    """What a layer reads on the sample: normalised states [n, size], the ids there [n], and the
    size of the states before the norm.
    """

    states: Tensor
    ids: Tensor
    scale: float


def sample_rows(tokenizer: Tokenizer, rounds: int = 6) -> list[MaskedBatch]:
    """Training rows with a noisy copy of their answers, masked everywhere."""
    tasks = with_shares([*load_tasks("pocket-v2"), LOOKUPS], f"{LOOKUPS.name}=12")
    end_of_turn, end = end_ids(tokenizer)
    rng = random.Random(5)
    rows = []
    for number in range(rounds):
        items = draw_items(tasks, 64, rng)
        for batch in make_batches(items, tokenizer, end_of_turn, end, 4, rng):
            generator = torch.Generator().manual_seed(number)
            rows.append(two_stream(batch, tokenizer.mask_id, 1, NOISY_WIDTH, generator))
    return rows


@torch.no_grad()
def _states(model: Transformer, rows: list[MaskedBatch], layer: int) -> States:
    """What layer number `layer` reads."""
    read: list[Tensor] = []
    hook = model.layers[layer].register_forward_pre_hook(
        lambda _, inputs: read.append(inputs[0].float().flatten(0, 1))
    )
    for batch in rows:
        model.hidden_states(batch.tokens, batch.attention_mask, batch.positions)
    hook.remove()
    states = torch.cat(read)
    squares = states.pow(2)
    return States(
        states=states * torch.rsqrt(squares.mean(-1, keepdim=True) + model.config.rms_norm_eps),
        ids=torch.cat([batch.tokens.flatten() for batch in rows]),
        scale=float(squares.mean().sqrt()),
    )


def _fit(states: Tensor, target: Tensor, ridge: float, weight: Tensor | None = None) -> Tensor:
    """The matrix W [outputs, size] for which `states` W^T is nearest to `target`."""
    weighted = states if weight is None else states * weight[:, None]
    moments = weighted.T @ states / len(states)
    moments += ridge * torch.eye(states.shape[1])
    products = weighted.T @ target / len(states)
    solution: Tensor = torch.linalg.solve(moments, products)
    return solution.T


def _constant(states: Tensor) -> Tensor:
    """The direction along which all states are nearest to 1."""
    mean = states.mean(0)
    centred = states - mean
    covariance = centred.T @ centred / len(states)
    covariance += 1e-4 * torch.eye(len(mean))
    direction: Tensor = torch.linalg.solve(covariance, mean)
    return direction / (direction @ mean)


def _codes(tokenizer: Tokenizer, rows: int) -> Tensor:
    """A code of signs for every id [rows, CODE]: the same for a word with and without a space
    before it, zeros for words outside of `NOTED`.
    """
    words = [tokenizer.decode([i]).strip() for i in range(tokenizer.size)]
    noted = sorted(NOTED.intersection(words))
    signs = torch.randn(len(noted), CODE, generator=torch.Generator().manual_seed(3)).sign()
    codes = torch.zeros(rows, CODE)
    for i, word in enumerate(words):
        if word in NOTED:
            codes[i] = signs[noted.index(word)]
    return codes


def _word_weights(ids: Tensor, codes: Tensor) -> Tensor:
    """A weight for every id, so that frequent ones do not decide alone; noted words count more."""
    counts = torch.bincount(ids, minlength=len(codes)).clamp(min=20)
    weight = (1 / counts)[ids]
    is_noted = codes[ids].any(-1)
    return weight / weight.mean() * torch.where(is_noted, 3.0, 1.0)


def _is_mask(model: Transformer, ids: Tensor) -> Tensor:
    mask_id = model.config.mask_token_id
    assert mask_id is not None
    return ids.eq(mask_id)


def _quietest(states: Tensor, count: int) -> Tensor:
    """The `count` directions [size, count] in which the states differ least."""
    centred = states - states.mean(0)
    covariance = centred.T @ centred / len(states)
    directions: Tensor = torch.linalg.eigh(covariance).eigenvectors
    return directions[:, :count]


@torch.no_grad()
def _lay_notes(
    model: Transformer,
    layer: Layer,
    read: States,
    notes: Tensor,
    codes: Tensor,
) -> None:
    """Head i attends `OFFSETS[i]` positions back and writes the code of the word there into its
    part of the directions `notes` [size, heads * CODE].
    """
    angles = plane_angles(model.config)
    dim = model.config.head_dim
    constant = _constant(read.states)
    is_clean = ~_is_mask(model, read.ids)
    ids = read.ids[is_clean]
    weight = _word_weights(ids, codes)
    code_of = _fit(read.states[is_clean], codes[ids], 1e-3, weight)
    for head, offset in enumerate(OFFSETS):
        rows = slice(head * dim, (head + 1) * dim)
        query, key = _position_directions(angles, offset)
        layer.q.weight[rows] = POSITION_SHARPNESS * query[:, None] * constant
        layer.k.weight[rows] = POSITION_SHARPNESS * key[:, None] * constant
        layer.v.weight[rows] = 0
        layer.v.weight[head * dim : head * dim + CODE] = code_of
        layer.o.weight[:, head * dim : head * dim + CODE] = notes[:, _code_part(head)]


def _position_directions(angles: Tensor, offset: int) -> tuple[Tensor, Tensor]:
    """Query and key [head_dim] whose product is largest `offset` positions apart."""
    fast = (torch.arange(len(angles)) < FAST_PLANES).float()
    turn = offset * angles
    query = torch.cat((fast, torch.zeros_like(fast)))
    return query, torch.cat((turn.cos() * fast, turn.sin() * fast))


def _code_part(offset_number: int) -> slice:
    return slice(offset_number * CODE, (offset_number + 1) * CODE)


@torch.no_grad()
def _keep_free(layers: list[Layer], notes: Tensor) -> None:
    """Let none of the layers write into the directions `notes`."""
    keep = torch.eye(len(notes)) - notes @ notes.T
    for layer in layers:
        for weight in (layer.o.weight, _down(layer).weight):
            weight.copy_(keep @ weight)


@torch.no_grad()
def _lay_matches(model: Transformer, layer: Layer, read: States, notes: Tensor) -> None:
    """Two heads an offset attend where the note equals their own, but not at masks, and add what
    tells the token there.
    """
    dim = model.config.head_dim
    planes = dim // 2
    slow = torch.arange(planes - CODE // 2, planes)
    compared = torch.cat((slow, slow + planes))
    penalised = planes - CODE // 2 - 1
    is_mask = _is_mask(model, read.ids)
    mask_direction = _fit(read.states, is_mask.float()[:, None], 1e-3)[0]
    constant = _constant(read.states)
    into, strength, out = torch.linalg.svd(_token_readout(model, read, ~is_mask))
    for head in range(2 * len(OFFSETS)):
        start = head * dim
        rows = slice(start, start + dim)
        part = slice(head % 2 * dim, (head % 2 + 1) * dim)
        code = MATCH_SHARPNESS * notes[:, _code_part(head // 2)].T
        for weight in (layer.q.weight, layer.k.weight):
            weight[rows] = 0
            weight[start + compared] = code
        layer.q.weight[start + penalised] = MASK_PENALTY * constant
        layer.k.weight[start + penalised] = -MASK_PENALTY * mask_direction
        layer.v.weight[rows] = strength[part, None] * out[part]
        layer.o.weight[:, rows] = COPY_SIZE * read.scale * into[:, part]


def _token_readout(model: Transformer, read: States, is_clean: Tensor) -> Tensor:
    """The matrix [size, size] from states to the embedding of the token there, where `is_clean`."""
    embedding = model.embed.weight.detach()
    norm = embedding.pow(2).mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
    target = (embedding / norm)[read.ids[is_clean]]
    return _fit(read.states[is_clean], target - target.mean(0), 1e-2)


def match_position(old_layers: int) -> int:
    """The number that the second new layer gets: two thirds of the old ones come before it."""
    return 1 + round(2 * old_layers / 3)


def with_lookup_heads(model: Transformer, tokenizer: Tokenizer) -> Transformer:
    """A copy of the model with two layers more: one after the first, one after two thirds."""
    rows = sample_rows(tokenizer)
    grown, noting, matching, old_layers = _expanded(model)
    match_at = match_position(len(old_layers))
    before = _states(grown, rows, match_at)
    notes = _quietest(before.states, CODE * len(OFFSETS))
    size = NOTE_SIZE * before.scale
    codes = _codes(tokenizer, model.config.embedding_rows)
    _lay_notes(grown, noting, _states(grown, rows, 1), size * notes, codes)
    _keep_free(old_layers, notes)
    _lay_matches(grown, matching, _states(grown, rows, match_at), notes)
    return grown


def _expanded(model: Transformer) -> tuple[Transformer, Layer, Layer, list[Layer]]:
    """A copy with two layers that add nothing, those two, and the others."""
    old_layers = [_layer(copy.deepcopy(layer)) for layer in model.layers]
    config = dataclasses.replace(model.config, num_layers=len(old_layers) + 2)
    grown = Transformer(config, "math")
    init_weights(grown, torch.Generator().manual_seed(1))
    noting, matching = (_layer(layer) for layer in list(grown.layers)[-2:])
    for layer in (noting, matching):
        nn.init.zeros_(layer.o.weight)
        nn.init.zeros_(_down(layer).weight)
    layers = [*old_layers]
    layers.insert(1, noting)
    layers.insert(match_position(len(old_layers)), matching)
    grown.layers = nn.ModuleList(layers)
    rest = {name: w for name, w in model.state_dict().items() if not name.startswith("layers.")}
    grown.load_state_dict(rest, strict=False)
    return grown, noting, matching, old_layers


def _layer(module: nn.Module) -> Layer:
    assert isinstance(module, Layer)
    return module


def _down(layer: Layer) -> nn.Linear:
    """The output projection of the feed-forward part."""
    assert isinstance(layer.mlp, SwiGLU)
    return layer.mlp.down
