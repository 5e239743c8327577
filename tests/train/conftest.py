"""A small tokenizer, and training runs that take no time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from creditdecoding.tasks.base import generate_items
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer
from creditdecoding.train.loop import TrainingRun
from creditdecoding.train.objective import TrainingBatch
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.tokenizer import save_tokenizer, train_tokenizer

TASKS = list(SYNTHETIC_TASKS.values())
SMALL: dict[str, object] = {
    "hidden_size": 32,
    "num_heads": 2,
    "num_layers": 2,
    "intermediate_size": 64,
    "batch_size": 8,
    "drill_steps": 0,
    "compile": False,
    "save_every": 2,
}

MakeRun = Callable[..., TrainingRun]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer trained on a few items of every task."""
    folder = tmp_path_factory.mktemp("tokenizer")
    texts: list[str] = []
    for task in TASKS:
        for item in itertools.islice(generate_items(task, "train", 0), 200):
            texts += [item.prompt, item.answer]
    save_tokenizer(train_tokenizer(texts, 1152), folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return read_tokenizer(tokenizer_folder)


@pytest.fixture
def make_run(tokenizer_folder: Path, tokenizer: Tokenizer) -> MakeRun:
    """A function that makes a small run in a folder, with options of `TrainConfig`."""

    def make(folder: Path, **options: object) -> TrainingRun:
        folder.mkdir(exist_ok=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((tokenizer_folder / name).read_bytes())
        config = TrainConfig(**{**SMALL, **options})  # type: ignore[arg-type]
        return TrainingRun(config, tokenizer, TASKS, folder)

    return make


@pytest.fixture(scope="session")
def batch() -> TrainingBatch:
    """Sixty-four rows of 96 tokens with prompts and answers of several lengths."""
    generator = torch.Generator().manual_seed(0)
    prompt_lengths = torch.randint(5, 30, (64,), generator=generator)
    answer_lengths = torch.randint(20, 60, (64,), generator=generator)
    tokens = torch.randint(10, 50, (64, 96), generator=generator)
    return TrainingBatch(tokens, prompt_lengths, answer_lengths)
