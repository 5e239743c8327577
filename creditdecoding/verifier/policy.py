"""The log-probability of the steps of an answer under a model that learns: differentiable, from the answer's decoding trace.

A step's log-probability is the sum over its tokens of log p(token | canvas before the pass that wrote it), p being what tokens are drawn
from: the softmax of the logits over the temperature, ids that must not be written left out. The end token belongs to the last step
(one of its own where the one before was over: see `with_end`); what lies behind it, or behind the steps that are kept, counts for nothing.

A rule looks at what was drawn at every masked position of its block before it decides what to keep. So there are two sums, `TOKENS`:
    written   over tokens at the pass that wrote them. Its gradient is the score function of the answer where every draw is kept (one
              position a pass); else it also holds how sharp the model is where it wrote, whose expectation is not 0
    drawn     over all draws, discarded ones too, a position's in the step in which it lies (behind the end: the last one). Its gradient
              is the score function for every rule that draws from p, with more variance
Leaves to others: replaying a trace (likelihood.py), what a step is rewarded with (rewards.py), learning (reinforce.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.canvas import fitted
from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import settings
from creditdecoding.decoders.base import tentative
from creditdecoding.errors import OptionError
from creditdecoding.generate import Denoiser, logits_at
from creditdecoding.likelihood import Query, replay
from creditdecoding.lm import LM
from creditdecoding.verifier.sampler import Drawn
from creditdecoding.verifier.steps import State, grown

TOKENS = ("written", "drawn")


@dataclass(frozen=True)
class Pass:
    """A pass of an answer (its place among those given): the tokens it wrote that count, and the step, from 0, in which each lies."""

    answer: int
    query: Query
    steps: tuple[int, ...]


def refuse_unscored(lm: LM, generation: GenerationConfig) -> None:
    """Refuse what tokens cannot be drawn with, or not from the model's own softmax. Raises `OptionError`."""
    rule = fitted(generation.decoder, lm.layout)
    if tentative(rule):
        what, hint = "a rule that writes over tokens or takes them back has no log-probability of its answers", "Choose another --decoder."
        raise OptionError(what, given=settings(rule)["name"], hint=hint)
    if generation.temperature == 0:
        raise OptionError("without a temperature all samples are alike", given=0, allowed="0 < temperature", hint="Try --temperature 1.")
    for name, none in (("top_k", None), ("top_p", None), ("cfg_scale", 0.0)):
        if getattr(generation, name) != none:
            what = f"with {name} tokens are not drawn from the model's own softmax"
            raise OptionError(what, given=getattr(generation, name), hint=f"Leave --{name.replace('_', '-')} out.")
    if generation.cache not in ("auto", "none", "block"):
        what = "with a cache that is not exact tokens are not drawn from what a pass without it says"
        raise OptionError(what, given=generation.cache, allowed="auto, none, block", hint="Leave --cache out.")


def with_end(state: State, delimiter: str, decode: Callable[[Sequence[int]], str]) -> State:
    """A complete answer's state, with a step of its own for the end token where the last step had ended at its delimiter.

    Ending there or going on is a choice made in the state behind that step, and so weighed by what is known of that state.
    """
    over = grown(State(state.prompt), state.written, delimiter, decode).ends
    return replace(state, ends=(*state.ends, state.ends[-1])) if state.reason == "stop" and over == state.ends else state


def passes(lm: LM, answers: Sequence[Drawn], tokens: str = "written") -> list[Pass]:
    """The passes of the answers, with what counts (one of `TOKENS`). Raises `OptionError` for traces that `likelihood.rescore` refuses."""
    found = []
    for place, drawn in enumerate(answers):
        for query, step in zip(replay(lm, drawn.trace), drawn.trace.steps):
            if tokens == "drawn":
                query = replace(query, positions=torch.tensor(step.positions), targets=torch.tensor(step.tokens))
            found.append(_counted(lm, place, drawn.state, query, tokens == "drawn"))
    return [each for each in found if each.steps]


def _counted(lm: LM, place: int, state: State, query: Query, all_: bool) -> Pass:
    """A pass without the tokens that count for nothing."""
    kept, steps, first = [], [], len(state.prompt)
    for i, (position, token) in enumerate(zip(query.positions.tolist(), query.targets.tolist())):
        offset = position - first
        ended = state.done and offset == len(state.written) and token in lm.words.stop_ids
        if all_ or offset < len(state.written) or ended:
            kept.append(i)
            steps.append(min(bisect_right(state.ends, offset), state.depth - 1))
    return Pass(place, replace(query, positions=query.positions[kept], targets=query.targets[kept]), tuple(steps))


def distributions(model: Denoiser, lm: LM, batch: Sequence[Pass], temperature: float) -> Float[Tensor, "n vocab"]:
    """What each counted token of some passes was drawn from, as log-probabilities of at least float32; one forward pass of `model`."""
    at_row = torch.cat([torch.full_like(each.query.positions, i) for i, each in enumerate(batch)])
    position = torch.cat([each.query.positions for each in batch])
    flat = logits_at(model, [each.query.row for each in batch], lm.words, lm.device, at_row, position)
    return (flat.to(torch.promote_types(flat.dtype, torch.float32)) / temperature).log_softmax(-1)


def chosen(found: Float[Tensor, "n vocab"], batch: Sequence[Pass]) -> Float[Tensor, " n"]:
    """Log-probability of each counted token of some passes, from their `distributions`."""
    targets = torch.cat([each.query.targets for each in batch]).to(found.device)
    return found.gather(1, targets[:, None])[:, 0]


def divergence(found: Float[Tensor, "n vocab"], base: Float[Tensor, "n vocab"]) -> Float[Tensor, " n"]:
    """KL(found || base) of each line, exactly, in nats; ids that neither may write count 0."""
    gap = torch.where(found == -torch.inf, torch.zeros_like(found), found - base)
    return (found.exp() * gap).sum(-1)


def batches(every: Sequence[Pass], size: int) -> list[list[Pass]]:
    """Passes in batches of at most `size`, such of similar length together, the longest first."""
    order = sorted(every, key=lambda each: len(each.query.row.canvas), reverse=True)
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def step_logprobs(
    lm: LM, answers: Sequence[Drawn], temperature: float, tokens: str = "written", batch_size: int = 16
) -> list[Float[Tensor, " steps"]]:
    """Log-probability of each step of each answer under `lm.model`, with gradient; steps that were given with the question have 0.

    At temperature 1 the sums are those of `likelihood.rescore`. Raises `OptionError` as `passes` does.
    """
    found: list[Tensor] = [torch.zeros(drawn.state.depth, device=lm.device) for drawn in answers]
    for batch in batches(passes(lm, answers, tokens), batch_size):
        values = chosen(distributions(lm.model, lm, batch, temperature), batch)
        for each, part in zip(batch, values.split([len(each.steps) for each in batch])):
            places = torch.tensor(each.steps, device=part.device)
            found[each.answer] = found[each.answer].to(part.dtype).index_add(0, places, part)
    return found
