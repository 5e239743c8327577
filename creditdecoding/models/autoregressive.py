"""The transformer as an autoregressive model: log-likelihoods of a text, and sampling from it.

A base has causal attention and logits shifted by one (`families/causal.py`), so that `forward` at
position i predicts the token at i.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
class Sampling:
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
    sampling: Sampling = Sampling(),
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Continue each prompt (not empty) until one of `stop_ids` or `max_tokens`, all in one batch.

    A stop token is the last of its row. A row also ends at the model's longest text. Without
    temperature a row does not depend on the others.
    """
    rows = [list(prompt) for prompt in prompts]
    ends = [min(len(row) + max_tokens, model.config.max_length) for row in rows]
    cache = model.new_cache()
    cache.reserve(len(rows), max(ends))
    computed = [0] * len(rows)
    running = [index for index, row in enumerate(rows) if len(row) < ends[index]]
    while running:
        parts = [rows[index][computed[index] :] for index in running]
        starts = [computed[index] for index in running]
        logits = _next_logits(model, cache, running, parts, starts)
        for index, token in zip(running, choose(logits, sampling, generator).tolist()):
            computed[index] = len(rows[index])
            rows[index].append(token)
        running = [
            index
            for index in running
            if rows[index][-1] not in stop_ids and len(rows[index]) < ends[index]
        ]
    return [row[len(prompt) :] for row, prompt in zip(rows, prompts)]


def _next_logits(
    model: Transformer,
    cache: KVCache,
    slots: list[int],
    parts: Sequence[Sequence[int]],
    starts: Sequence[int],
) -> Float[Tensor, "rows vocab"]:
    """Logits after the last token of each part; the tokens before `starts` are in the cache."""
    device = model.norm.weight.device
    tokens = _padded(parts, device)
    lengths = torch.tensor([len(part) for part in parts], device=device)
    offsets = torch.arange(tokens.shape[1], device=device)
    positions = torch.tensor(starts, device=device)[:, None] + offsets
    columns = torch.where(offsets < lengths[:, None], positions, -1)
    caches = cache.layer_caches(slots, columns, int(columns.max()) + 1)
    hidden = model.hidden_states(tokens, positions=positions, caches=caches)
    return model.logits(hidden[torch.arange(len(parts), device=device), lengths - 1])


def choose(
    logits: Float[Tensor, "rows vocab"], sampling: Sampling, generator: torch.Generator | None
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


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "rows length"]:
    tensors = [torch.tensor(row, dtype=torch.long, device=device) for row in rows]
    return pad_sequence(tensors, batch_first=True)
