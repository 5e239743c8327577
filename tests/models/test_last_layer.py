"""The last layer runs only where logits are read; the plain version runs it at every position."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from creditdecoding.config import EngineConfig
from creditdecoding.models import build_on_meta, load_model
from creditdecoding.models.transformer import Transformer
from tools.make_checkpoint import FAMILIES, make

LENGTH = 64
READS = ((1, 1), (1, 20), (3, 2), (3, 7))
"""Rows of a pass, and how many positions the first of them reads; the others read one more each."""


@pytest.fixture(scope="module", params=FAMILIES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Transformer]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = make(request.param, tmp_path_factory.mktemp(request.param))
    yield load_model(folder, EngineConfig(device="cpu", dtype="float32"))
    torch.set_num_threads(threads)


def random_pass(model: Transformer, rows: int, reads: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Ids and positions to read, those of the rows in turn and no row like the other."""
    generator = torch.Generator().manual_seed(rows * 100 + reads)
    tokens = torch.randint(3, model.config.embedding_rows, (rows, LENGTH), generator=generator)
    counts = [reads + row for row in range(rows)]
    columns = [torch.randperm(LENGTH, generator=generator)[:count] for count in counts]
    row = torch.arange(rows).repeat_interleave(torch.tensor(counts))
    order = torch.randperm(len(row), generator=generator)
    return tokens, (row[order], torch.cat(columns)[order])


@pytest.mark.parametrize(("rows", "reads"), READS)
@torch.inference_mode()
def test_logits_are_those_of_the_whole_layer(model: Transformer, rows: int, reads: int) -> None:
    """Bit for bit, also with padding in the rows."""
    tokens, positions = random_pass(model, rows, reads)
    padded = (torch.arange(LENGTH) < 40 + 8 * torch.arange(rows)[:, None])[:, None]
    for mask in (None, padded):
        plain = model(tokens, positions, mask, most_reads=LENGTH)
        assert torch.equal(model(tokens, positions, mask), plain)


@pytest.mark.parametrize(("rows", "reads"), READS)
@torch.inference_mode()
def test_caches_keep_what_the_whole_layer_stores(model: Transformer, rows: int, reads: int) -> None:
    """A pass over all positions, then one over the second half of each row."""
    tokens, positions = random_pass(model, rows, reads)
    columns = torch.arange(LENGTH).expand(rows, -1)
    half = LENGTH // 2
    late = (positions[0], half + positions[1] % half)
    results = []
    for most_reads in (None, LENGTH):
        cache = model.new_cache()
        cache.reserve(rows, LENGTH)
        logits = []
        for first, (row, column) in ((0, positions), (half, late)):
            computed = columns[:, first:]
            layers = cache.layer_caches(list(range(rows)), computed, LENGTH)
            reads_at = (row, column - first)
            ids = tokens[:, first:]
            logits.append(
                model(ids, reads_at, positions=computed, caches=layers, most_reads=most_reads)
            )
        results.append([*logits, *(x for pair in cache.buffers for x in pair)])
    for ours, plain in zip(*results):
        assert torch.equal(ours, plain)


@torch.inference_mode()
def test_only_the_reads_pass_the_last_feed_forward(model: Transformer) -> None:
    widths: list[int] = []
    for layer in model.layers:
        layer.ff_norm.register_forward_pre_hook(lambda _, x: widths.append(x[0].shape[1]))
    tokens, positions = random_pass(model, 1, 20)
    model(tokens, positions)
    assert widths == [LENGTH] * (model.config.num_layers - 1) + [32]


def test_a_network_without_weights_draws_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing on the meta device makes torch import its compiler, which takes a second."""
    monkeypatch.setattr("torch.nn.init.normal_", None)
    build_on_meta(make("llada", tmp_path))
