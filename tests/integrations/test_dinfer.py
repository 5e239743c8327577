"""dInfer's interface: a loop written for it decides as ours, for every rule, one row or several,
with and without block_init.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding import decoders
from creditdecoding.config import GenerationConfig
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import new_request, sample_seed
from creditdecoding.errors import CreditError, ModelError, OptionError
from creditdecoding.integrations import dinfer
from creditdecoding.integrations.dinfer import (
    CreditThresholdParallelDecoder,
    FixedParallelDecoder,
    HierarchyDecoder,
    ParallelDecoder,
)
from creditdecoding.trace import StepEvent
from tests.helpers.llada_network import CPU, MASK, WIDTH, WORDS, dense, network

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
PROMPTS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
LENGTH, BLOCK = 13, 5


class TokenArray:
    """As dInfer keeps its tokens: prompt and masks, sliced and assigned to."""

    def __init__(self, prompts: list[list[int]]) -> None:
        self.data = torch.tensor([[*prompt, *[MASK] * LENGTH] for prompt in prompts])

    def __getitem__(self, index: Any) -> Tensor:
        return self.data[index]

    def __setitem__(self, index: Any, values: Tensor) -> None:
        self.data[index] = values


def loop(
    net: Any,
    decoder: ParallelDecoder,
    prompts: list[list[int]],
    init: bool = True,
    together: bool = False,
) -> list[list[tuple[int, int]]]:
    """Block after block until no mask is left, as dInfer's BlockRunner; what each call wrote into
    each row.
    """
    x, commits_by_row = TokenArray(prompts), [[] for _ in prompts]  # type: ignore[var-annotated]
    starts = range(len(prompts[0]), x.data.shape[1], BLOCK)
    for number, start in enumerate(starts):
        end = min(start + BLOCK, x.data.shape[1])
        if init:
            decoder.block_init(x[:, start:end], number)
        while bool((x[:, start:end] == MASK).any()):
            before, logits = x.data.clone(), net(x.data)
            if together:
                padded = torch.nn.functional.pad(logits, (0, 0, 0, BLOCK))
                decoder.batch_decode(
                    padded[:, start : start + BLOCK], torch.full((len(prompts),), start), x, BLOCK
                )
            else:
                decoder.decode(logits[:, start:end], start, end, x)
            for row, position in (before != x.data).nonzero().tolist():
                commits_by_row[row].append((position, int(x.data[row, position])))
            assert not torch.equal(before, x.data)
    return commits_by_row


def ours(
    net: Any, spec: str, prompts: list[list[int]], **options: Any
) -> list[list[tuple[int, int]]]:
    """The same of the plain loop; `options` of the request."""
    rows = []
    for i, prompt in enumerate(prompts):
        config = GenerationConfig(
            decoder=spec,
            gen_length=LENGTH,
            block_length=BLOCK,
            early_stop=False,
            seed=sample_seed(7, i),
            **options,
        )
        rows.append(new_request(i, prompt, config, WORDS, 99))
    commits_by_row: list[list[tuple[int, int]]] = [[] for _ in prompts]
    for event in denoise(net, rows, WORDS, CPU):
        if isinstance(event, StepEvent):
            changed = {
                position: token
                for position, token in event.commits().items()
                if (position, token) not in commits_by_row[event.row]
            }
            commits_by_row[event.row] += sorted(changed.items())
    return commits_by_row


RULES = [
    f"{name}:max_post_steps=0" if name == "edit" else name
    for name in decoders.names()
    if not capabilities_of(decoders.create(name)).leave_one_out
]


@pytest.mark.parametrize(
    "spec",
    [
        *RULES,
        "fixed:order=random,k=2",
        "fixed:steps=3",
        "credit:threshold=0.5",
        "threshold:threshold=0.4",
    ],
)
@pytest.mark.parametrize("options", [{}, {"temperature": 0.9, "top_k": 6}], ids=["greedy", "drawn"])
def test_every_rule_decides_as_in_our_loop(spec: str, options: dict[str, Any]) -> None:
    net = network(3)
    expected = ours(net, spec, PROMPTS, **options)
    for prompts, together in ((PROMPTS, False), (PROMPTS, True), (PROMPTS[:1], False)):
        decoder = ParallelDecoder(spec, mask_id=MASK, eos_id=17, seed=7, **options)
        assert loop(dense(net), decoder, prompts, together=together) == expected[: len(prompts)]


@pytest.mark.parametrize(
    "spec", ["credit:threshold=0.6", "klass", "fixed:steps=2", "stable:threshold=0.6"]
)
def test_nothing_is_left_of_a_block_or_a_request(spec: str) -> None:
    """The same decoder without block_init, over one request after the other, batches of any size
    between them.
    """
    net = network(5)
    decoder = ParallelDecoder(spec, mask_id=MASK)
    for prompts in (PROMPTS, PROMPTS[:1], PROMPTS[:1], PROMPTS[1:], PROMPTS):
        assert loop(dense(net), decoder, prompts, init=False) == loop(
            dense(net), ParallelDecoder(spec, mask_id=MASK), prompts
        )


def test_a_row_begins_anew_beside_one_that_goes_on() -> None:
    """Rows of a batch at blocks of their own: credit of the one is not touched when the other goes
    to its next block.
    """
    net, rule = dense(network(5)), "credit:threshold=0.99"
    both, alone = TokenArray(PROMPTS[:2]), TokenArray(PROMPTS[:1])
    two, one = ParallelDecoder(rule, mask_id=MASK), ParallelDecoder(rule, mask_id=MASK)
    for other in (3, 3, 8, 8):
        starts = torch.tensor([3, other])
        logits = net(both.data)
        two.batch_decode(
            torch.stack([logits[i, a : a + BLOCK] for i, a in enumerate(starts.tolist())]),
            starts,
            both,
            BLOCK,
        )
        one.decode(net(alone.data)[:, 3 : 3 + BLOCK], 3, 3 + BLOCK, alone)
        assert torch.equal(both.data[:1], alone.data)


def test_names_and_constants_of_dinfer() -> None:
    made = CreditThresholdParallelDecoder(temperature=0, threshold=0.8, mask_id=MASK, eos_id=17)
    assert decoders.settings(made.decoder) == {
        "name": "credit",
        "threshold": 0.8,
        "alpha": 0.7,
        "beta": 0.8,
        "gamma": 0.2,
    }
    assert (made.threshold, made.mask_id, made.eos_id) == (0.8, MASK, 17)
    assert decoders.settings(HierarchyDecoder(0, threshold=0.9).decoder) == {
        "name": "hierarchy",
        "threshold": 0.9,
        "low": 0.4,
    }
    assert dinfer.ThresholdParallelDecoder(0, 0.9).mask_id == 126336
    x = torch.tensor([[1, 2, *[MASK] * 4]])
    for made, count in (
        (FixedParallelDecoder(0, 2, mask_id=MASK), 2),
        (FixedParallelDecoder(0, 1, "random", MASK), 4),
    ):
        edited = x.clone()
        made.decode(torch.randn(1, 4, WIDTH), 2, 6, edited)
        assert int((edited == MASK).sum()) == 4 - count


def test_a_threshold_for_one_call_and_logits_left_alone() -> None:
    logits = torch.randn(2, 4, WIDTH, generator=torch.Generator().manual_seed(0)).bfloat16()
    kept, x = logits.clone(), torch.full((2, 6), MASK)
    decoder = dinfer.ThresholdParallelDecoder(0, 1.0, mask_id=MASK)
    decoder.decode(logits, 1, 5, x)
    assert torch.equal(logits, kept) and (x == MASK).sum(-1).tolist() == [5, 5]
    decoder.decode(logits, 1, 5, x, 0.0)
    assert (x != MASK).sum(-1).tolist() == [4, 4] and decoder.threshold == 1.0
    decoder.decode(logits, 1, 5, x)  # nothing is masked: nothing happens
    assert (x != MASK).sum(-1).tolist() == [4, 4]


X = torch.full((1, 4), MASK)
BAD: list[tuple[str, type[CreditError], Any]] = [
    ("unknown decoder", OptionError, lambda: ParallelDecoder("credits")),
    ("temperature is out of range", OptionError, lambda: ParallelDecoder(temperature=-1.0)),
    (
        "remasking is out of range",
        OptionError,
        lambda: dinfer.ThresholdParallelDecoder(0, 0.9, "random"),
    ),
    ("threshold is out of range", OptionError, lambda: dinfer.ThresholdParallelDecoder(0, 1.9)),
    (
        "no threshold",
        OptionError,
        lambda: ParallelDecoder("fixed", mask_id=MASK).decode(
            torch.zeros(1, 4, WIDTH), 0, 4, X, 0.5
        ),
    ),
    (
        "wrong shape",
        ModelError,
        lambda: ParallelDecoder("fixed", mask_id=MASK).decode(torch.zeros(1, 3, WIDTH), 0, 4, X),
    ),
    (
        "wrong shape",
        ModelError,
        lambda: ParallelDecoder("fixed", mask_id=MASK).decode(torch.zeros(1, 4, MASK), 0, 4, X),
    ),
    (
        "not numbers",
        ModelError,
        lambda: ParallelDecoder("fixed", mask_id=MASK).decode(
            torch.full((1, 4, WIDTH), torch.nan), 0, 4, X
        ),
    ),
]


@pytest.mark.parametrize(("message", "error", "call"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_input_is_refused(message: str, error: type[CreditError], call: Any) -> None:
    with pytest.raises(error, match=message):
        call()
    assert bool((X == MASK).all())
