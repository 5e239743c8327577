"""A pass in parts, between which other passes may run.

Under full attention no prompt can be cut, but its pass can: a part computes some of the columns in
one layer. It also makes the keys and values that the next layer needs of these columns, so that a
layer's are complete before its first query. Two layers over columns a and b:

    part             1  2  3  4  5  6
    columns          a  b  a  b  a  b
    layer            -  -  0  0  1  1
    keys of layer    0  0  1  1  -  -

Every sum is over what it is over in a whole pass, and each product of a part has a multiple of
`STABLE_ROWS` rows where there are enough, so a part changes nothing but, at most, last bits.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Int
from torch import Tensor

from creditdecoding.models.kv_cache import LayerCache
from creditdecoding.models.moe import STABLE_ROWS, stable_rows
from creditdecoding.models.transformer import (
    Layer,
    Mask,
    Transformer,
    attend,
    columns_of,
    mask_of,
    most_reads_of,
    rotation_of,
)

Columns = Tensor
"""Some columns of each row, [rows, some]."""
KeysAndValues = tuple[Tensor, Tensor]


def count_parts(positions: int, chunk: int) -> int:
    """Parts of a layer in a pass of so many positions: none has more than a `chunk`, rounded down
    to a multiple of `STABLE_ROWS`.
    """
    return -(-positions // max(STABLE_ROWS, chunk - chunk % STABLE_ROWS))


def states_in_parts(
    model: Transformer,
    chunk: int,
    tokens: Int[Tensor, "rows length"],
    logit_positions: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
    attention_mask: Tensor | None = None,
    positions: Tensor | None = None,
    caches: list[LayerCache] | None = None,
    most_reads: int | None = None,
) -> Generator[None, None, Tensor]:
    """The hidden states [n, hidden] that `Transformer.read` makes logits of, in parts of at most
    `chunk` positions. The other arguments are those of `Transformer.forward`.

    `caches` may have other entries whenever the pass goes on, since slots move.
    """
    row, _ = logit_positions
    most = most_reads_of(row, tokens) if most_reads is None else most_reads
    queries, column = model.columns_read(tokens, logit_positions, stable_rows(most))
    cos, sin, mask = model.layer_inputs(tokens, attention_mask, positions, caches)
    layers = cast("list[Layer]", list(model.layers))
    network = _Layers(layers, cos, sin, mask, model.attention_backend)
    spans = _spans(tokens, chunk)
    reads = spans if queries is None else queries.split(spans[0].shape[1], dim=1)
    hidden = yield from _hidden_states(network, model.embed(tokens), spans, reads, caches)
    return hidden[row, column]


def _spans(tokens: Int[Tensor, "rows length"], chunk: int) -> tuple[Columns, ...]:
    """The columns of each part of a layer."""
    rows, length = tokens.shape
    width = stable_rows(-(-length // count_parts(rows * length, chunk)))
    everywhere = torch.arange(length, device=tokens.device).expand(rows, -1)
    spans: tuple[Columns, ...] = everywhere.split(width, dim=1)
    return spans


@dataclass(frozen=True)
class _Layers:
    """The layers of a network, and what is the same for all of them."""

    layers: list[Layer]
    cos: Tensor
    sin: Tensor
    mask: Mask
    backend: str

    def keys(self, index: int, x: Tensor, columns: Columns) -> KeysAndValues:
        """What a layer attends to of states `x` [rows, some, hidden], which are at `columns`."""
        layer = self.layers[index]
        return layer.keys_and_values(layer.attn_norm(x), *self._rotation(columns))

    def output(self, index: int, x: Tensor, keys: KeysAndValues, columns: Columns) -> Tensor:
        """What a layer makes of the states `x` at `columns`, which attend to all `keys`."""
        layer = self.layers[index]
        q = layer.queries_of(layer.attn_norm(x), *self._rotation(columns))
        return layer.output(x, attend(q, *keys, mask_of(self.mask, columns), self.backend))

    def _rotation(self, columns: Columns) -> tuple[Tensor, Tensor]:
        return rotation_of(self.cos, columns), rotation_of(self.sin, columns)


def _hidden_states(
    network: _Layers,
    x: Tensor,
    spans: tuple[Columns, ...],
    reads: tuple[Columns, ...],
    caches: list[LayerCache] | None,
) -> Generator[None, None, Tensor]:
    """The states after the last layer.

    - `x` [rows, length, hidden]: the embedded tokens.
    - `spans`: the columns of each part of a layer; `reads`: those of the last layer.
    """
    made: list[KeysAndValues] = []
    for own in spans:
        made.append(network.keys(0, columns_of(x, own), own))
        yield
    last = len(network.layers) - 1
    for index in range(last + 1):
        computed = _joined(made)
        made, outputs = [], []
        for own in reads if index == last else spans:
            keys = computed
            if caches is not None:  # stored again in each part: views end where slots move
                keys = caches[index].update(*computed)
            output = network.output(index, columns_of(x, own), keys, own)
            outputs.append(output)
            if index < last:
                made.append(network.keys(index + 1, output, own))
            yield
        x = torch.cat(outputs, dim=1)
    return x


def _joined(parts: list[KeysAndValues]) -> KeysAndValues:
    """Keys and values of all columns, from those of each part."""
    keys, values = zip(*parts)
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)
