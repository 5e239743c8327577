"""Log-probabilities of the steps of an answer under a learning model, from its decoding trace.

A step's log-probability is the sum over its tokens of log p(token | canvas before the pass that
wrote it). p is what tokens are drawn from: the softmax of the logits over the temperature, without
ids that must not be written. The end token belongs to the last step, or to a step of its own where
the answer ended after a delimiter (`with_end`). Tokens after it, or after the steps that are kept,
do not count.

A rule sees the draws at every masked position of its block before it decides which to keep. So
there are two sums (`TOKENS` of the options):
    committed    over tokens at the pass that committed them. Its gradient is the score function of
                 the answer if every draw is kept; otherwise it also contains how sharp the model
                 is where it wrote, whose expectation is not 0
    all_draws    over all draws, discarded ones too, each in the step of its position (after the
                 end: the last step). Its gradient is the score function for every rule that draws
                 from p, with much variance
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import settings
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.dedup import representatives, unique_reads
from creditdecoding.decoding.forward import Denoiser, logits_at
from creditdecoding.decoding.request import LogitReads, check_supported
from creditdecoding.errors import OptionError
from creditdecoding.likelihood import TokenQuery, replay
from creditdecoding.lm import LM
from creditdecoding.pav.sampler import Rollout
from creditdecoding.pav.steps import Delimiter, PartialAnswer, extend
from creditdecoding.trace import StepEvent

MAX_TABLE_VALUES = 2**26
"""Size of a table of log-probabilities while a run learns: a pass takes the lines that fit."""
COLDEST = 1e-3
"""Below this temperature the gradient of a log-probability, which grows as 1/T, overflows."""
EXACT_CACHES = ("auto", "none", "block")
NEUTRAL_OPTIONS = (("top_k", None), ("top_p", None), ("cfg_scale", 0.0))
"""Options with the value under which tokens are drawn from the model's own softmax."""


@dataclass(frozen=True)
class ScoredPass:
    """A pass of answer number `answer`: the tokens that count, and the step, from 0, of each."""

    answer: int
    query: TokenQuery
    steps: tuple[int, ...]

    @property
    def positions(self) -> list[int]:
        """The positions of the tokens that count."""
        positions: list[int] = self.query.positions.tolist()
        return positions

    def select(self, indices: Sequence[int]) -> ScoredPass:
        """The pass with some of its tokens."""
        index = torch.tensor(indices, dtype=torch.long)
        query = replace(
            self.query,
            positions=self.query.positions[index],
            targets=self.query.targets[index],
        )
        return ScoredPass(self.answer, query, tuple(self.steps[i] for i in indices))


def refuse_unscored(lm: LM, generation: GenerationConfig) -> None:
    """Refuse settings under which tokens are not drawn from the model's softmax, or only once.

    Raises `OptionError`.
    """
    rule = check_supported(generation.decoder, lm.geometry)
    if capabilities_of(rule).can_revise:
        raise OptionError(
            "a rule that writes over tokens or takes them back has no log-probability of its "
            "answers",
            given=settings(rule)["name"],
            hint="Choose another --decoder.",
        )
    if generation.temperature < COLDEST:
        raise OptionError(
            "without a temperature all samples are alike, and the gradient overflows",
            given=generation.temperature,
            allowed=f"at least {COLDEST}",
            hint="Try --temperature 1.",
        )
    for name, neutral in NEUTRAL_OPTIONS:
        value = getattr(generation, name)
        if value != neutral:
            raise OptionError(
                f"with {name} tokens are not drawn from the model's own softmax",
                given=value,
                hint=f"Leave --{name.replace('_', '-')} out.",
            )
    if generation.cache not in EXACT_CACHES:
        raise OptionError(
            "with an inexact cache tokens are not drawn from what a pass without it says",
            given=generation.cache,
            allowed=", ".join(EXACT_CACHES),
            hint="Leave --cache out.",
        )


def with_end(
    state: PartialAnswer, delimiter: Delimiter, decode: Callable[[Sequence[int]], str]
) -> PartialAnswer:
    """The state of a complete answer, its end token in a step of its own after a delimiter.

    To end there or to continue is a choice made in the state after that step, and weighted by the
    value of that state.
    """
    delimited = extend(PartialAnswer(state.prompt), state.written, delimiter, decode)
    if state.reason == "stop" and delimited.ends == state.ends:
        return replace(state, ends=(*state.ends, state.ends[-1]))
    return state


def scored_passes(
    lm: LM, answers: Sequence[Rollout], tokens: str = "committed"
) -> list[ScoredPass]:
    """The passes of the answers with the tokens that count (one of `TOKENS`).

    Raises `OptionError` for traces that `likelihood.rescore` refuses.
    """
    scored = []
    for number, rollout in enumerate(answers):
        for query, step in zip(replay(lm, rollout.trace), rollout.trace.steps):
            if tokens == "committed":
                one = _committed_tokens(lm, number, rollout.state, query)
            else:
                one = _all_tokens(number, rollout.state, query, step)
            if one.steps:
                scored.append(one)
    return scored


def _committed_tokens(lm: LM, answer: int, state: PartialAnswer, query: TokenQuery) -> ScoredPass:
    """A pass with the committed tokens of the state and its end token."""
    end = state.length
    ends_here = state.done and (query.positions == end)
    is_stop = torch.isin(query.targets, torch.tensor(lm.vocab.stop_ids))
    counted = (query.positions < end) | (ends_here & is_stop)
    indices = counted.nonzero()[:, 0].tolist()
    return ScoredPass(answer, query, _steps_of(state, query.positions)).select(indices)


def _all_tokens(
    answer: int, state: PartialAnswer, query: TokenQuery, step: StepEvent
) -> ScoredPass:
    """A pass with all draws, discarded ones too."""
    positions = torch.tensor(step.positions)
    query = replace(query, positions=positions, targets=torch.tensor(step.tokens))
    return ScoredPass(answer, query, _steps_of(state, positions))


def _steps_of(state: PartialAnswer, positions: Tensor) -> tuple[int, ...]:
    start = len(state.prompt)
    last = state.depth - 1
    return tuple(min(bisect_right(state.ends, p - start), last) for p in positions.tolist())


@dataclass(frozen=True)
class LogprobTable:
    """Log-probabilities [lines, vocab] in float32 or more, and the line of each token [n]."""

    logp: Float[Tensor, "lines vocab"]
    line: Int[Tensor, " n"]

    def count_by_line(self, counted: Float[Tensor, " n"]) -> Float[Tensor, " lines"]:
        """Sums of `counted` over the tokens of each line."""
        counts = torch.zeros(len(self.logp), device=self.line.device)
        return counts.index_add(0, self.line, counted)


def distributions(
    model: Denoiser, lm: LM, batch: Sequence[ScoredPass], temperature: float
) -> LogprobTable:
    """What the counted tokens of some passes were drawn from.

    One forward pass of `model`; equal canvases, and equal positions in them, are computed once.
    """
    requests = [one.query.row for one in batch]
    rows = [torch.full_like(one.query.positions, row) for row, one in enumerate(batch)]
    positions = torch.cat([one.query.positions for one in batch])
    reads = LogitReads.plain(torch.cat(rows), positions)
    computed, unique, line = unique_reads(_same_canvas(batch), reads)
    logits = logits_at(model, [requests[i] for i in computed], lm.vocab, lm.device, unique)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logp = (logits / temperature).log_softmax(-1)
    return LogprobTable(logp, line.to(logp.device))


def _same_canvas(batch: Sequence[ScoredPass]) -> Sequence[int]:
    """For each pass the index of the first one that shows the network the same."""
    return representatives([one.query.row for one in batch]) or range(len(batch))


def token_logprobs(table: LogprobTable, batch: Sequence[ScoredPass]) -> Float[Tensor, " n"]:
    """Log-probability of each counted token of some passes, from their `distributions`."""
    targets = torch.cat([one.query.targets for one in batch])
    return table.logp[table.line, targets.to(table.logp.device)]


def divergence(
    logp: Float[Tensor, "n vocab"], base: Float[Tensor, "n vocab"]
) -> Float[Tensor, " n"]:
    """KL(p || base) of each line, exactly, in nats; ids that neither may write count 0."""
    log_ratio = torch.where(logp == -torch.inf, torch.zeros_like(logp), logp - base)
    return (logp.exp() * log_ratio).sum(-1)


def batches(
    passes: Sequence[ScoredPass], size: int, lines: int | None = None
) -> list[list[ScoredPass]]:
    """Passes in batches of at most `size` canvases, the longest first.

    Passes over the same canvas are in one batch. With `lines`, a batch asks for logits at no more
    positions than that, and a canvas with more of them comes in several parts.
    """
    by_canvas: dict[int, list[ScoredPass]] = {}
    for first, one in zip(_same_canvas(passes), passes):
        by_canvas.setdefault(first, []).append(one)
    groups = sorted(by_canvas.values(), key=_canvas_length, reverse=True)
    if lines is not None:
        groups = [part for group in groups for part in _split_positions(group, lines)]
    joined: list[list[ScoredPass]] = []
    count = 0
    used = 0
    for group in groups:
        needed = len(_positions(group)) if lines is not None else 0
        is_full = count == size or (lines is not None and used + needed > lines)
        if not joined or is_full:
            joined.append([])
            count = 0
            used = 0
        joined[-1] += group
        count += 1
        used += needed
    return joined


def _canvas_length(group: Sequence[ScoredPass]) -> int:
    return len(group[0].query.row.canvas)


def _positions(group: Sequence[ScoredPass]) -> list[int]:
    """The positions at which the passes over one canvas ask for logits, each once."""
    return sorted({position for one in group for position in one.positions})


def _split_positions(group: list[ScoredPass], lines: int) -> list[list[ScoredPass]]:
    """The passes over one canvas in parts that ask at `lines` positions at most."""
    positions = _positions(group)
    if len(positions) <= lines:
        return [group]
    parts = []
    for start in range(0, len(positions), lines):
        inside = set(positions[start : start + lines])
        selected = [
            one.select([i for i, position in enumerate(one.positions) if position in inside])
            for one in group
        ]
        parts.append([one for one in selected if one.steps])
    return parts
