"""How likely a model finds a text: the Monte-Carlo bound of masked diffusion, its exact value, and
the odds of what was decoded.

    log_likelihood(lm, "The capital of Peru is", " Lima.", mc_num=128)   -> Estimate(mean, error)

The model predicts any masked positions from the rest, so it has a likelihood for every order of
writing. The mean over orders is a
lower bound of log p(answer | prompt) (LLaDA, arXiv 2502.09992, Eq. 6 and 14):

    E[ L / l * sum of log p(masked token | the rest) ],   l uniform in 1..L, l of the L answer
    tokens masked at random

With blocks the answer is scored block by block, earlier blocks given and later ones masked: the
order in which blocks are decoded, and
a block-causal model's own factorisation.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.forward import logits_at
from creditdecoding.decoding.request import LogitReads, Request, new_infill_request, new_request
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.ops.vocab_stats import vocab_stats
from creditdecoding.options import check_fields, from_mapping, option
from creditdecoding.trace import Trace

LONGEST_EXACT = 14

Text = str | Sequence[int]
"""Plain text, or ids."""


@dataclass(frozen=True)
class LikelihoodConfig:
    """How a likelihood is estimated."""

    mc_num: int = option(128, "Samples a block.", ge=1)
    ratios: str = option(
        "stratified",
        "How many are masked: spread evenly over the samples, or drawn for each.",
        choices=("stratified", "uniform"),
    )
    block_length: int | None = option(
        None,
        "Score block by block; by default the answer at once, or the blocks of a block-causal model.",
        ge=1,
    )
    cfg_scale: float = option(0.0, "Classifier-free guidance of the predictions.", ge=0.0)
    batch_size: int = option(32, "Rows that share a forward pass.", ge=1)
    seed: int = option(
        0, "Seed of the masks; a result does not depend on what else is scored.", ge=0, le=2**62
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error in nats; the error is NaN for a single sample of a block longer than
    one token.
    """

    mean: float
    error: float


@dataclass(frozen=True)
class TraceLikelihood:
    """Log-probability of each written token at the pass that wrote it, by position, in nats."""

    by_position: Mapping[int, float]

    @property
    def total(self) -> float:
        """Their sum: the log-probability of this answer written in this order."""
        return math.fsum(self.by_position.values())


@dataclass(frozen=True)
class TokenQuery:
    """Ask for log p of `targets` [n] at `positions` [n] of `row`'s canvas."""

    row: Request
    positions: Tensor
    targets: Tensor


def log_likelihood(lm: LM, prompt: Text, answer: Text, **options: Any) -> Estimate:
    """Monte-Carlo bound on log p(answer | prompt); `options` are fields of `LikelihoodConfig`.
    Raises `OptionError`.
    """
    return log_likelihoods(lm, [(prompt, answer)], **options)[0]


def log_likelihoods(lm: LM, pairs: Iterable[tuple[Text, Text]], **options: Any) -> list[Estimate]:
    """The same for many (prompt, answer) in shared batches."""
    config = from_mapping(LikelihoodConfig, options)
    plans = [_blocks(lm, prompt, answer, config) for prompt, answer in pairs]
    queries = (query for plan in plans for query in _samples(plan, lm.vocab.mask_id, config))
    found = _log_probs(lm, queries, config.batch_size)
    return [
        _estimate([[next(found) for _ in range(_count(row, config))] for row, _ in plan], plan)
        for plan in plans
    ]


def exact_bound(lm: LM, prompt: Text, answer: Text, **options: Any) -> float:
    """What `log_likelihood` estimates, by all 2^L - 1 masks of each block; for blocks of at most
    `LONGEST_EXACT` tokens.
    """
    config = from_mapping(LikelihoodConfig, options)
    plan = _blocks(lm, prompt, answer, config)
    longest = max(row.initial_masks for row, _ in plan)
    if longest > LONGEST_EXACT:
        raise OptionError(
            "too long to enumerate",
            given=longest,
            allowed=f"at most {LONGEST_EXACT} tokens a block",
            hint="Use log_likelihood.",
        )
    weights, queries = [], []
    for row, tokens in plan:
        where = row.masked[slice(*row.block)].nonzero()[:, 0] + row.block[0]
        for count in range(1, row.initial_masks + 1):
            for chosen in itertools.combinations(range(row.initial_masks), count):
                weights.append(1 / (count * math.comb(row.initial_masks, count)))
                queries.append(_query(row, tokens, where[list(chosen)], lm.vocab.mask_id))
    return math.fsum(
        w * float(x.sum()) for w, x in zip(weights, _log_probs(lm, queries, config.batch_size))
    )


def rescore(lm: LM, trace: Trace, batch_size: int = 32) -> TraceLikelihood:
    """Log-probabilities of a trace's tokens, each given what was written before its pass; without
    cache, sampling or credit.

    These are the model's own probabilities (guided, if decoding was); the trace's confidences are
    what the decoder compared. Raises
    `OptionError` for a trace without settings, of another model, or of a rule that wrote over
    tokens or took them back.
    """
    if batch_size < 1:
        raise OptionError(
            "batch_size is out of range",
            given=batch_size,
            allowed="1 <= batch_size",
            hint="Change the value and try again.",
        )
    queries = replay(lm, trace)
    found = [x for part in _log_probs(lm, queries, batch_size) for x in part.tolist()]
    return TraceLikelihood(
        dict(zip((p for query in queries for p in query.positions.tolist()), found))
    )


def replay(lm: LM, trace: Trace) -> list[TokenQuery]:
    """A trace's passes, each with the canvas before it and what it wrote. Raises `OptionError` as
    `rescore` does.
    """
    row = _replayed(lm, trace)
    canvas, queries = row.canvas, []
    for step in trace.steps:
        done = step.commits()
        now = torch.tensor(list(done), dtype=torch.long)
        if step.revoked or not bool((canvas[now] == lm.vocab.mask_id).all()):
            what = "the trace writes over tokens or takes them back"
            raise OptionError(
                what,
                given=trace.settings.get("decoder"),
                hint="Only what is written once can be scored.",
            )
        targets = torch.tensor(list(done.values()), dtype=torch.long)
        queries.append(
            TokenQuery(replace(row, canvas=canvas, block_index=step.block), now, targets)
        )
        canvas = canvas.index_put((now,), targets)
    return queries


def _replayed(lm: LM, trace: Trace) -> Request:
    """The row that the trace began with."""
    known = {
        name: value
        for name, value in trace.settings.items()
        if name not in ("decoder", "stop", "cache", "begun")
    }
    if "gen_length" not in known:
        raise OptionError(
            "the trace does not say how it was made",
            given=trace.settings,
            hint="Make it with an LM, or fill in its settings.",
        )
    config = from_mapping(GenerationConfig, {**known, "decoder": "fixed", "cache": "none"})
    written = trace.written
    if trace.prompt:
        row = new_request(
            0,
            trace.prompt,
            config,
            lm.vocab,
            lm.max_length,
            lm.geometry,
            trace.settings.get("begun", ()),
        )
    else:
        given = trace.finish.tokens if trace.finish is not None else ()
        row = new_infill_request(
            0,
            [lm.vocab.mask_id if i in written else x for i, x in enumerate(given)],
            config,
            lm.vocab,
            lm.max_length,
            lm.geometry,
        )
    fits = all(step.block < len(row.blocks) for step in trace.steps) and max(
        written, default=0
    ) < len(row.canvas)
    if not fits or any(not 0 <= x < lm.vocab.size for x in (*trace.prompt, *written.values())):
        raise OptionError(
            "the trace is of another model", hint="Score it with the model that made it."
        )
    return row


def _blocks(
    lm: LM, prompt: Text, answer: Text, config: LikelihoodConfig
) -> list[tuple[Request, Tensor]]:
    """A row for each block of the answer, earlier blocks written, later ones masked; and the whole
    canvas, written.
    """
    given, wanted = _ids(lm, prompt, "prompt"), _ids(lm, answer, "answer")
    width = config.block_length or lm.geometry.causal_block or len(wanted)
    request = GenerationConfig(
        decoder="fixed",
        gen_length=len(wanted),
        block_length=width,
        cache="none",
        cfg_scale=config.cfg_scale,
    )
    row = new_request(0, given, request, lm.vocab, lm.max_length, lm.geometry)
    tokens = row.canvas.clone()
    tokens[row.answer_start : row.answer_end] = torch.tensor(wanted)
    found = []
    for span, (start, end) in enumerate(row.blocks):
        canvas = torch.cat((tokens[:start], row.canvas[start:]))
        found.append(
            (
                replace(
                    row,
                    canvas=canvas,
                    block_index=span,
                    initial_masks=int(row.masked[start:end].sum()),
                ),
                tokens,
            )
        )
    return found


def _ids(lm: LM, text: Text, noun: str) -> list[int]:
    ids = lm.encode_text(text) if isinstance(text, str) else [int(i) for i in text]
    if not ids:
        raise OptionError(f"the {noun} is empty", hint="Give at least one token.")
    bad = [i for i in ids if not 0 <= i < lm.vocab.size or i == lm.vocab.mask_id]
    if bad:
        allowed = f"0 <= id < {lm.vocab.size}, not the mask {lm.vocab.mask_id}"
        raise OptionError(
            f"the {noun} has ids that no text has",
            given=bad[0],
            allowed=allowed,
            hint="Check the tokenizer.",
        )
    return ids


def _count(row: Request, config: LikelihoodConfig) -> int:
    """Samples of a block: one, if there is only one way to mask it."""
    return config.mc_num if row.initial_masks > 1 else 1


def _samples(
    plan: Sequence[tuple[Request, Tensor]], mask_id: int, config: LikelihoodConfig
) -> Iterator[TokenQuery]:
    """The noised canvases of all blocks, in the order of their strata."""
    noise = torch.Generator().manual_seed(config.seed)
    for row, tokens in plan:
        n, size = _count(row, config), row.initial_masks
        where = row.masked[slice(*row.block)].nonzero()[:, 0] + row.block[0]
        u = torch.rand(n, generator=noise, dtype=torch.float64)
        ratio = (torch.arange(n) + u) / n if config.ratios == "stratified" else u
        for count in (ratio * size).long().clamp(max=size - 1) + 1:
            yield _query(
                row, tokens, where[torch.randperm(size, generator=noise)[: int(count)]], mask_id
            )


def _query(row: Request, tokens: Tensor, masked: Tensor, mask_id: int) -> TokenQuery:
    """The block of `row` written but for the positions `masked`."""
    end = row.block[1]
    canvas = torch.cat((tokens[:end], row.canvas[end:])).index_fill(0, masked, mask_id)
    return TokenQuery(replace(row, canvas=canvas), masked, tokens[masked])


def _estimate(
    found: Sequence[Sequence[Tensor]], plan: Sequence[tuple[Request, Tensor]]
) -> Estimate:
    """Sum over blocks of the mean sample; the variance of neighbours tells that of a stratum, and
    is what it is where there are none.
    """
    mean, variance = 0.0, 0.0
    for samples, (row, _) in zip(found, plan):
        x = torch.tensor(
            [float(part.sum()) * row.initial_masks / len(part) for part in samples],
            dtype=torch.float64,
        )
        mean += float(x.mean())
        if row.initial_masks > 1:
            variance += float(x.diff().square().mean()) / (2 * len(x)) if len(x) > 1 else math.nan
    return Estimate(mean, math.sqrt(variance))


@torch.inference_mode()
def _log_probs(lm: LM, queries: Iterable[TokenQuery], batch_size: int) -> Iterator[Tensor]:
    """log p of each query's targets in float64, `batch_size` queries a pass."""
    waiting = iter(queries)
    while batch := list(itertools.islice(waiting, batch_size)):
        row = torch.cat([torch.full_like(query.positions, i) for i, query in enumerate(batch)])
        reads = LogitReads.plain(row, torch.cat([query.positions for query in batch]))
        requests = [query.row for query in batch]
        logits = logits_at(lm.model, requests, lm.vocab, lm.device, reads)
        targets = torch.cat([query.targets for query in batch]).to(logits.device)
        target_logits = logits.gather(1, targets[:, None])[:, 0].double()
        log_probs = target_logits - vocab_stats(logits)[2].double()
        yield from log_probs.cpu().split([len(query.positions) for query in batch])
