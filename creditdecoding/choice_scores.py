"""How likely a model finds given tokens at masked positions, from one pass.

    for score in lm.score_choices("The capital of Peru is[MASK].", [" Lima", " Quito"]):
        print(score.text, score.logprob)

A masked model predicts all of its masks at once, so the choices need not be written into the text:
choices of one length share a row, and all rows share a pass. The tokens of a choice do not see each
other; its log-probability is the sum of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import Request, new_infill_request
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM
from creditdecoding.text.gaps import Gap, split_gaps
from creditdecoding.trace import Alternatives, StepEvent

MAX_SCORED = 256
Choice = str | Sequence[int]
"""A text, or ids."""


@dataclass(frozen=True)
class ChoiceScore:
    """A choice with the log-probability of each of its tokens, in nats, given the text around it.

    An id that is never written, as the mask and end tokens, has -9999.

    `top_logprobs`: the likeliest ids at each of its positions, the likeliest first.
    """

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()

    @property
    def logprob(self) -> float:
        """The sum over its tokens."""
        return math.fsum(self.logprobs)


def score_choices(
    lm: LM,
    text: str,
    choices: Sequence[Choice],
    config: GenerationConfig,
    top_logprobs: int = 0,
) -> list[ChoiceScore]:
    """The scores of choices at the gaps of a text, in their order. Raises `OptionError`."""
    pieces = split_gaps(text, lm.max_length)
    requests = choice_requests(lm, pieces, choices, config, top_logprobs)
    events = [event for event in lm.events(requests) if isinstance(event, StepEvent)]
    rows = [event.alternatives or () for event in events]
    return scores_of(lm, choices, rows, top_logprobs)


def choice_requests(
    lm: LM,
    pieces: Sequence[str | Sequence[int] | Gap],
    choices: Sequence[Choice],
    config: GenerationConfig,
    top_logprobs: int = 0,
) -> list[Request]:
    """The requests that score choices at the gaps between pieces of text or ids, one for each
    length of a choice; each ends after one pass.

    A single gap without a number of tokens is as long as the choice. Raises `OptionError` for
    choices of another length than the gaps, and for gaps that one pass does not see.
    """
    ids = choice_ids(lm, choices)
    gaps = [piece for piece in pieces if isinstance(piece, Gap)]
    grows = len(gaps) == 1 and not gaps[0].fixed
    requests = []
    for index, length in enumerate(sorted({len(own) for own in ids})):
        counts = [length] if grows else [gap.length for gap in gaps]
        _check_length(length, sum(counts))
        request = _masked_request(lm, index, pieces, counts, config)
        scored_ids = tuple(zip(*(own for own in ids if len(own) == length)))
        requests.append(replace(request, scored_ids=scored_ids, top_logprobs=top_logprobs))
    return requests


def scores_of(
    lm: LM,
    choices: Sequence[Choice],
    rows: Sequence[Alternatives],
    top_logprobs: int,
) -> list[ChoiceScore]:
    """The scores of choices from the passes of their requests, in the order of the choices."""
    row_of_length = {len(row): row for row in rows}
    logprobs_of_length: dict[int, list[Mapping[int, float]]] = {
        length: [dict(pairs) for pairs in row] for length, row in row_of_length.items()
    }
    scores = []
    for choice, ids in zip(choices, choice_ids(lm, choices)):
        row = row_of_length[len(ids)]
        text = choice if isinstance(choice, str) else lm.tokenizer.decode(ids)
        logprobs = tuple(own[token] for token, own in zip(ids, logprobs_of_length[len(ids)]))
        top = tuple(pairs[:top_logprobs] for pairs in row)
        scores.append(ChoiceScore(text, ids, logprobs, top))
    return scores


def choice_ids(lm: LM, choices: Sequence[Choice]) -> list[tuple[int, ...]]:
    """The ids of choices. Raises `OptionError` for none, too many, and ids that no text has."""
    ids = [
        tuple(lm.encode_text(choice) if isinstance(choice, str) else choice) for choice in choices
    ]
    if not 0 < len(ids) <= MAX_SCORED or not all(ids):
        raise OptionError(
            "choices must be texts or lists of ids that are not empty",
            given=f"{len(ids)} choices",
            allowed=f"1 to {MAX_SCORED}",
            hint="Correct the list.",
        )
    lm.check_prompt_ids([token for own in ids for token in own])
    return ids


def _check_length(length: int, positions: int) -> None:
    if length != positions:
        raise OptionError(
            "a choice and the gaps differ in length",
            given=f"{length} tokens for {positions} positions",
            hint="Use one [MASK], which is as long as the choice, or choices of that length.",
        )


def _masked_request(
    lm: LM,
    index: int,
    pieces: Sequence[str | Sequence[int] | Gap],
    counts: Sequence[int],
    config: GenerationConfig,
) -> Request:
    """A request whose gaps have these lengths, and which one pass fills."""
    lengths = iter(counts)
    canvas: list[int] = []
    for piece in pieces:
        if isinstance(piece, Gap):
            canvas += [lm.vocab.mask_id] * next(lengths)
            continue
        ids = lm.encode_text(piece) if isinstance(piece, str) else piece
        lm.check_prompt_ids(ids)
        canvas += ids
    width = lm.geometry.causal_block or len(canvas)
    rule = f"fixed:k={len(canvas)}"
    one_pass = replace(config, decoder=rule, block_length=width, cache="none", stop=())
    model = (lm.vocab, lm.max_length, lm.geometry)
    request = new_infill_request(index, canvas, one_pass, *model)
    if len(request.blocks) > 1:
        raise OptionError(
            "this model fills its blocks one after the other, so no pass sees all gaps",
            given=f"gaps in {len(request.blocks)} blocks",
            allowed=f"gaps within a block of {width} positions",
            hint="Shorten the text between them, or use a model with full attention.",
        )
    return request
