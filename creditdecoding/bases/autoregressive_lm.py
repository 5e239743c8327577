"""An autoregressive model with its tokenizer: where adapters start from, and a judge of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import EngineConfig
from creditdecoding.models import BASES, load_model, read_config
from creditdecoding.models.transformer import Transformer
from creditdecoding.models.weights import Progress
from creditdecoding.text.tokenizer import Tokenizer, read_tokenizer


@dataclass(frozen=True)
class AutoregressiveLM:
    """A base: its folder, network and tokenizer (whose mask id is `NO_MASK`)."""

    folder: Path
    model: Transformer
    tokenizer: Tokenizer

    @property
    def name(self) -> str:
        """What reports call it: its hub id, or the name of its folder without the path."""
        if self.folder.parent.name != "snapshots":
            return self.folder.name
        repository = self.folder.parent.parent.name
        return repository.removeprefix("models--").replace("--", "/")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.norm.weight.device


def check_base(name: str, engine: EngineConfig) -> None:
    """Refuse what `load_base` would refuse, without reading weights."""
    folder = resolve_checkpoint(name, engine.revision, engine.offline, engine.cache_dir)
    read_tokenizer(folder, read_config(folder, families=BASES)[0], has_mask=False)


def load_base(
    name: str, engine: EngineConfig, on_progress: Progress | None = None
) -> AutoregressiveLM:
    """Load a Llama, Qwen2 or Qwen3 checkpoint: a folder or a hub id.

    Raises `CheckpointError`, also for a diffusion model, and `OptionError`.
    """
    folder = resolve_checkpoint(name, engine.revision, engine.offline, engine.cache_dir)
    config, _ = read_config(folder, engine.ignore_config_keys, BASES)
    tokenizer = read_tokenizer(folder, config, has_mask=False)
    model = load_model(folder, engine, on_progress, families=BASES)
    return AutoregressiveLM(folder, model, tokenizer)
