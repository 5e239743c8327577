"""The transformer as an autoregressive model: log-likelihoods of a text, and sampling from it.

A base has causal attention and logits shifted by one (`families/causal.py`), so that `forward` at
position i predicts the token at i.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from creditdecoding.models.kv_cache import KVCache
from creditdecoding.models.transformer import Transformer

LOGITS_AT_ONCE = 2**26
"""Logits of one head's matrix product, at most."""


@dataclass(frozen=True)
class NextToken:
    """How the next token is chosen: greedily at `temperature` 0, else among the most probable
    tokens that together reach `top_p`.
    """

    temperature: float = 0.0
    top_p: float = 1.0


def causal_logits(
    model: Transformer, tokens: Int[Tensor, "rows length"]
) -> Float[Tensor, "rows length vocab"]:
    """Logits of the next token at every position: row i sees tokens 0 to i and predicts i + 1.

    Padding at the end of a row changes nothing before it.
    """
    return model.logits(model.hidden_states(tokens))


@torch.no_grad()
def log_likelihoods(
    model: Transformer, rows: Sequence[Sequence[int]], starts: Sequence[int]
) -> list[Float[Tensor, " tokens"]]:
    """Log-probability (nats) of each token of each row from `starts` on, given all before it.

    Every start is at least 1. The rows share one pass.
    """
    device = model.norm.weight.device
    hidden = model.hidden_states(_padded(rows, device))
    results = []
    for row, start, states in zip(rows, starts, hidden):
        assert start >= 1, "nothing precedes the first token"
        targets = torch.tensor(row[start:], dtype=torch.long, device=device)
        results.append(_log_probs(model, states[start - 1 : len(row) - 1], targets))
    return results


def _log_probs(model: Transformer, states: Tensor, targets: Tensor) -> Tensor:
    """Log-probabilities of `targets` [n] after `states` [n, hidden], a few at a time."""
    count = max(1, LOGITS_AT_ONCE // model.config.embedding_rows)
    pieces = [torch.empty(0, device=states.device)]
    for part, tokens in zip(states.split(count), targets.split(count)):
        log_probs = model.logits(part).float().log_softmax(-1)
        pieces.append(log_probs.gather(1, tokens[:, None])[:, 0])
    return torch.cat(pieces)


@torch.no_grad()
def sample(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    stop_ids: Collection[int] = (),
    sampling: NextToken = NextToken(),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue each prompt (not empty) until one of `stop_ids` or `max_tokens`, all in one batch.

    A stop token is the last of its row. A row also ends at the model's longest text. Without
    temperature a row does not depend on the others.
    """
    batch = _Batch([list(prompt) for prompt in prompts], max_tokens, model)
    running = batch.unfinished(())
    while running:
        parts = {slot: batch.rows[slot][batch.computed[slot] :] for slot in running}
        logits = _next_logits(model, batch.cache, parts, batch.computed)
        batch.append(running, choose(logits, sampling, generator))
        running = batch.unfinished(stop_ids)
    return [row[len(prompt) :] for row, prompt in zip(batch.rows, prompts)]


class _Batch:
    """Rows being continued; slot i of the cache holds the first `computed[i]` tokens of row i."""

    def __init__(self, rows: list[list[int]], max_tokens: int, model: Transformer) -> None:
        self.rows = rows
        self.ends = [min(len(row) + max_tokens, model.config.max_length) for row in rows]
        self.computed = [0] * len(rows)
        self.cache = model.new_cache()
        self.cache.reserve(len(rows), max(self.ends, default=0))

    def append(self, slots: Sequence[int], tokens: Tensor) -> None:
        """Append the next token of each slot."""
        for slot, token in zip(slots, tokens.tolist()):
            self.computed[slot] = len(self.rows[slot])
            self.rows[slot].append(token)

    def unfinished(self, stop_ids: Collection[int]) -> list[int]:
        """The slots whose rows go on, of those that do not end with a stop token."""
        return [
            slot
            for slot, row in enumerate(self.rows)
            if len(row) < self.ends[slot] and row[-1] not in stop_ids
        ]


def _next_logits(
    model: Transformer, cache: KVCache, parts: Mapping[int, Sequence[int]], starts: Sequence[int]
) -> Float[Tensor, "rows vocab"]:
    """Logits after the last token of each slot's part; what is before `starts[slot]` is cached."""
    device = model.norm.weight.device
    tokens = _padded(parts.values(), device)
    lengths = torch.tensor([len(part) for part in parts.values()], device=device)
    offsets = torch.arange(tokens.shape[1], device=device)
    positions = torch.tensor([starts[slot] for slot in parts], device=device)[:, None] + offsets
    columns = torch.where(offsets < lengths[:, None], positions, -1)
    caches = cache.layer_caches([*parts], columns, int(columns.max()) + 1)
    hidden = model.hidden_states(tokens, positions=positions, caches=caches)
    return model.logits(hidden[torch.arange(len(parts), device=device), lengths - 1])


def choose(
    logits: Float[Tensor, "rows vocab"], sampling: NextToken, generator: torch.Generator | None
) -> Int[Tensor, " rows"]:
    """The next token of each row."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probs = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        kept = ordered.cumsum(-1) - ordered < sampling.top_p
        probs = torch.zeros_like(probs).scatter(-1, order, ordered * kept)
    return torch.multinomial(probs, 1, generator=generator)[:, 0]


def _padded(rows: Iterable[Sequence[int]], device: torch.device) -> Int[Tensor, "rows length"]:
    tensors = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
    return pad_sequence(tensors, batch_first=True)
