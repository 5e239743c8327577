"""Classifier-free guidance: conditional and unconditional passes share a batch and a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import new_infill_request, new_request
from creditdecoding.trace import Trace, total
from tests.helpers.llada_network import MASK, WIDTH, WORDS, network, traces


def story(trace: Trace) -> list[Any]:
    return [(s.block, s.step, s.positions, s.tokens, s.committed, s.sequences) for s in trace.steps]


def test_guided_and_unguided_rows_share_passes_and_are_counted() -> None:
    """Each gets what it gets alone, one pass an event; the network ran two sequences for a guided
    one.
    """
    net, ran = network(1), []

    def spy(tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        ran.append(len(tokens))
        return net(tokens, read, allowed)

    scales = (0.0, 1.5, 0.0, 0.3)
    configs = [
        GenerationConfig(
            decoder="threshold:threshold=0.6",
            gen_length=7,
            block_length=5,
            cfg_scale=x,
            early_stop=False,
        )
        for x in scales
    ]
    rows = [
        new_request(i, [1 + i] * (i + 1), config, WORDS, 99) for i, config in enumerate(configs)
    ]
    decoded = traces(spy, rows, batch_size=3)
    sums = total(decoded)
    assert sums.sequence_forwards == sum(ran) == sum(
        trace.sequence_forwards for trace in decoded
    ) and sums.forwards == len(ran)
    assert sums.passes == sum(trace.nfe for trace in decoded) and [
        t.sequence_forwards // t.nfe for t in decoded
    ] == [1, 2, 1, 2]
    assert sums.computed == sum(
        (row.answer_start + 7) * trace.sequence_forwards for row, trace in zip(rows, decoded)
    )
    for row, trace in zip(rows, decoded):
        assert story(trace) == story(traces(net, [row])[0])


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["every:n=1", "vicinity:w=99", "prefix", "dual"])
@pytest.mark.parametrize("shift", (False, True))
def test_guidance_goes_with_caches(cache: str, shift: bool) -> None:
    """A row's twin keeps keys and values of its own: exact policies change nothing, others what
    they change one by one.
    """
    net = network(2, logit_shift=shift)
    rows = [
        new_request(
            i,
            prompt,
            GenerationConfig(
                decoder="fixed", gen_length=9, block_length=4, cfg_scale=x, cache=cache
            ),
            WORDS,
            99,
            net.geometry,
        )
        for i, (prompt, x) in enumerate(
            (([1, 2, 3], 1.0), ([4], 0.0), ([5, 6, 7, 8], 0.5), ([9, 9], 2.0))
        )
    ]
    exact = cache not in ("prefix", "dual")
    for row, trace in zip(rows, traces(net, rows, batch_size=2)):
        config = GenerationConfig(
            decoder="fixed",
            gen_length=9,
            block_length=4,
            cfg_scale=row.config.cfg_scale,
            cache="none" if exact else cache,
        )
        assert story(trace) == story(
            traces(
                net,
                [
                    new_request(
                        0, row.canvas[: row.answer_start].tolist(), config, WORDS, 99, net.geometry
                    )
                ],
            )[0]
        )


def test_guidance_of_a_block_causal_network_with_its_cache() -> None:
    net = network(4, causal_block=4)
    rows = [
        new_request(
            i,
            [1, 2, 3, 4, 5],
            GenerationConfig(decoder="fixed", gen_length=10, cfg_scale=1.0, cache=cache),
            WORDS,
            99,
            net.geometry,
        )
        for i, cache in enumerate(("none", "block"))
    ]
    plain, kept = traces(net, rows)
    assert story(plain) == story(kept)


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float64))
def test_guided_logits(dtype: torch.dtype) -> None:
    """What is given is masked, what was written is not, and what the network forbids stays
    forbidden; mixed in float32 at least.
    """
    reads = []

    def model(tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None) -> Tensor:
        reads.append(tokens.tolist())
        logits = torch.zeros(len(read[0]), WIDTH, dtype=dtype)
        logits[:, 3] = torch.where(tokens[read[0], 0] == MASK, 1.0, 2.0)
        logits[:, 5] = -torch.inf
        return logits

    row = new_infill_request(
        0, [1, MASK, 2, MASK], GenerationConfig(decoder="fixed", cfg_scale=0.5), WORDS, 99
    )
    (trace,) = traces(model, [row])
    assert reads[0] == [[1, MASK, 2, MASK], [MASK] * 4] and reads[1] == [
        [1, 3, 2, MASK],
        [MASK, 3, MASK, MASK],
    ]
    guided = torch.tensor(
        [0.0] * (WIDTH - 5) + [2.5]
    )  # without id 5, the mask and two end tokens that a gap never gets
    assert trace.steps[0].confidence[0] == pytest.approx(float(guided.softmax(0)[-1]), rel=1e-5)
