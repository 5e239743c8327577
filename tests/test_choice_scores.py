"""Scores of choices are a dense softmax at masked positions, from one pass."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from creditdecoding.choice_scores import choice_requests
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from creditdecoding.models.transformer import Transformer
from creditdecoding.ops.head_logits import HeadLogits
from creditdecoding.text.gaps import Gap
from creditdecoding.trace import StepEvent
from tests.helpers.serving import Spy, with_model

BEFORE, AFTER = "The capital of Peru is", ". It is large."
CHOICES: list[str | list[int]] = [" Lima", " a city in the north", [7, 8, 9], " Quito"]


@functools.cache
def pocket(dtype: torch.dtype) -> LM:
    lm = load("pocket")
    assert isinstance(lm.model, Transformer)
    lm.model.to(dtype)
    return lm


@pytest.fixture(scope="module")
def lm() -> LM:
    """In float64: rows of another shape differ by rounding alone."""
    return pocket(torch.float64)


class Recorder(Spy):
    """Keeps the whole logits of a pass, and the row that each line is of."""

    def after(self, tokens: Tensor, read: tuple[Tensor, Tensor], logits: Any) -> Any:
        is_head = isinstance(logits, HeadLogits)
        self.logits = linear(logits.hidden, logits.weight) if is_head else logits.clone()
        self.row_of_line = read[0]
        return logits


def over_allowed(lm: LM, logits: Tensor) -> Tensor:
    """Log-probabilities by a softmax over all ids that may fill a gap."""
    never = [lm.vocab.mask_id, *lm.vocab.control_ids, *lm.vocab.stop_ids]
    logits = logits[:, : lm.vocab.size].double().clone()
    logits[:, never] = -torch.inf
    return logits.log_softmax(-1)


def dense(lm: LM, canvas: list[int]) -> Tensor:
    """Log-probabilities at every mask of a canvas, by the network alone."""
    tokens = torch.tensor([canvas])
    columns = (tokens[0] == lm.vocab.mask_id).nonzero()[:, 0]
    with torch.inference_mode():
        logits = lm.model(tokens, (torch.zeros_like(columns), columns))
    assert isinstance(logits, Tensor)
    return over_allowed(lm, logits)


def expected(lm: LM, choice: str | list[int]) -> tuple[list[int], Tensor]:
    ids = lm.encode_text(choice) if isinstance(choice, str) else choice
    masks = [lm.vocab.mask_id] * len(ids)
    return ids, dense(lm, [*lm.encode_text(BEFORE), *masks, *lm.encode_text(AFTER)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("fused_head", ["off", "on"])
def test_scores_are_the_dense_softmax_of_one_pass(fused_head: str, dtype: torch.dtype) -> None:
    """In bfloat16, where rows of another shape may differ visibly, of the logits of that pass."""
    lm = pocket(dtype)
    spy = Recorder(lm.model)
    watched = with_model(lm, spy)
    assert isinstance(lm.model, Transformer)
    lm.model.fused_head = fused_head
    watched.geometry = lm.model.geometry
    scores = watched.score_choices(f"{BEFORE}[MASK]{AFTER}", CHOICES, top_logprobs=3)
    lm.model.fused_head = "off"
    assert spy.passes == 1 and spy.logits.dtype == dtype
    lengths = sorted({len(score.ids) for score in scores})
    for choice, score in zip(CHOICES, scores, strict=True):
        ids, log_probs = expected(lm, choice)
        if dtype == torch.bfloat16:
            lines = spy.row_of_line == lengths.index(len(ids))
            log_probs = over_allowed(lm, spy.logits[lines])
        own = log_probs[range(len(ids)), ids]
        assert score.ids == tuple(ids) and score.text == lm.tokenizer.decode(ids)
        assert score.logprobs == pytest.approx(own.tolist(), abs=1e-5)
        assert score.logprob == pytest.approx(float(own.sum()), abs=1e-5)
        for pairs, row in zip(score.top_logprobs, log_probs, strict=True):
            values = [value for _, value in pairs]
            assert values == pytest.approx(row.topk(3).values.tolist(), abs=1e-5)
            assert row[[token for token, _ in pairs]].tolist() == pytest.approx(values, abs=1e-5)


def test_choices_fill_several_gaps(lm: LM) -> None:
    (score,) = lm.score_choices("a[MASK*2] b[MASK] c", [[25, 26, 27]])
    mask = lm.vocab.mask_id
    canvas = [*lm.encode_text("a"), mask, mask, *lm.encode_text(" b"), mask, *lm.encode_text(" c")]
    log_probs = dense(lm, canvas)[range(3), [25, 26, 27]]
    assert score.logprobs == pytest.approx(log_probs.tolist(), abs=1e-5)


def test_a_position_names_only_the_ids_that_choices_have_there(lm: LM) -> None:
    """Not every id of every choice: the work is that of the choices' tokens."""
    choices = [[7, 8, 9], [10, 11], [12, 8, 13]]
    pieces = ["a", Gap(1, fixed=False)]
    short, long = choice_requests(lm, pieces, choices, GenerationConfig())
    assert short.scored_ids == ((10,), (11,))
    assert long.scored_ids == ((7, 12), (8, 8), (9, 13))
    events = [event for event in lm.events([short, long]) if isinstance(event, StepEvent)]
    assert [[len(row) for row in event.alternatives or ()] for event in events] == [
        [1, 1],
        [2, 1, 2],
    ]


BAD: list[tuple[str, list[Any], str]] = [
    ("no gap", ["a"], "no mask"),
    ("x[MASK*2]", [[5]], "differ in length"),
    ("x[MASK]", [], "1 to 256"),
    ("x[MASK]", [""], "not empty"),
    ("x[MASK]", [[10**6]], "outside the vocabulary"),
]


@pytest.mark.parametrize(("text", "choices", "what"), BAD)
def test_bad_choices(text: str, choices: list[Any], what: str, lm: LM) -> None:
    with pytest.raises(OptionError, match=what):
        lm.score_choices(text, choices)
