"""Several answers from one seed: equal prompts draw differently, reproducibly, whoever shares the
batch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoding.request import sample_seed
from creditdecoding.eval.compare import ComparePlan, lay_out
from creditdecoding.eval.evaluate import evaluate
from creditdecoding.eval.grid import chunk_records
from creditdecoding.eval.sweep import parse_curves
from creditdecoding.lm import LM, load
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS
from tools.make_checkpoint import make

torch.set_num_threads(1)
PINNED = [767368133409110623, 2351401853662712035, 3362769313088561178]
DRAWN = GenerationConfig(
    decoder="threshold", gen_length=10, block_length=5, temperature=2.0, seed=7
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random checkpoint."""
    return make("llada", tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def lm(folder: Path) -> LM:
    """It, loaded."""
    return load(str(folder), device="cpu", batch_size=4)


def test_the_first_row_has_the_seed_itself_and_the_others_hashes() -> None:
    """Pinned: answers drawn by one version are drawn by the next."""
    assert sample_seed(7, 0) == 7 and sample_seed(2**62, 0) == 2**62
    assert [sample_seed(0, 1), sample_seed(0, 2), sample_seed(2**62, 1)] == PINNED
    grid = [sample_seed(seed, index) for seed in range(60) for index in range(60)]
    assert len(set(grid)) == len(grid) and all(0 <= seed < 2**62 for seed in grid)


def test_equal_prompts_are_answered_differently_and_again_the_same(lm: LM) -> None:
    prompts = ["hello", "hello", "other", "hello"]
    texts = [done.text for done in lm.generate(prompts, DRAWN)]
    assert len({texts[0], texts[1], texts[3]}) == 3
    assert texts == [done.text for done in lm.generate(prompts, DRAWN)]
    alone = [lm.generate(p, DRAWN, seed=sample_seed(7, i)).text for i, p in enumerate(prompts)]
    assert texts == alone and texts[0] == lm.generate("hello", DRAWN).text


def test_an_item_draws_alike_whatever_other_items_are_asked(lm: LM) -> None:
    """More items, other families: the answers of those that were there stay."""
    one, two = SYNTHETIC_TASKS["facts"], SYNTHETIC_TASKS["algebra"]
    few = [sample.completion.text for sample in evaluate(lm, [two], DRAWN, 2).samples]
    many = [
        sample
        for sample in evaluate(lm, [one, two], DRAWN, 3).samples
        if sample.item.task == "algebra"
    ]
    assert few == [sample.completion.text for sample in many][:2]


def test_compared_decoders_draw_alike_at_every_batch_size(lm: LM, folder: Path) -> None:
    texts = []
    for size in (1, 4):
        engine = EngineConfig(batch_size=size, device="cpu")
        kept = tuple(parse_curves("threshold:threshold=0.9"))
        plan = ComparePlan(
            str(folder),
            curves=kept,
            tasks="facts,algebra",
            templates=("plain",),
            dev_limit=2,
            limit=3,
            generation=DRAWN,
            engine=engine,
        )
        grid = lay_out(plan)
        rows = [
            row
            for chunk in grid.chunks
            if chunk.keys[0][2] != "fixed:k=1"
            for row in chunk_records(lm, grid, chunk)
        ]
        texts.append({(row["split"], row["family"], row["item"]): row["text"] for row in rows})
    assert texts[0] == texts[1] and len(texts[0]) == 10
