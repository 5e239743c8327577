"""How likely a model finds a text: the Monte-Carlo bound of masked diffusion, and the probabilities
of a decoded answer.

    log_likelihood(lm, "The capital of Peru is", " Lima.", mc_num=128)   -> Estimate(mean, error)

The model predicts any masked positions from the rest, so it has a likelihood for every order of
writing. The mean over all orders is a lower bound of log p(answer | prompt) (LLaDA, arXiv
2502.09992, Eq. 6 and 14):

    E[ L / l * sum of log p(masked token | the rest) ],   l uniform in 1..L, l of the L answer
    tokens masked at random

With blocks, the answer is scored block by block, earlier blocks given and later ones masked: the
order in which blocks are decoded, and the factorisation of a block-causal model.
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
from creditdecoding.decoding.request import (
    LogitReads,
    Request,
    new_infill_request,
    new_request,
)
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.ops.vocab_stats import vocab_stats
from creditdecoding.options import check_fields, from_mapping, option
from creditdecoding.trace import Trace

Text = str | Sequence[int]
"""Plain text, or ids."""


@dataclass(frozen=True)
class LikelihoodConfig:
    """How a likelihood is estimated."""

    mc_num: int = option(128, "Samples for each block.", ge=1)
    ratios: str = option(
        "stratified",
        "How many tokens are masked: spread evenly over the samples, or drawn for each.",
        choices=("stratified", "uniform"),
    )
    block_length: int | None = option(
        None,
        "Score block by block; by default the whole answer, or a block-causal model's blocks.",
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
    """Mean and standard error in nats; the error is NaN for a single sample of a block of several
    tokens.
    """

    mean: float
    error: float


@dataclass(frozen=True)
class TraceLikelihood:
    """Log-probability in nats of each written token at the pass that wrote it, by position."""

    by_position: Mapping[int, float]

    @property
    def total(self) -> float:
        """The log-probability of the answer, written in this order."""
        return math.fsum(self.by_position.values())


@dataclass(frozen=True)
class TokenQuery:
    """Asks for log p of the `targets` [n] at `positions` [n] of `row`, given its canvas."""

    row: Request
    positions: Tensor
    targets: Tensor


@dataclass(frozen=True)
class _ScoredBlock:
    """A block of an answer to score: its request, and the whole canvas with the answer written."""

    request: Request
    tokens: Tensor

    @property
    def length(self) -> int:
        """Tokens of the answer in the block."""
        return self.request.initial_masks

    def samples(self, config: LikelihoodConfig) -> int:
        """How often the block is masked: once if there is only one way."""
        return config.mc_num if self.length > 1 else 1

    def queries(
        self, config: LikelihoodConfig, noise: torch.Generator, mask_id: int
    ) -> Iterator[TokenQuery]:
        """The block with random tokens masked, in the order of the strata."""
        start, end = self.request.block
        positions = self.request.masked[start:end].nonzero()[:, 0] + start
        written = torch.cat((self.tokens[:end], self.request.canvas[end:]))
        samples = self.samples(config)
        ratio = torch.rand(samples, generator=noise, dtype=torch.float64)
        if config.ratios == "stratified":
            ratio = (torch.arange(samples) + ratio) / samples
        counts = (ratio * self.length).long().clamp(max=self.length - 1) + 1
        for count in counts.tolist():
            masked = positions[torch.randperm(self.length, generator=noise)[:count]]
            canvas = written.index_fill(0, masked, mask_id)
            yield TokenQuery(replace(self.request, canvas=canvas), masked, self.tokens[masked])


def log_likelihood(lm: LM, prompt: Text, answer: Text, **options: Any) -> Estimate:
    """Monte-Carlo bound on log p(answer | prompt); `options` are fields of `LikelihoodConfig`.

    Raises `OptionError`.
    """
    return log_likelihoods(lm, [(prompt, answer)], **options)[0]


def log_likelihoods(lm: LM, pairs: Iterable[tuple[Text, Text]], **options: Any) -> list[Estimate]:
    """The same for many (prompt, answer) pairs in shared batches."""
    config = from_mapping(LikelihoodConfig, options)
    answers = [_blocks(lm, prompt, answer, config) for prompt, answer in pairs]
    log_probs = _log_probs(lm, _queries(answers, config, lm.vocab.mask_id), config.batch_size)
    return [
        _estimate(
            blocks, [list(itertools.islice(log_probs, block.samples(config))) for block in blocks]
        )
        for blocks in answers
    ]


def rescore(lm: LM, trace: Trace, batch_size: int = 32) -> TraceLikelihood:
    """Log-probabilities of a trace's tokens, each given what was written before its pass, without
    cache, sampling or credit.

    They are the model's own probabilities (guided if decoding was); the confidences in the trace
    are what the decoder compared. Raises `OptionError` for a trace without settings, of another
    model, or of a decoder that overwrote or remasked tokens.
    """
    if batch_size < 1:
        raise OptionError(
            "batch_size is out of range",
            given=batch_size,
            allowed="1 <= batch_size",
            hint="Change the value and try again.",
        )
    queries = replay(lm, trace)
    by_position: dict[int, float] = {}
    for query, log_probs in zip(queries, _log_probs(lm, queries, batch_size)):
        by_position.update(zip(query.positions.tolist(), log_probs.tolist()))
    return TraceLikelihood(by_position)


def replay(lm: LM, trace: Trace) -> list[TokenQuery]:
    """A trace's passes, each with the canvas before it and the tokens it wrote.

    Raises `OptionError` as `rescore` does.
    """
    request = _first_request(lm, trace)
    canvas = request.canvas
    queries = []
    for step in trace.steps:
        written = step.commits()
        positions = torch.tensor(list(written), dtype=torch.long)
        targets = torch.tensor(list(written.values()), dtype=torch.long)
        if step.revoked or not bool((canvas[positions] == lm.vocab.mask_id).all()):
            raise OptionError(
                "the trace overwrites or remasks tokens",
                given=trace.settings.get("decoder"),
                hint="Only what is written once can be scored.",
            )
        before = replace(request, canvas=canvas, block_index=step.block)
        queries.append(TokenQuery(before, positions, targets))
        canvas = canvas.index_put((positions,), targets)
    return queries


def _first_request(lm: LM, trace: Trace) -> Request:
    """The request that the trace began with."""
    if "gen_length" not in trace.settings:
        raise OptionError(
            "the trace does not say how it was made",
            given=trace.settings,
            hint="Make it with an LM, or fill in its settings.",
        )
    settings = {**trace.settings, "decoder": "fixed", "cache": "none", "stop": ()}
    answer_prefix = settings.pop("begun", ())
    config = from_mapping(GenerationConfig, settings)
    written = trace.written
    model = (lm.vocab, lm.max_length, lm.geometry)
    if trace.prompt:
        request = new_request(0, trace.prompt, config, *model, answer_prefix)
    else:
        ids = list(trace.tokens)
        for position in written.keys() & range(len(ids)):
            ids[position] = lm.vocab.mask_id
        request = new_infill_request(0, ids, config, *model)
    fits = all(step.block < len(request.blocks) for step in trace.steps)
    fits = fits and max(written, default=0) < len(request.canvas)
    if not fits or any(not 0 <= x < lm.vocab.size for x in (*trace.prompt, *written.values())):
        raise OptionError(
            "the trace is of another model", hint="Score it with the model that made it."
        )
    return request


def _blocks(lm: LM, prompt: Text, answer: Text, config: LikelihoodConfig) -> list[_ScoredBlock]:
    """The blocks of an answer; in each request earlier blocks are written, later ones masked."""
    prompt_ids = _ids(lm, prompt, "prompt")
    answer_ids = _ids(lm, answer, "answer")
    generation = GenerationConfig(
        decoder="fixed",
        gen_length=len(answer_ids),
        block_length=config.block_length or lm.geometry.causal_block or len(answer_ids),
        cache="none",
        cfg_scale=config.cfg_scale,
    )
    request = new_request(0, prompt_ids, generation, lm.vocab, lm.max_length, lm.geometry)
    tokens = request.canvas.clone()
    tokens[request.answer_start : request.answer_end] = torch.tensor(answer_ids)
    blocks = []
    for index, (start, end) in enumerate(request.blocks):
        canvas = torch.cat((tokens[:start], request.canvas[start:]))
        masks = int(request.masked[start:end].sum())
        at_block = replace(request, canvas=canvas, block_index=index, initial_masks=masks)
        blocks.append(_ScoredBlock(at_block, tokens))
    return blocks


def _ids(lm: LM, text: Text, noun: str) -> list[int]:
    ids = lm.encode_text(text) if isinstance(text, str) else [int(i) for i in text]
    if not ids:
        raise OptionError(f"the {noun} is empty", hint="Give at least one token.")
    for token in ids:
        if not 0 <= token < lm.vocab.size or token == lm.vocab.mask_id:
            raise OptionError(
                f"the {noun} has ids that no text has",
                given=token,
                allowed=f"0 <= id < {lm.vocab.size}, not the mask {lm.vocab.mask_id}",
                hint="Check the tokenizer.",
            )
    return ids


def _queries(
    answers: Sequence[Sequence[_ScoredBlock]], config: LikelihoodConfig, mask_id: int
) -> Iterator[TokenQuery]:
    for blocks in answers:
        noise = torch.Generator().manual_seed(config.seed)
        for block in blocks:
            yield from block.queries(config, noise, mask_id)


def _estimate(blocks: Sequence[_ScoredBlock], log_probs: Sequence[Sequence[Tensor]]) -> Estimate:
    """The sum over blocks of the mean sample.

    The variance is estimated from neighbouring samples: with strata, that is the variance within a
    stratum; without, it is the ordinary one.
    """
    mean = 0.0
    variance = 0.0
    for block, samples in zip(blocks, log_probs):
        values = [float(sample.sum()) * block.length / len(sample) for sample in samples]
        x = torch.tensor(values, dtype=torch.float64)
        mean += float(x.mean())
        if block.length > 1:
            of_mean = float(x.diff().square().mean()) / (2 * len(x))
            variance += of_mean if len(x) > 1 else math.nan
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
