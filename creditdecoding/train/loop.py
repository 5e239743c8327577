"""The training loop: a masked-diffusion language model over the task families, seeded and resumable
after a kill.
"""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import ModelConfig
from creditdecoding.errors import OptionError
from creditdecoding.models import read_config
from creditdecoding.models.families import llada
from creditdecoding.models.transformer import Transformer, init_weights
from creditdecoding.models.weights import load_weights, save_weights
from creditdecoding.tasks.base import Task
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer
from creditdecoding.train.initial import DRILL_ANSWER, init_induction_heads, lookup_drill
from creditdecoding.train.objective import (
    MaskedBatch,
    TrainingBatch,
    mask_block,
    mask_uniform,
    two_stream,
)
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.parallel import average_gradients, join_group
from creditdecoding.train.rows import draw_items, make_batches
from creditdecoding.train.schedule import (
    learning_rate,
    read_log,
    save_state,
    truncate_log,
    write_whole,
)

START = "start"  # subfolder with the checkpoint a run begins from
WIDTH = 96  # answer positions in the noisy stream
WARM = 200  # steps of warm-up
FREE = ("steps", "device", "threads", "processes", "compile", "save_every", "eval_every")
"""Options with which a run may go on though it began with others."""


def model_config(config: TrainConfig, tokenizer: Tokenizer, end: int) -> ModelConfig:
    """The architecture that `config` asks for, over the ids of `tokenizer`."""
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
    """One training run in a folder: weights, optimisers, step; saved as one file that is replaced
    atomically.
    """

    def __init__(
        self,
        config: TrainConfig,
        tokenizer: Tokenizer,
        families: Sequence[Task],
        folder: Path,
        rank: int = 0,
    ) -> None:
        torch.set_num_threads(config.threads)
        self.config, self.tokenizer, self.families, self.folder = (
            config,
            tokenizer,
            list(families),
            folder,
        )
        self.rank = rank
        self.end = int(tokenizer.backend.eos_token_id)
        self.end_of_turn = next((i for i in tokenizer.stop_ids if i != self.end), self.end)
        self.device = torch.device(config.device)
        backend = "math" if self.device.type == "cpu" else "sdpa"
        self.model = Transformer(model_config(config, tokenizer, self.end), backend)
        generator = torch.Generator().manual_seed(config.seed)
        init_weights(self.model, generator)
        if config.induction:
            init_induction_heads(self.model, generator)
        self.model.to(self.device)
        self.optimizers = _optimizers(self.model, config)
        self.step, self.seconds, self.tokens, self.saved_step = 0, 0.0, 0, 0
        if config.compile:
            self.model.compile_layers(dynamic=False)
        if self.state_file.exists():
            self._resume()
        elif (folder / START).exists():
            self._start()

    @property
    def state_file(self) -> Path:
        """Where the whole state of the run is kept."""
        return self.folder / "state.pt"

    def _resume(self) -> None:
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        mine = self._about()
        for name, value in state["config"].items():
            if name not in FREE and mine.get(name) != value:
                raise OptionError(
                    f"{self.state_file} was written with another {name}",
                    given=mine.get(name),
                    allowed=value,
                    hint="Use another --out folder.",
                )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        self.step, self.seconds, self.tokens = state["step"], state["seconds"], state["tokens"]
        self.saved_step = self.step

    def _about(self) -> dict[str, Any]:
        """What a run was asked for."""
        return {
            **dataclasses.asdict(self.config),
            "tasks": [family.name for family in self.families],
        }

    def _start(self) -> None:
        """Take the weights that `start_from_checkpoint` laid into the folder; optimisers and step begin anew."""
        given = read_config(self.folder / START)[0]
        if given != self.model.config:
            raise OptionError(
                "the checkpoint to start from has another shape",
                given=f"{given.num_layers} layers of {given.hidden_size}",
                allowed=f"{self.config.num_layers} layers of {self.config.hidden_size}, the same heads, feed-forward and vocabulary",
                hint="Ask for the checkpoint's shape.",
            )
        loaded = Transformer(given)
        load_weights(loaded, self.folder / START, llada.RENAME, self.device, torch.float32)
        self.model.load_state_dict(loaded.state_dict())

    def save(self) -> None:
        """Write the state; a kill at any moment leaves the old or the new file, never half of one."""
        state = {
            "config": self._about(),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
        }
        save_state(self.state_file, state)
        self.saved_step = self.step

    def _batches(self, rng: random.Random) -> list[TrainingBatch]:
        """The rows of this step: questions, or at the very beginning look-up drills."""
        if self.step < self.config.drill_steps:
            ids = sorted({*range(self.tokenizer.size)} - {*self.tokenizer.backend.all_special_ids})
            return [
                lookup_drill(self.config.batch_size // self.config.parts, ids, rng)
                for _ in range(self.config.parts)
            ]
        items = draw_items(self.families, self.config.batch_size, rng)
        return make_batches(
            items, self.tokenizer, self.end_of_turn, self.end, self.config.parts, rng
        )

    def corrupt(self, batch: TrainingBatch, rng: random.Random) -> tuple[str, MaskedBatch]:
        """Choose the objective of this part of the step and apply it."""
        generator = torch.Generator().manual_seed(rng.getrandbits(62))
        mask_id, progress = self.tokenizer.mask_id, self.step / self.config.steps
        if self.step < self.config.drill_steps:
            return "drill", two_stream(batch, mask_id, 1, DRILL_ANSWER, generator)
        if progress < self.config.next_token_until:
            return "next_token", two_stream(batch, mask_id, 1, WIDTH, generator)
        if progress < self.config.blocks_until and rng.random() < 0.6:
            return "blocks", two_stream(
                batch, mask_id, rng.choice((1, 1, 1, 4, 8, 32)), WIDTH, generator
            )
        name = rng.choice(("uniform", "blockwise", "ordered", "ordered"))
        if name == "uniform":
            return name, mask_uniform(batch, mask_id, generator)
        return name, mask_block(batch, mask_id, generator, name == "ordered")

    def loss(self, given: MaskedBatch, rows: int) -> Tensor:
        """Weighted cross-entropy over the masked positions, a row's weights summing to about its
        answer length.
        """
        allowed, positions = (
            None if x is None else x.to(self.device)
            for x in (given.attention_mask, given.positions)
        )
        with torch.autocast(self.device.type, torch.bfloat16):
            hidden = self.model.hidden_states(given.tokens.to(self.device), allowed, positions)[
                tuple(index.to(self.device) for index in given.loss_positions)
            ]
            logits = self.model.logits(hidden)
        losses = F.cross_entropy(logits.float(), given.target.to(self.device), reduction="none")
        return (losses * given.weight.to(self.device)).sum() / (rows * 64)

    def train_step(self) -> dict[str, float]:
        """One optimiser step; returns what is logged of it."""
        rng = random.Random(f"{self.config.seed}/{self.step}/{self.rank}")
        peak = learning_rate(self.step, self.config.steps, self.config.lr, WARM)
        logged: dict[str, float] = {"step": self.step, "lr": peak}
        for batch in self._batches(rng):
            name, corrupted = self.corrupt(batch, rng)
            loss = self.loss(corrupted, len(batch.tokens)) / self.config.parts
            loss.backward()  # type: ignore[no-untyped-call]
            logged[name] = round(loss.item() * self.config.parts, 4)
            self.tokens += batch.tokens.numel() * self.config.processes
        average_gradients(self.model)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * group["scale"]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return logged

    def run(
        self, evaluate: Callable[[Path], dict[str, Any]] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding a record a step; records also go to log.jsonl, weights to the
        folder.
        """
        log = self.folder / "log.jsonl"
        truncate_log(log, self.step)
        while self.step < self.config.steps:
            began = time.perf_counter()
            record: dict[str, Any] = self.train_step()
            self.seconds += time.perf_counter() - began
            record |= {"tokens": self.tokens, "seconds": round(self.seconds, 1)}
            last = self.step == self.config.steps
            keep = last or self.step % self.config.save_every == 0
            look = evaluate is not None and (last or self.step % self.config.eval_every == 0)
            if keep or look:
                self.export()
            if evaluate is not None and look:
                record["eval"] = evaluate(self.folder)
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            if keep:  # last of all: what a kill leaves undone before this is done again
                self.save()
            yield record

    def records(self) -> list[dict[str, Any]]:
        """The log so far."""
        return read_log(self.folder / "log.jsonl")

    def report(self) -> dict[str, Any]:
        """Recipe and cost of the run."""
        count = sum(w.numel() for w in self.model.parameters())
        cost = {
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds),
            "threads": self.config.threads,
        }
        return {
            "parameters": count,
            **cost,
            "torch": torch.__version__,
            "config": dataclasses.asdict(self.config),
        }

    def export(self) -> None:
        """Write the checkpoint in the released LLaDA format: config.json, generation_config.json,
        model.safetensors.
        """
        config = llada.to_hf(self.model.config, "bfloat16")
        write_whole(self.folder / "config.json", json.dumps(config, indent=2) + "\n")
        ends = {
            "bos_token_id": self.tokenizer.backend.bos_token_id,
            "eos_token_id": self.end,
            "pad_token_id": self.end,
            "max_turns": 1,
        }
        write_whole(self.folder / "generation_config.json", json.dumps(ends, indent=2) + "\n")
        part = self.folder / "model.part"
        save_weights(self.model, part, llada.RENAME, torch.bfloat16)
        os.replace(part, self.folder / "model.safetensors")


def start_from_checkpoint(name: str, folder: Path) -> None:
    """Lay the checkpoint `name` into a run's folder as what it starts from; nothing to do where
    that run goes on.

    Raises `OptionError` if the run has begun from something else.
    """
    source = resolve_checkpoint(name)
    if (folder / "state.pt").exists():
        if not _same_files(source, folder / START):
            raise OptionError(
                "this run has begun already",
                given=str(folder),
                hint="Leave --start-from out to go on, or use another --out.",
            )
        return
    shutil.copytree(source, folder / START, dirs_exist_ok=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / START / file, folder / file)


def _same_files(one: Path, other: Path) -> bool:
    """Whether the weights, the configuration and the tokenizer in two folders are equal."""
    names = [path.name for path in one.iterdir() if path.suffix in (".json", ".safetensors")]
    return other.is_dir() and not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])


def run_peer(
    rank: int,
    world: int,
    meeting: Path,
    config: TrainConfig,
    families: Sequence[Task],
    folder: Path,
) -> None:
    """A further process of a run: the same steps on rows of its own, nothing saved or logged."""
    join_group(rank, world, meeting)
    run = TrainingRun(config, read_tokenizer(folder), families, folder, rank)
    while run.step < config.steps:
        run.train_step()


def _optimizers(model: Transformer, config: TrainConfig) -> list[torch.optim.Optimizer]:
    if not hasattr(torch.optim, "Muon"):
        raise OptionError(
            "training needs torch.optim.Muon",
            given=torch.__version__,
            allowed="torch >= 2.9",
            hint="Upgrade torch.",
        )
    matrices = [w for w in model.layers.parameters() if w.dim() == 2]
    others = [w for w in model.parameters() if not any(w is m for m in matrices)]
    muon = torch.optim.Muon(
        matrices, lr=config.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer, scale in ((muon, 1.0), (adam, 0.6)):
        for group in optimizer.param_groups:
            group["scale"] = scale
    return [muon, adam]
