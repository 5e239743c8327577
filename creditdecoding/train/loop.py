"""The training loop: a masked-diffusion language model on the tasks, seeded and resumable."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from creditdecoding.config import ModelConfig
from creditdecoding.errors import OptionError
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.run_dir import ResumableRun
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Task
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer
from creditdecoding.train.checkpoint import export_checkpoint, load_start
from creditdecoding.train.initial import DRILL_ANSWER, init_induction_heads, lookup_drill
from creditdecoding.train.objective import (
    MaskedBatch,
    TrainingBatch,
    mask_block,
    mask_uniform,
    token_losses,
    two_stream,
)
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.parallel import average_gradients, join_group
from creditdecoding.train.rows import (
    check_can_train,
    draw_items,
    end_ids,
    make_batches,
    with_shares,
)
from creditdecoding.train.schedule import learning_rate

NOISY_WIDTH = 96  # answer positions in the noisy stream
WARMUP_STEPS = 200
BLOCKS_SHARE = 0.6  # of the batches before `blocks_until` that train blocks in two streams
BLOCK_LENGTHS = (1, 1, 1, 4, 8, 32)
ONE_STREAM = ("uniform", "blockwise", "ordered", "ordered")  # objectives, drawn evenly
LOSS_SCALE = 64  # a usual answer length: losses are divided by it
MAY_CHANGE = (
    "steps",
    "device",
    "threads",
    "processes",
    "compile",
    "save_every",
    "eval_every",
)
"""Options that may change when a run continues."""


def model_config(config: TrainConfig, tokenizer: Tokenizer, end: int) -> ModelConfig:
    """The architecture that `config` asks for, with the ids of `tokenizer`."""
    return ModelConfig(
        family="llada",
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=config.hidden_size // config.num_heads,
        intermediate_size=config.intermediate_size,
        embedding_rows=-(-tokenizer.size // 64) * 64,
        max_length=512,
        rope_theta=500000.0,
        rms_norm_eps=1e-5,
        tie_embeddings=True,
        rope_full_precision=True,
        mask_token_id=tokenizer.mask_id,
        stop_token_ids=(end,),
        pad_token_id=end,
    )


class TrainingRun:
    """A training run in a folder: model, optimisers, counters; continues from its saved state."""

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: Tokenizer,
        tasks: Sequence[Task],
        folder: Path,
        rank: int = 0,
    ) -> None:
        check_can_train(tasks)
        torch.set_num_threads(config.threads)
        self.config = config
        self.tokenizer = tokenizer
        self.tasks = with_shares(tasks, config.shares)
        self.folder = folder
        self.rank = rank
        self.end_of_turn, self.end = end_ids(tokenizer)
        self.device = torch.device(config.device)
        self.model = self._new_model()
        self.optimizers = _optimizers(self.model, config)
        self.step = 0
        self.seconds = 0.0
        self.tokens = 0
        if config.compile:
            self.model.compile_layers(dynamic=False)
        settings = dataclasses.asdict(config)
        settings["tasks"] = [task.name for task in self.tasks]
        self._saved = ResumableRun(
            folder,
            settings,
            may_change=MAY_CHANGE,
            settings_key="config",
        )
        self._load()

    def _new_model(self) -> Transformer:
        config = model_config(self.config, self.tokenizer, self.end)
        backend = "math" if self.device.type == "cpu" else "sdpa"
        model = Transformer(config, backend)
        generator = torch.Generator().manual_seed(self.config.seed)
        init_weights(model, generator)
        if self.config.induction:
            init_induction_heads(model, generator)
        return model.to(self.device)

    def _load(self) -> None:
        """Continue from the saved state, or start from a checkpoint if one was given."""
        state = self._saved.load(self.device)
        if state is None:
            load_start(self.model, self.folder)
            return
        self.model.load_state_dict(state["model"])
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(optimizer_state)
        self.step = state["step"]
        self.seconds = state["seconds"]
        self.tokens = state["tokens"]

    @property
    def saved_step(self) -> int:
        """The step that a run killed now would continue from."""
        return self._saved.saved_step

    def save(self) -> None:
        """Save the state; a kill leaves the old one or the new one."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
        }
        self._saved.save(state)

    @property
    def _is_drilling(self) -> bool:
        return self.step < self.config.drill_steps

    def _batches(self, rng: random.Random) -> list[TrainingBatch]:
        """The rows of this step: look-up drills in the first steps, then items of the tasks."""
        parts = self.config.parts
        if self._is_drilling:
            special_ids = set(self.tokenizer.backend.all_special_ids)
            ids = [i for i in range(self.tokenizer.size) if i not in special_ids]
            rows = self.config.batch_size // parts
            return [lookup_drill(rows, ids, rng) for _ in range(parts)]
        items = draw_items(self.tasks, self.config.batch_size, rng)
        return make_batches(
            items,
            self.tokenizer,
            self.end_of_turn,
            self.end,
            parts,
            rng,
        )

    def mask(self, batch: TrainingBatch, rng: random.Random) -> tuple[str, MaskedBatch]:
        """Choose the objective for a batch of this step and apply it: its name in the log, and the
        masked rows.
        """
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        mask_id = self.tokenizer.mask_id
        progress = self.step / self.config.steps
        if self._is_drilling:
            return "drill", two_stream(batch, mask_id, 1, DRILL_ANSWER, generator)
        if progress < self.config.next_token_until:
            return "next_token", two_stream(batch, mask_id, 1, NOISY_WIDTH, generator)
        if progress < self.config.blocks_until and rng.random() < BLOCKS_SHARE:
            block = rng.choice(BLOCK_LENGTHS)
            return "blocks", two_stream(batch, mask_id, block, NOISY_WIDTH, generator)
        name = rng.choice(ONE_STREAM)
        if name == "uniform":
            return name, mask_uniform(batch, mask_id, generator)
        is_ordered = name == "ordered"
        return name, mask_block(batch, mask_id, generator, is_ordered)

    def loss(self, batch: MaskedBatch) -> Tensor:
        """Weighted cross-entropy over the masks; a row's weights sum to about its answer length."""
        batch = batch.to(self.device)
        losses = token_losses(self.model, batch)
        total = (losses * batch.weight).sum()
        return total / (len(batch.tokens) * LOSS_SCALE)

    def train_step(self) -> dict[str, Any]:
        """One optimiser step; returns its log record: the learning rate and a loss by objective."""
        config = self.config
        rng = random.Random(f"{config.seed}/{self.step}/{self.rank}")
        rate = learning_rate(self.step, config.steps, config.lr, WARMUP_STEPS)
        record: dict[str, Any] = {
            "step": self.step,
            "lr": rate,
        }
        losses: dict[str, list[float]] = {}
        for batch in self._batches(rng):
            objective, masked = self.mask(batch, rng)
            loss = self.loss(masked)
            share = loss / config.parts
            share.backward()  # type: ignore[no-untyped-call]
            losses.setdefault(objective, []).append(loss.item())
            self.tokens += batch.tokens.numel() * config.processes
        average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        apply_gradients(self.optimizers, rate)
        self.step += 1
        means = {objective: round(fmean(parts), 4) for objective, parts in losses.items()}
        return record | means

    def run(
        self,
        evaluate: Callable[[Path], dict[str, Any]] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding the log record of each step; weights go to the folder.

        `evaluate` scores the checkpoint in a folder, every `eval_every` steps and at the end.
        """
        self._saved.cut_log(self.step)
        while self.step < self.config.steps:
            started_at = time.perf_counter()
            record = self.train_step()
            self.seconds += time.perf_counter() - started_at
            record["tokens"] = self.tokens
            record["seconds"] = round(self.seconds, 1)
            is_last = self.step == self.config.steps
            must_save = is_last or self.step % self.config.save_every == 0
            must_evaluate = is_last or self.step % self.config.eval_every == 0
            if must_save or (evaluate is not None and must_evaluate):
                self.export()
            if evaluate is not None and must_evaluate:
                record["eval"] = evaluate(self.folder)
            self._saved.log(record)
            if must_save:  # last: after a kill before this, the rest is done again
                self.save()
            yield record

    def records(self) -> list[dict[str, Any]]:
        """The log so far."""
        return self._saved.records()

    def report(self) -> dict[str, Any]:
        """Settings and cost of the run."""
        return {
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds),
            "threads": self.config.threads,
            "torch": torch.__version__,
            "config": dataclasses.asdict(self.config),
        }

    def export(self) -> None:
        """Write the checkpoint into the folder."""
        export_checkpoint(self.model, self.tokenizer, self.folder)


def run_peer(
    rank: int,
    world: int,
    store_file: Path,
    config: TrainConfig,
    tasks: str,
    folder: Path,
) -> None:
    """Another process of a run: the same steps on rows of its own; it saves and logs nothing.

    It loads the tasks by their names: a task of a user need not be picklable.
    """
    join_group(rank, world, store_file)
    run = TrainingRun(config, read_tokenizer(folder), load_tasks(tasks), folder, rank)
    while run.step < config.steps:
        run.train_step()


def apply_gradients(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Step every optimiser, each group at its `scale` of the rate, and clear the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _optimizers(model: Transformer, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, AdamW for the rest; `scale` multiplies the rate."""
    if not hasattr(torch.optim, "Muon"):
        raise OptionError(
            "training needs torch.optim.Muon",
            given=torch.__version__,
            allowed="torch >= 2.9",
            hint="Upgrade torch.",
        )
    matrices = [weight for weight in model.layers.parameters() if weight.dim() == 2]
    matrix_ids = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in matrix_ids]
    muon = torch.optim.Muon(
        matrices,
        lr=config.lr,
        weight_decay=0.01,
        adjust_lr_fn="match_rms_adamw",
    )
    adam = torch.optim.AdamW(
        others,
        lr=config.lr,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    for optimizer, scale in ((muon, 1.0), (adam, 0.6)):
        for group in optimizer.param_groups:
            group["scale"] = scale
    return [muon, adam]
