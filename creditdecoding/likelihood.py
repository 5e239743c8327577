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
        0,
        "Seed of the masks; a result does not depend on what else is scored.",
        ge=0,
        le=2**62,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Estimate:
    """Mean and standard error in nats.

    The error is NaN for a single sample of a block of several tokens.
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
        for count in self._mask_counts(config, noise):
            order = torch.randperm(self.length, generator=noise)
            masked = positions[order[:count]]
            canvas = written.index_fill(0, masked, mask_id)
            yield TokenQuery(
                row=replace(self.request, canvas=canvas),
                positions=masked,
                targets=self.tokens[masked],
            )

    def _mask_counts(self, config: LikelihoodConfig, noise: torch.Generator) -> list[int]:
        """How many tokens each sample masks, from 1 to all of them."""
        samples = self.samples(config)
        ratio = torch.rand(samples, generator=noise, dtype=torch.float64)
        if config.ratios == "stratified":
            ratio = (torch.arange(samples) + ratio) / samples
        others = (ratio * self.length).long()
        counts: list[int] = (others.clamp(max=self.length - 1) + 1).tolist()
        return counts


def log_likelihood(lm: LM, prompt: Text, answer: Text, **options: Any) -> Estimate:
    """Monte-Carlo bound on log p(answer | prompt); `options` are fields of `LikelihoodConfig`.

    Raises `OptionError`.
    """
    return log_likelihoods(lm, [(prompt, answer)], **options)[0]


def log_likelihoods(lm: LM, pairs: Iterable[tuple[Text, Text]], **options: Any) -> list[Estimate]:
    """The same for many (prompt, answer) pairs in shared batches."""
    config = from_mapping(LikelihoodConfig, options)
    answers = [_blocks(lm, prompt, answer, config) for prompt, answer in pairs]
    queries = _queries(answers, config, lm.vocab.mask_id)
    log_probs = _log_probs(lm, queries, config.batch_size)
    estimates = []
    for blocks in answers:
        samples = []
        for block in blocks:
            count = block.samples(config)
            samples.append(list(itertools.islice(log_probs, count)))
        estimates.append(_estimate(blocks, samples))
    return estimates


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
        positions = query.positions.tolist()
        by_position.update(zip(positions, log_probs.tolist()))
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
        was_masked = canvas[positions] == lm.vocab.mask_id
        if step.revoked or not bool(was_masked.all()):
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
    settings = {
        **trace.settings,
        "decoder": "fixed",
        "cache": "none",
        "stop": (),
    }
    answer_prefix = settings.pop("begun", ())
    config = from_mapping(GenerationConfig, settings)
    model = (lm.vocab, lm.max_length, lm.geometry)
    if trace.prompt:
        request = new_request(0, trace.prompt, config, *model, answer_prefix)
    else:
        ids = list(trace.tokens)
        for position in trace.written.keys() & range(len(ids)):
            ids[position] = lm.vocab.mask_id
        request = new_infill_request(0, ids, config, *model)
    if not _fits(trace, request, lm.vocab.size):
        raise OptionError(
            "the trace is of another model",
            hint="Score it with the model that made it.",
        )
    return request


def _fits(trace: Trace, request: Request, vocab_size: int) -> bool:
    """Whether the blocks, positions and ids of a trace exist in its request."""
    written = trace.written
    ids = (*trace.prompt, *written.values())
    blocks_exist = all(step.block < len(request.blocks) for step in trace.steps)
    positions_exist = max(written, default=0) < len(request.canvas)
    ids_exist = all(0 <= token < vocab_size for token in ids)
    return blocks_exist and positions_exist and ids_exist


def _blocks(lm: LM, prompt: Text, answer: Text, config: LikelihoodConfig) -> list[_ScoredBlock]:
    """The blocks of an answer; in each request earlier blocks are written, later ones masked."""
    prompt_ids = _ids(lm, prompt, "prompt")
    answer_ids = _ids(lm, answer, "answer")
    length = len(answer_ids)
    generation = GenerationConfig(
        decoder="fixed",
        gen_length=length,
        block_length=config.block_length or lm.geometry.causal_block or length,
        cache="none",
        cfg_scale=config.cfg_scale,
    )
    request = new_request(
        0,
        prompt_ids,
        generation,
        lm.vocab,
        lm.max_length,
        lm.geometry,
    )
    tokens = request.canvas.clone()
    tokens[request.answer_start : request.answer_end] = torch.tensor(answer_ids)
    blocks = []
    for index, (start, end) in enumerate(request.blocks):
        canvas = torch.cat((tokens[:start], request.canvas[start:]))
        at_block = replace(
            request,
            canvas=canvas,
            block_index=index,
            initial_masks=int(request.masked[start:end].sum()),
        )
        blocks.append(_ScoredBlock(at_block, tokens))
    return blocks


def _ids(lm: LM, text: Text, noun: str) -> list[int]:
    """The ids of a text. Raises `OptionError` if there are none, or some that no text has."""
    ids = lm.encode_text(text) if isinstance(text, str) else [int(token) for token in text]
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
    answers: Sequence[Sequence[_ScoredBlock]],
    config: LikelihoodConfig,
    mask_id: int,
) -> Iterator[TokenQuery]:
    """The samples of all answers; each answer's noise starts at the seed."""
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
        bounds = []
        for sample in samples:
            total = float(sample.sum())
            bounds.append(total * block.length / len(sample))
        x = torch.tensor(bounds, dtype=torch.float64)
        mean += float(x.mean())
        if block.length > 1:
            squares = x.diff().square()
            of_mean = float(squares.mean()) / (2 * len(x))
            variance += of_mean if len(x) > 1 else math.nan
    return Estimate(mean, math.sqrt(variance))


@torch.inference_mode()
def _log_probs(lm: LM, queries: Iterable[TokenQuery], batch_size: int) -> Iterator[Tensor]:
    """log p of each query's targets in float64, `batch_size` queries a pass."""
    waiting = iter(queries)
    while batch := list(itertools.islice(waiting, batch_size)):
        requests = [query.row for query in batch]
        counts = [len(query.positions) for query in batch]
        rows = [torch.full_like(query.positions, row) for row, query in enumerate(batch)]
        positions = [query.positions for query in batch]
        reads = LogitReads.plain(torch.cat(rows), torch.cat(positions))
        logits = logits_at(lm.model, requests, lm.vocab, lm.device, reads)
        targets = torch.cat([query.targets for query in batch])
        column = targets.to(logits.device)[:, None]
        target_logits = logits.gather(1, column)[:, 0]
        _, _, log_sums = vocab_stats(logits)
        log_probs = target_logits.double() - log_sums.double()
        yield from log_probs.cpu().split(counts)
