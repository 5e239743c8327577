"""How long our loop takes over the forward passes that it runs: ours / bare, by size and batch.

The calls of the network during a run are recorded. Then the run and these calls alone alternate;
the ratio is the median over the pairs, in processor time of one thread. The bare passes are the
same calls with the same arguments: also they run the last layer only where logits are read.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.caches import MAX_LENGTH, VOCABULARY, network
from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_request
from creditdecoding.lm import LM, load
from creditdecoding.models.transformer import Transformer
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items

CPU = torch.device("cpu")
POCKET = "2M"
EMBEDDED_MODELS = {POCKET: "pocket-v1", "4M": "pocket"}
"""The first embedded model and today's."""
HIDDEN_SIZES = {"20M": 384, "100M": 832}
"""Of random networks."""
SIZES = (*EMBEDDED_MODELS, *HIDDEN_SIZES)


class RecordedModel:
    """A model that keeps the arguments of its calls."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.geometry = model.geometry
        self.packs_rows = model.packs_rows
        self.new_cache = model.new_cache
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.calls.append((args, kwargs))
        logits: torch.Tensor = self.model(*args, **kwargs)
        return logits


class ReplayedModel:
    """Answers at once, with the logits that a model gave in the first run."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.geometry = model.geometry
        self.packs_rows = model.packs_rows
        self.new_cache = model.new_cache
        self.recorded: list[torch.Tensor] = []
        self.is_recording = True
        self.passes = 0

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.is_recording:
            logits: torch.Tensor = self.model(*args, **kwargs)
            self.recorded.append(logits.clone())
            return logits
        logits = self.recorded[self.passes % len(self.recorded)]
        self.passes += 1
        return logits.clone()  # the loop changes them


@dataclass(frozen=True)
class LoopCost:
    """Our time over the bare passes' (median of pairs), and milliseconds of a bare pass."""

    ratio: float
    bare_ms: float
    passes: int


def pocket_runs(lm: LM, batch: int, decoder: str) -> Iterator[Callable[[Any], object]]:
    """Runs of an embedded model on one question of each task, `batch` at a time, text to text."""
    items = [distinct_items(task, "test", 0, 1)[0].prompt for task in load_tasks("pocket")]
    for start in range(0, len(items), batch):
        prompts = items[start : start + batch]

        def run(model: Any, prompts: Sequence[str] = tuple(prompts)) -> object:
            lm.model, lm.batch_size = model, batch
            return lm.generate(list(prompts), decoder=decoder)

        yield run


def random_runs(batch: int, decoder: str) -> Iterator[Callable[[Any], object]]:
    """A run of a random network: prompts of 96 ids, 32 new tokens, from ids to ids."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(3, VOCABULARY.size, (batch, 96), generator=generator).tolist()
    config = GenerationConfig(decoder=decoder, gen_length=32, block_length=32, early_stop=False)
    words = SpecialTokens(*vars(VOCABULARY).values())

    def run(model: Any) -> object:
        requests = [
            new_request(i, prompt, config, words, MAX_LENGTH, model.geometry)
            for i, prompt in enumerate(prompts)
        ]
        return list(denoise(model, requests, words, CPU, batch))

    yield run


@torch.inference_mode()
def measure(model: Transformer, runs: Iterator[Callable[[Any], object]], pairs: int) -> LoopCost:
    """Alternate each run with its calls of the network alone."""
    ratios: list[float] = []
    bare_ms: list[float] = []
    passes = 0
    for run in runs:
        recorded = RecordedModel(model)
        run(recorded)
        passes += len(recorded.calls)
        for _ in range(pairs):
            began = time.process_time()
            for args, kwargs in recorded.calls:
                model(*args, **kwargs)
            between = time.process_time()
            run(model)
            ratios.append((time.process_time() - between) / (between - began))
            bare_ms.append(1000 * (between - began) / len(recorded.calls))
    return LoopCost(statistics.median(ratios), statistics.median(bare_ms), passes)


def loop_cost(size: str, batch: int, decoder: str, pairs: int) -> LoopCost:
    """The cost for one of `SIZES`."""
    if size in EMBEDDED_MODELS:
        lm = load(EMBEDDED_MODELS[size], device="cpu", dtype="float32")
        assert isinstance(lm.model, Transformer)
        return measure(lm.model, pocket_runs(lm, batch, decoder), pairs)
    model = network(None, HIDDEN_SIZES[size])
    return measure(model, random_runs(batch, decoder), pairs)


@torch.inference_mode()
def loop_alone(decoder: str, repeats: int) -> float:
    """Microseconds a pass of all but the network, from text to text: the loop with a network that
    answers at once, on the questions of `pocket_runs`.
    """
    lm = load(EMBEDDED_MODELS[POCKET], device="cpu", dtype="float32")
    assert isinstance(lm.model, Transformer)
    network, runs = lm.model, list(pocket_runs(lm, 1, decoder))
    replays = [ReplayedModel(network) for _ in runs]
    for replayed, run in zip(replays, runs):
        run(replayed)
        replayed.is_recording = False
    passes = sum(len(replayed.recorded) for replayed in replays)
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        for replayed, run in zip(replays, runs):
            run(replayed)
        seconds.append(time.process_time() - began)
    return 1e6 * statistics.median(seconds) / passes
