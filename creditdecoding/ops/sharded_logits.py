"""Logits whose ids are spread over processes, as vocabulary-parallel heads leave them.

The maximum and the mass of a line are found by exchanging three numbers a process in place of the
logits, and so are the logits of a few ids. Walks that need more see one shard after the other.
All processes must ask the same questions in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from creditdecoding.ops.head_logits import Mass, completed, merged
from creditdecoding.ops.vocab_stats import row_chunks, vocab_mass


@dataclass(frozen=True, eq=False)
class ShardedLogits:
    """The logits [n, vocab] of which process number r of `group` holds the ids from r * width on,
    as `own` [n, width]. Columns past the vocabulary must be -inf: `of_shard`.

    Indexing by lines collects these lines from all processes.
    """

    own: Float[Tensor, "n width"]
    vocab: int
    group: Any = None

    @classmethod
    def of_shard(
        cls, own: Float[Tensor, "n width"], vocab: int, group: Any = None
    ) -> ShardedLogits:
        """The logits of a process, with those of padding set to -inf in place."""
        logits = cls(own, vocab, group)
        own[:, max(0, vocab - logits.start) :] = -torch.inf
        return logits

    @property
    def width(self) -> int:
        """Ids of a process."""
        return self.own.shape[1]

    @property
    def start(self) -> int:
        """The first id of this process."""
        return dist.get_rank(self.group) * self.width

    @property
    def shape(self) -> tuple[int, int]:
        """Lines and ids."""
        return len(self.own), self.vocab

    @property
    def device(self) -> torch.device:
        """Where the logits are."""
        return self.own.device

    @property
    def raw(self) -> ShardedLogits:
        """The same: no id is suppressed."""
        return self

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self.own)

    def __getitem__(self, lines: slice | Tensor) -> Float[Tensor, "*lines vocab"]:
        """Some lines, collected from all processes."""
        shards = self._collected(self.own[lines])
        return torch.cat(shards, dim=-1)[..., : self.vocab]

    def of(self, lines: slice | Tensor) -> ShardedLogits:
        """Some of the lines."""
        return replace(self, own=self.own[lines])

    def line_chunks(self) -> Iterator[slice]:
        """Slices of lines, each small enough for temporaries."""
        return row_chunks(self.own)

    def tiles(self) -> Iterator[tuple[int, Float[Tensor, "n some_ids"]]]:
        """The logits in float32, one process's at a time, each part with its first id."""
        for rank in range(dist.get_world_size(self.group)):
            shard = self.own.float()
            if rank != dist.get_rank(self.group):
                shard = torch.empty_like(shard)
            dist.broadcast(shard, group=self.group, group_src=rank)
            first = rank * self.width
            yield first, shard[:, : max(0, self.vocab - first)]

    def mass(self) -> Mass:
        """What `vocab_mass` returns for the whole lines, from the mass of every shard."""
        ids, top, rest = vocab_mass(self.own)
        numbers = torch.stack((ids + self.start, top, rest.masked_fill(top == -torch.inf, 0.0)))
        shards = self._collected(numbers.to(rest.dtype))
        masses = ((own[0].long(), own[1].float(), own[2]) for own in shards)
        return completed(functools.reduce(merged, masses))

    def gather(
        self, lines: Int[Tensor, "*any"], ids: Int[Tensor, "*any k"]
    ) -> Float[Tensor, "*any k"]:
        """Logits of a few ids of each line, in float32, each from the process that holds it."""
        columns = ids - self.start
        is_own = (columns >= 0) & (columns < self.width)
        values = self.own[lines[..., None], columns.clamp(0, self.width - 1)].float()
        values = values.masked_fill(~is_own, -torch.inf)
        dist.all_reduce(values, dist.ReduceOp.MAX, self.group)
        return values

    def rule_out(self, token: int) -> None:
        """Set the logit of an id to -inf at all lines, in place."""
        column = token - self.start
        if 0 <= column < self.width:
            self.own[:, column] = -torch.inf

    def _collected(self, own: Tensor) -> list[Tensor]:
        """The tensors of all processes, in their order."""
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size(self.group))]
        dist.all_gather(parts, own.contiguous(), self.group)
        return parts
