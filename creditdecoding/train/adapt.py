"""The training loop of `credit adapt`: a causal language model becomes a block-diffusion one."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from creditdecoding.config import EngineConfig, GenerationConfig, ModelConfig
from creditdecoding.errors import OptionError, TooLongError
from creditdecoding.lm import LM, Completion
from creditdecoding.models import resolve_device
from creditdecoding.models.precision import faster_dtype
from creditdecoding.models.transformer import Transformer
from creditdecoding.run_dir import ResumableRun, write_atomically
from creditdecoding.train.adapt_card import model_card
from creditdecoding.train.adapt_data import Example, RowMaker, Source, load_sources
from creditdecoding.train.adapt_options import AdaptConfig
from creditdecoding.train.adapter_files import load_adapter, merged_model, write_adapter
from creditdecoding.train.bases import Base, load_network, read_base
from creditdecoding.train.complementary import AdaptBatch, complementary_streams
from creditdecoding.train.loop import apply_gradients
from creditdecoding.train.lora import MaskEmbedding, adapt_layers
from creditdecoding.train.objective import MaskedBatch, loss_logits
from creditdecoding.train.parallel import average_gradients, join_group, sum_over_processes
from creditdecoding.train.schedule import stable_rate
from creditdecoding.wording import count

WARMUP_STEPS = 30
OTHERS_SCALE = 1 / 3  # the rate of norms and the mask, relative to the adapter's
RATIO_EDGES = (0.25, 0.5, 0.75)  # of the bins by which losses are reported
FARTHEST = 8  # distances from here on are reported together
EVAL_DECODER = "threshold:threshold=0.9"
EVAL_BATCH_SIZE = 16
MAY_CHANGE = (
    "tokens",
    "minutes",
    "decay",
    "device",
    "threads",
    "compile",
    "save_every",
    "eval_every",
    "data",
)
"""Options that may change when a run continues."""


class AdaptRun:
    """A run in a folder: network, optimisers, counters; continues from its saved state."""

    def __init__(
        self,
        config: AdaptConfig,
        base: Base,
        sources: Sequence[Source],
        folder: Path,
        start_from: Path | None = None,
        rank: int = 0,
    ) -> None:
        _check_fit(config, base.config)
        torch.set_num_threads(config.threads)
        self.config = config
        self.base = base
        self.sources = list(sources)
        self.folder = folder
        self.rank = rank
        self.device = _device(config, rank)
        self.mask_id = base.tokenizer.mask_id
        self.rows = RowMaker(config, base.tokenizer, base.end_of_turn)
        self.model, self.mask_embedding = self._new_network(start_from)
        self.optimizer = self._new_optimizer()
        self.step = 0
        self.tokens = 0
        self.seconds = 0.0
        self.best = -1.0
        if config.compile:
            self.model.compile_layers(dynamic=False)
        self._saved = ResumableRun(folder, self._settings(start_from), may_change=MAY_CHANGE)
        self._load()

    def _settings(self, start_from: Path | None) -> dict[str, Any]:
        settings = dataclasses.asdict(self.config)
        settings["base"] = str(self.base.folder)
        settings["data"] = {source.name: source.weight for source in self.sources}
        settings["start_from"] = None if start_from is None else str(start_from)
        return settings

    def _new_network(self, start_from: Path | None) -> tuple[Transformer, MaskEmbedding]:
        config = self.config
        backend = "math" if self.device.type == "cpu" else "sdpa"
        dtype = faster_dtype(self.device) if config.rank else torch.float32
        model = load_network(self.base, self.device, dtype, backend)
        mask = MaskEmbedding(model.embed.weight[self.mask_id])
        if config.rank:
            generator = torch.Generator(self.device).manual_seed(config.seed)
            adapt_layers(model, config.rank, 2.0 * config.rank, generator)
        else:
            model.requires_grad_(True)
        if start_from is not None:
            load_adapter(model, mask, start_from)
        return model, mask

    def _new_optimizer(self) -> torch.optim.Optimizer:
        adapter = []
        others = []
        for name, weight in self.trained():
            if self.config.rank and "lora" not in name:
                others.append(weight)
            else:
                adapter.append(weight)
        groups = [
            {"params": adapter, "scale": 1.0},
            {"params": others, "scale": OTHERS_SCALE},
        ]
        return torch.optim.AdamW(
            groups,
            lr=self.config.peak_rate,
            betas=(0.9, 0.98),
            weight_decay=0.0,
        )

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Everything that is trained, by name."""
        named = [(n, w) for n, w in self.model.named_parameters() if w.requires_grad]
        return [*named, ("mask_embedding", self.mask_embedding.row)]

    def _load(self) -> None:
        state = self._saved.load(self.device)
        if state is None:
            return
        with torch.no_grad():
            for name, weight in self.trained():
                weight.copy_(state["weights"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.tokens = state["tokens"]
        self.seconds = state["seconds"]
        self.best = state["best"]

    @property
    def saved_step(self) -> int:
        """The step that a run killed now would continue from."""
        return self._saved.saved_step

    @property
    def progress(self) -> float:
        """Which share of the run is over, 0 to 1."""
        return self.config.progress(self.tokens, self.seconds)

    def save(self) -> None:
        """Save the state; a kill leaves the old one or the new one."""
        state = {
            "weights": {name: weight.detach() for name, weight in self.trained()},
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "best": self.best,
        }
        self._saved.save(state)

    def logits(self, batch: MaskedBatch) -> Tensor:
        """Logits of every masked position of a batch [n, vocabulary]."""
        is_mask = batch.tokens == self.mask_id
        extra = self.mask_embedding(is_mask, self.model.embed.weight[self.mask_id])
        return loss_logits(self.model, batch, extra, never=self.mask_id)

    def next_batch(self) -> AdaptBatch:
        """The batch of this step: the same for the same seed, step and process."""
        rng = random.Random(f"{self.config.seed}/{self.step}/{self.rank}")
        batch, (_, width) = self.rows.batch(self.sources, rng)
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        block = self.config.block_length
        return complementary_streams(batch, self.mask_id, block, width, generator)

    def train_step(self) -> dict[str, Any]:
        """One optimiser step; returns its log record."""
        started_at = time.perf_counter()
        config = self.config
        rate = stable_rate(self.step, self.progress, config.peak_rate, WARMUP_STEPS, config.decay)
        batch = self.next_batch()
        masked = batch.masked.to(self.device)
        logits = self.logits(masked)
        losses = F.cross_entropy(logits, masked.target, reduction="none")
        loss = (losses * masked.weight).sum() / masked.weight.sum()
        loss.backward()  # type: ignore[no-untyped-call]
        weights = [weight for _, weight in self.trained()]
        average_gradients(weights)
        norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
        apply_gradients([self.optimizer], rate)
        record = {
            "step": self.step,
            "lr": rate,
            "loss": round(loss.item(), 4),
            "gradient": round(float(norm), 4),
        }
        record["right"] = _right(masked, logits)
        record |= _by_kind(batch, losses.detach().cpu())
        self._count(masked, started_at)
        record["tokens"] = self.tokens
        record["seconds"] = round(self.seconds, 1)
        return record

    def _count(
        self,
        batch: MaskedBatch,
        started_at: float,
    ) -> None:
        """Count a step, its tokens in all processes, and the seconds of the first one."""
        tokens = int((batch.weight == 1).sum())
        seconds = 0.0 if self.rank else time.perf_counter() - started_at
        all_tokens, first_seconds = sum_over_processes(tokens, seconds)
        self.tokens += int(all_tokens)
        self.seconds += first_seconds
        self.step += 1

    def run(
        self,
        evaluate: Callable[[AdaptRun], dict[str, Any]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding the log record of each step.

        `evaluate` decodes held-out examples every `eval_every` steps and at the end; the adapter
        with the best "score" stays in the folder.
        """
        self._saved.cut_log(self.step)
        if self.progress >= 1:
            yield self._end_again(evaluate)
        while self.progress < 1:
            record = self.train_step()
            is_last = self.progress >= 1
            if is_last or self.step % self.config.eval_every == 0:
                self._keep_best(evaluate, record)
            self._saved.log(record)
            if is_last or self.step % self.config.save_every == 0:
                self.write_card()
                self.save()
            yield record

    def _end_again(
        self,
        evaluate: Callable[[AdaptRun], dict[str, Any]] | None,
    ) -> dict[str, Any]:
        """End a run that continues with its budget used up; returns the record of its last step.

        It may have been killed before its end, with a larger budget.
        """
        record = self.records()[-1]
        if "eval" not in record:
            self._keep_best(evaluate, record)
            self._saved.log(record)
            self.write_card()
            self.save()
        return record

    def _keep_best(
        self,
        evaluate: Callable[[AdaptRun], dict[str, Any]] | None,
        record: dict[str, Any],
    ) -> None:
        """Decode held-out examples; write the adapter if it is the best so far."""
        if evaluate is not None:
            record["eval"] = evaluate(self)
        score = record.get("eval", {}).get("score", self.best)
        if score >= self.best:
            self.best = score
            self.export()

    def records(self) -> list[dict[str, Any]]:
        """The log so far."""
        return self._saved.records()

    def export(self) -> None:
        """Write the adapter, or all weights, into the folder."""
        write_adapter(self.model, self.mask_embedding, self.base, self.config, self.folder)

    def write_card(self) -> None:
        """Write the model card of the steps so far."""
        data = {source.name: source.weight for source in self.sources}
        parameters = sum(weight.numel() for _, weight in self.trained())
        card = model_card(self.base, self.config, data, parameters, self.records())
        write_atomically(self.folder / "README.md", card)

    def lm(self) -> LM:
        """The model as it is now, ready to decode: the adapter merged in bfloat16."""
        model = merged_model(self.model, self.mask_embedding, self.base, torch.bfloat16)
        return LM(
            model.to(self.device).eval(),
            self.base.tokenizer,
            max_length=self.base.config.max_length,
            device=self.device,
            batch_size=EVAL_BATCH_SIZE,
        )


def _device(config: AdaptConfig, rank: int) -> torch.device:
    """Where a process runs; of several with CUDA, each on a GPU of its own. Raises `OptionError` if
    there are fewer.
    """
    name = config.device
    if name == "cuda" and config.processes > 1:
        resolve_device(EngineConfig(device=f"cuda:{config.processes - 1}"))
        name = f"cuda:{rank}"
    return resolve_device(EngineConfig(device=name))


def _check_fit(config: AdaptConfig, base: ModelConfig) -> None:
    """Refuse a rank or buckets that the base's network has no room for. Raises `OptionError`."""
    smallest = min(base.hidden_size, base.num_kv_heads * base.head_dim)
    if config.rank > smallest:
        raise OptionError(
            "rank is larger than the smallest matrix of the base",
            given=config.rank,
            allowed=f"at most {smallest}, or 0 for all weights",
            hint="16 is a usual rank.",
        )
    longest = max(length for length, _ in config.shapes())
    if longest > base.max_length:
        raise OptionError(
            "a bucket is longer than any text of the base",
            given=longest,
            allowed=f"at most {base.max_length} positions",
            hint="Give shorter --buckets.",
        )


def check_held_out(run: AdaptRun, length: int) -> None:
    """Refuse held-out examples that leave no room for `length` positions. Raises `OptionError`."""
    most = run.base.config.max_length
    for source in run.sources:
        for number, example in enumerate(source.held_out, 1):
            prompt = len(run.base.tokenizer.encode_chat(example.messages))
            if prompt + length > most:
                raise TooLongError(
                    f"held-out example {number} of {source.name} and its answer do not fit",
                    given=f"{prompt} + {count(length, 'position')}",
                    allowed=f"{most} together",
                    hint="Shorten it, or lower --eval-length or --held-out.",
                )


def decode_held_out(run: AdaptRun, length: int) -> dict[str, Any]:
    """Scores of the answers to the held-out examples, in %: tasks are right or wrong, of other
    answers the words are compared. "score" is the mean over the sources.
    """
    lm = run.lm()
    config = GenerationConfig(decoder=EVAL_DECODER, gen_length=length)
    examples = [example for source in run.sources for example in source.held_out]
    requests = lm.new_requests([example.messages for example in examples], config)
    completions = lm.collect(requests)
    by_source: dict[str, list[float]] = {}
    for example, completion in zip(examples, completions, strict=True):
        by_source.setdefault(example.source, []).append(100 * example.grade(completion.text))
    means = {name: round(sum(grades) / len(grades), 2) for name, grades in by_source.items()}
    score = sum(means.values()) / len(means)
    nfe = sum(completion.nfe for completion in completions) / len(completions)
    return {
        "score": round(score, 3),
        "nfe": round(nfe, 2),
        "sources": means,
        "sample": _sample(examples, completions, run.step % len(examples)),
    }


def _sample(
    examples: Sequence[Example],
    completions: Sequence[Completion],
    number: int,
) -> dict[str, str]:
    """One example and its answer."""
    example = examples[number]
    text = completions[number].text
    return {
        "question": example.messages[-1]["content"],
        "answer": text,
        "reference": example.answer,
    }


def _right(batch: MaskedBatch, logits: Tensor) -> float:
    """Of how many masked tokens the likeliest id is the right one, in %; padding is left out."""
    is_right = logits.detach().argmax(-1) == batch.target
    return round(100 * is_right[batch.weight == 1].float().mean().item(), 2)


def _by_kind(batch: AdaptBatch, losses: Tensor) -> dict[str, Any]:
    """Sums of losses and counts, by the block's mask ratio and by the distance from the last clean
    token; padding is left out.
    """
    is_token = batch.masked.weight == 1
    losses = losses[is_token]
    ratio = torch.bucketize(batch.ratio[is_token], torch.tensor(RATIO_EDGES), right=True)
    distance = batch.distance[is_token].clamp(max=FARTHEST) - 1
    return {
        "by_ratio": _sums(ratio, losses, len(RATIO_EDGES) + 1),
        "by_distance": _sums(distance, losses, FARTHEST),
    }


def _sums(
    index: Tensor,
    losses: Tensor,
    bins: int,
) -> list[list[float]]:
    """The sum of the losses and their number in each bin."""
    sums = torch.zeros(bins).index_add_(0, index, losses)
    counts = torch.bincount(index, minlength=bins)
    return [[round(a, 2), b] for a, b in zip(sums.tolist(), counts.tolist())]


def adapt_peer(
    rank: int,
    world: int,
    store_file: Path,
    config: AdaptConfig,
    base: str,
    specs: Sequence[str],
    folder: Path,
    start_from: Path | None,
) -> None:
    """Another process of a run: the same steps on rows of its own; it saves and logs nothing."""
    join_group(rank, world, store_file)
    sources = load_sources(specs, held_out=0)
    run = AdaptRun(config, read_base(base, config.block_length), sources, folder, start_from, rank)
    while run.progress < 1:
        run.train_step()
