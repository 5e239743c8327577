"""The study of credit without a mask token decodes as DiffusionGemma does: transformers'
acceptance, rows by themselves.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from creditdecoding import load
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS
from experiments.uniform_diffusion import CANVAS, Denoiser, Sampler, accepted, decode, rows_of


def test_what_is_accepted_is_what_transformers_accepts() -> None:
    module = "transformers.models.diffusion_gemma.generation_diffusion_gemma"
    gemma = pytest.importorskip(module, reason="this transformers has no DiffusionGemma")
    logits = 4 * torch.randn(3, CANVAS, 30, generator=torch.Generator().manual_seed(0))
    logp = logits.log_softmax(-1)
    for bound in (0.01, 0.5, 3.0, 200.0):
        config = gemma.EntropyBoundSamplerConfig(entropy_bound=bound)
        reference = gemma.EntropyBoundSampler(config, CANVAS, 30, 48)
        reference.accept_canvas(torch.zeros(3, CANVAS), torch.zeros(3, CANVAS), logits, 48)
        assert torch.equal(
            accepted(-(logp.exp() * logp).sum(-1), bound), reference.accepted_token_mask
        )


def test_credit_remembers_and_without_weight_changes_nothing() -> None:
    noise, logits = [torch.Generator().manual_seed(1)], torch.zeros(1, CANVAS, 9)
    logits[..., 4] = 1.0
    credit = torch.zeros_like(logits)
    plain, _, entropy, _ = Sampler().step(logits, credit, 48, noise)
    assert torch.equal(
        plain,
        Sampler(beta=0.0).step(
            logits, torch.zeros_like(logits), 48, [torch.Generator().manual_seed(1)]
        )[0],
    )
    chance = logits.softmax(-1)[0, 0, 4]
    torch.testing.assert_close(credit[0, :, 4], chance.pow(0.2).expand(CANVAS))
    surer = Sampler(alpha=0.65).step(logits, credit, 48, noise)[2]
    torch.testing.assert_close(credit[0, 0, 4], 1.7 * chance.pow(0.2))
    assert bool((surer < entropy).all())


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    lm = load("pocket")
    net = Denoiser(lm.model).eval()  # type: ignore[arg-type]
    tokens, answer, seen, clean = rows_of(
        lm, [SYNTHETIC_TASKS[name].make(random.Random(0)) for name in ("facts", "arithmetic")]
    )
    assert int(clean.max()) < lm.vocab.size and tokens.shape[1] == int(answer.max()) + CANVAS
    sampler = replace(Sampler(alpha=0.65), steps=3)
    both, passes = decode(net, lm.vocab.size, (tokens, answer, seen), sampler)
    alone, _ = decode(net, lm.vocab.size, (tokens[:1], answer[:1], seen[:1]), sampler)
    assert (
        passes.tolist() == [3, 3] and float((both[0] == alone[0]).float().mean()) > 0.9
    )  # bfloat16 sums differ with the batch
