"""The embedded network with the interface that the loops of LLaDA, Fast-dLLM and dInfer call.

Ids [1, length] in, logits at every position out. Keys and values are kept as a peer keeps them:

- Fast-dLLM: a list of (keys, values), one pair a layer, each [1, heads, columns, dim]. The loop
  cuts them; a pass appends its own (prefix cache) or writes over columns that `replace_position`
  [1, columns] names with True (dual cache).
- dInfer: a flat list, keys and values in turn, of which its own cache object is made; that object
  gives the layers what they attend to, and `replace_position` is (start, end).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from creditdecoding.lm import LM
from creditdecoding.models.transformer import Caches, Transformer

KeysAndValues = tuple[Tensor, Tensor]


class PeerNetwork:
    """The network of `lm` as a peer calls it; `is_flat`: keys and values in one list, as dInfer's
    cache takes them.
    """

    def __init__(self, lm: LM, is_flat: bool = False) -> None:
        assert isinstance(lm.model, Transformer)
        self.model = lm.model
        self.size = lm.vocab.size
        self.mask_id = lm.vocab.mask_id
        self.device = lm.device
        self.is_flat = is_flat
        self.passes = 0

    def __call__(
        self,
        ids: Tensor,
        past_key_values: Any = None,
        use_cache: bool = False,
        replace_position: Any = None,
        **_: Any,
    ) -> SimpleNamespace:
        self.passes += 1
        positions = None
        if past_key_values is not None:
            start = first_column(past_key_values, replace_position)
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)[None]
        layers = self._layers(past_key_values, use_cache, replace_position, ids.shape[1])
        caches = cast(Caches, layers)
        logits = self.model.logits(self.model.hidden_states(ids, None, positions, caches))
        logits[..., self.size :] = -torch.inf
        logits[..., self.mask_id] = -torch.inf
        return SimpleNamespace(logits=logits, past_key_values=self._kept(layers))

    def _layers(
        self, past: Any, use_cache: bool, replaced: Any, length: int
    ) -> list[PeerLayer] | None:
        """What each layer does with the keys and values of a pass over `length` positions."""
        count = len(self.model.layers)
        if past is None:
            return [PeerLayer(as_computed) for _ in range(count)] if use_cache else None
        if hasattr(past, "update"):
            return [PeerLayer(partial(by_peer, past, index, replaced)) for index in range(count)]
        if replaced is None:
            return [PeerLayer(partial(appended, pair)) for pair in past]
        start = first_column(past, replaced)
        columns = slice(start, start + length)
        return [PeerLayer(partial(written_over, pair, columns)) for pair in past]

    def _kept(self, layers: list[PeerLayer] | None) -> list[Any] | None:
        """The keys and values after a pass, as the peer's cache takes them."""
        if layers is None:
            return None
        pairs = [layer.kept for layer in layers]
        return [tensor for pair in pairs for tensor in pair] if self.is_flat else pairs


class PeerLayer:
    """A layer's cache in one pass: `merge` makes of the pass's keys and values what is attended
    to.
    """

    kept: KeysAndValues

    def __init__(self, merge: Callable[[Tensor, Tensor], KeysAndValues]) -> None:
        self.merge = merge

    def update(self, k: Tensor, v: Tensor) -> KeysAndValues:
        """What the layer attends to; it is also what the peer may keep."""
        self.kept = self.merge(k, v)
        return self.kept


def first_column(past: Any, replaced: Any) -> int:
    """The position of a pass's first id, by the forms of both peers."""
    if isinstance(replaced, Tensor):
        return int(replaced[0].int().argmax())
    if replaced is not None:
        return int(replaced[0])
    return int(past.seq_len) if hasattr(past, "seq_len") else past[0][0].shape[2]


def as_computed(k: Tensor, v: Tensor) -> KeysAndValues:
    """Nothing was kept before."""
    return k, v


def by_peer(past: Any, index: int, replaced: Any, k: Tensor, v: Tensor) -> KeysAndValues:
    """As dInfer's cache object decides for layer `index`."""
    keys, values = past.update(k, v, index, replaced)
    return keys, values


def appended(past: KeysAndValues, k: Tensor, v: Tensor) -> KeysAndValues:
    """The kept columns, then those of the pass."""
    return torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)


def written_over(past: KeysAndValues, columns: slice, k: Tensor, v: Tensor) -> KeysAndValues:
    """The kept columns, `columns` of them replaced for good."""
    past[0][:, :, columns] = k
    past[1][:, :, columns] = v
    return past
