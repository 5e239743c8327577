"""The log-probability of the steps of an answer under a model that learns: differentiable, from the
answer's decoding trace.

A step's log-probability is the sum over its tokens of log p(token | canvas before the pass that
wrote it), p being what tokens are drawn
from: the softmax of the logits over the temperature, ids that must not be written left out. The end
token belongs to the last step
(one of its own where the one before was over: see `with_end`); what lies behind it, or behind the
steps that are kept, counts for nothing.

A rule looks at what was drawn at every masked position of its block before it decides what to keep.
So there are three sums (`TOKENS` of options.py):
    written   over tokens at the pass that wrote them. Its gradient is the score function of the
    answer where every draw is kept (one
              position a pass); else it also holds how sharp the model is where it wrote, whose
              expectation is not 0
    drawn     over all draws, discarded ones too, a position's in the step in which it lies (behind
    the end: the last one). Its gradient
              is the score function for every rule that draws from p, with much variance
    event     as `drawn`, but a discarded draw counts with the chance that a draw there is
    discarded: less variance, for rules that keep
              what is sure enough, `threshold` and `fixed`
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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

EVENTS = ("threshold", "fixed")
"""Rules that keep a draw for the confidence of its token alone."""
VALUES = 2**26
"""Values that a table of log-probabilities has at most where a run learns: a pass takes as many
lines as fit.
"""
COLDEST = 1e-3
"""Below this temperature the gradient of a log-probability, which grows as 1 / temperature, is soon
no number.
"""
CERTAIN = 2.0
"""A confidence that no draw has: each is discarded."""


@dataclass(frozen=True)
class ScoredPass:
    """A pass of an answer (its place among those given): the tokens that count, and the step, from
    0, in which each lies.

    `bounds`: at or above which confidence a draw would have been kept there, of discarded ones;
    infinite: the token itself counts.
    """

    answer: int
    query: TokenQuery
    steps: tuple[int, ...]
    bounds: tuple[float, ...]


def refuse_unscored(lm: LM, generation: GenerationConfig, tokens: str = "written") -> None:
    """Refuse what tokens cannot be drawn with, or not from the model's own softmax, or not be
    counted as asked. Raises `OptionError`.
    """
    rule = check_supported(generation.decoder, lm.geometry)
    if tokens == "event":
        _refuse_uneventful(settings(rule)["name"], generation.confidence_eos_eot_inf)
    if capabilities_of(rule).can_revise:
        what, hint = (
            "a rule that writes over tokens or takes them back has no log-probability of its answers",
            "Choose another --decoder.",
        )
        raise OptionError(what, given=settings(rule)["name"], hint=hint)
    if generation.temperature == 0:
        raise OptionError(
            "without a temperature all samples are alike",
            given=0,
            allowed="0 < temperature",
            hint="Try --temperature 1.",
        )
    if generation.temperature < COLDEST:
        what, hint = (
            "so small a temperature is greedy, and its gradient is no number",
            "Try --temperature 1.",
        )
        raise OptionError(
            what, given=generation.temperature, allowed=f"at least {COLDEST}", hint=hint
        )
    for name, none in (("top_k", None), ("top_p", None), ("cfg_scale", 0.0)):
        if getattr(generation, name) != none:
            what = f"with {name} tokens are not drawn from the model's own softmax"
            raise OptionError(
                what, given=getattr(generation, name), hint=f"Leave --{name.replace('_', '-')} out."
            )
    if generation.cache not in ("auto", "none", "block"):
        what = (
            "with a cache that is not exact tokens are not drawn from what a pass without it says"
        )
        raise OptionError(
            what, given=generation.cache, allowed="auto, none, block", hint="Leave --cache out."
        )


def with_end(
    state: PartialAnswer, delimiter: Delimiter, decode: Callable[[Sequence[int]], str]
) -> PartialAnswer:
    """A complete answer's state, with a step of its own for the end token where the last step had
    ended at its delimiter.

    Ending there or going on is a choice made in the state behind that step, and so weighed by what
    is known of that state.
    """
    over = extend(PartialAnswer(state.prompt), state.written, delimiter, decode).ends
    return (
        replace(state, ends=(*state.ends, state.ends[-1]))
        if state.reason == "stop" and over == state.ends
        else state
    )


def scored_passes(lm: LM, answers: Sequence[Rollout], tokens: str = "written") -> list[ScoredPass]:
    """The passes of the answers, with what counts (one of `options.TOKENS`). Raises `OptionError`
    for traces that `likelihood.rescore` refuses.
    """
    found = []
    for place, drawn in enumerate(answers):
        for query, step in zip(replay(lm, drawn.trace), drawn.trace.steps):
            bounds = [math.inf] * len(query.positions)
            if tokens != "written":
                query = replace(
                    query, positions=torch.tensor(step.positions), targets=torch.tensor(step.tokens)
                )
                bound = math.inf if tokens == "drawn" else _bound(drawn.trace.settings, step)
                bounds = [math.inf if kept else bound for kept in step.committed]
            found.append(_counted(lm, place, drawn.state, query, bounds, tokens != "written"))
    return [each for each in found if each.steps]


def _refuse_uneventful(rule: str, hushed: bool) -> None:
    """Refuse rules of which it is not known when they discard a draw. Raises `OptionError`."""
    if rule not in EVENTS or hushed:
        given = f"{rule}, confidence_eos_eot_inf" if hushed else rule
        hint = "Choose another --decoder, or --tokens drawn."
        raise OptionError(
            "it is not known when this rule discards a draw",
            given=given,
            allowed=", ".join(EVENTS),
            hint=hint,
        )


def _bound(told: Mapping[str, Any], step: StepEvent) -> float:
    """The confidence at which a pass keeps a draw. Raises `OptionError` for rules that keep by
    something else.
    """
    rule, kept = told["decoder"], [x for x, done in zip(step.confidence, step.committed) if done]
    _refuse_uneventful(rule["name"], told.get("confidence_eos_eot_inf", False))
    if rule["name"] == "fixed":
        return min(kept) if rule["order"] == "low_confidence" else CERTAIN
    return min(float(rule["threshold"]), max(kept))


def _counted(
    lm: LM,
    place: int,
    state: PartialAnswer,
    query: TokenQuery,
    bounds: Sequence[float],
    every: bool,
) -> ScoredPass:
    """A pass without the tokens that count for nothing; with `every` there are none."""
    kept, steps, first = [], [], len(state.prompt)
    for i, (position, token) in enumerate(zip(query.positions.tolist(), query.targets.tolist())):
        offset = position - first
        ended = state.done and offset == len(state.written) and token in lm.vocab.stop_ids
        if every or offset < len(state.written) or ended:
            kept.append(i)
            steps.append(min(bisect_right(state.ends, offset), state.depth - 1))
    query = replace(query, positions=query.positions[kept], targets=query.targets[kept])
    return ScoredPass(place, query, tuple(steps), tuple(bounds[i] for i in kept))


@dataclass(frozen=True)
class Lines:
    """What tokens were drawn from: log-probabilities [lines, vocab] of at least float32, and which
    line each counted token is of [n].
    """

    logp: Float[Tensor, "lines vocab"]
    of: Int[Tensor, " n"]


def distributions(
    model: Denoiser, lm: LM, batch: Sequence[ScoredPass], temperature: float
) -> Lines:
    """What each counted token of some passes was drawn from; one forward pass of `model`, over each
    canvas and each place in it once.
    """
    rows = [each.query.row for each in batch]
    at_row = torch.cat([torch.full_like(each.query.positions, i) for i, each in enumerate(batch)])
    reads = LogitReads.plain(at_row, _joined(batch, "positions"))
    runs, reads, of = unique_reads(_leads(batch), reads)
    flat = logits_at(model, [rows[i] for i in runs], lm.vocab, lm.device, reads)
    logp = (flat.to(torch.promote_types(flat.dtype, torch.float32)) / temperature).log_softmax(-1)
    return Lines(logp, of.to(logp.device))


def _leads(batch: Sequence[ScoredPass]) -> Sequence[int]:
    """For each pass the first of those that show the network the same."""
    return representatives([each.query.row for each in batch]) or range(len(batch))


def _joined(batch: Sequence[ScoredPass], name: str) -> Tensor:
    return torch.cat([getattr(each.query, name) for each in batch])


def token_logprobs(
    found: Lines, batch: Sequence[ScoredPass], temperature: float
) -> Float[Tensor, " n"]:
    """Log-probability of each counted token of some passes, from their `distributions`; of a
    discarded draw that of being discarded.
    """
    targets = _joined(batch, "targets").to(found.logp.device)
    bounds = torch.tensor(
        [bound for each in batch for bound in each.bounds], device=found.logp.device
    )
    itself = found.logp[found.of, targets]
    lost = (bounds != math.inf).nonzero()[:, 0]
    if not len(lost):
        return itself
    lines = found.logp[found.of[lost]]
    kept = (lines.detach() * temperature).softmax(-1) >= bounds[lost, None]
    below = lines.masked_fill(kept.scatter(1, targets[lost, None], False), -torch.inf).logsumexp(-1)
    return itself.index_put((lost,), below)


def divergence(
    found: Float[Tensor, "n vocab"], base: Float[Tensor, "n vocab"]
) -> Float[Tensor, " n"]:
    """KL(found || base) of each line, exactly, in nats; ids that neither may write count 0."""
    gap = torch.where(found == -torch.inf, torch.zeros_like(found), found - base)
    return (found.exp() * gap).sum(-1)


def batches(
    every: Sequence[ScoredPass], size: int, lines: int | None = None
) -> list[list[ScoredPass]]:
    """Passes in batches of at most `size` canvases, those of a canvas and of similar length
    together, the longest first.

    With `lines` a batch asks for logits at no more than so many places: a canvas with more is shown
    several times.
    """
    kinds: dict[int, list[ScoredPass]] = {}
    for lead, each in zip(_leads(every), every):
        kinds.setdefault(lead, []).append(each)
    order = sorted(kinds.values(), key=lambda kind: len(kind[0].query.row.canvas), reverse=True)
    if lines is not None:
        return _narrow([part for kind in order for part in _parts(kind, lines)], size, lines)
    return [
        [each for kind in order[start : start + size] for each in kind]
        for start in range(0, len(order), size)
    ]


def _places(kind: Sequence[ScoredPass]) -> list[int]:
    """The positions at which the passes over one canvas ask for logits, each once."""
    return sorted({position for each in kind for position in each.query.positions.tolist()})


def _parts(kind: list[ScoredPass], lines: int) -> list[list[ScoredPass]]:
    """The passes over one canvas, cut by position so that each part asks at `lines` places at most."""
    places = _places(kind)
    if len(places) <= lines:
        return [kind]
    parts = []
    for start in range(0, len(places), lines):
        wanted = set(places[start : start + lines])
        cut_passes = [_only(each, wanted) for each in kind]
        parts.append([each for each in cut_passes if each.steps])
    return parts


def _only(whole: ScoredPass, wanted: set[int]) -> ScoredPass:
    """What of a pass lies at some positions."""
    kept = [i for i, position in enumerate(whole.query.positions.tolist()) if position in wanted]
    query = replace(
        whole.query, positions=whole.query.positions[kept], targets=whole.query.targets[kept]
    )
    steps = tuple(whole.steps[i] for i in kept)
    bounds = tuple(whole.bounds[i] for i in kept)
    return ScoredPass(whole.answer, query, steps, bounds)


def _narrow(parts: Sequence[list[ScoredPass]], size: int, lines: int) -> list[list[ScoredPass]]:
    """Parts joined, in their order, to batches of at most `size` parts and `lines` places."""
    joined: list[list[ScoredPass]] = []
    count = 0
    used = 0
    for part in parts:
        needed = len(_places(part))
        if not joined or count == size or used + needed > lines:
            joined.append([])
            count = 0
            used = 0
        joined[-1] += part
        count += 1
        used += needed
    return joined


def step_logprobs(
    lm: LM,
    answers: Sequence[Rollout],
    temperature: float,
    tokens: str = "written",
    batch_size: int = 16,
) -> list[Float[Tensor, " steps"]]:
    """Log-probability of each step of each answer under `lm.model`, with gradient; steps that were
    given with the question have 0.

    At temperature 1 the sums are those of `likelihood.rescore`. Raises `OptionError` as `passes`
    does.
    """
    found: list[Tensor] = [torch.zeros(drawn.state.depth, device=lm.device) for drawn in answers]
    for batch in batches(scored_passes(lm, answers, tokens), batch_size):
        values = token_logprobs(distributions(lm.model, lm, batch, temperature), batch, temperature)
        for each, part in zip(batch, values.split([len(each.steps) for each in batch])):
            places = torch.tensor(each.steps, device=part.device)
            found[each.answer] = found[each.answer].to(part.dtype).index_add(0, places, part)
    return found
