"""Diffusion models that are not implemented, though some use a class name of a family here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.errors import CheckpointError

_USE_BRING = "Load it with its own code and hand the network to cd.wrap (docs/guide/your-model.md)."
_USE_ANOTHER = "Use a checkpoint of docs/guide/your-checkpoint.md."


@dataclass(frozen=True)
class UnsupportedModel:
    """A model refused by name.

    `pattern` matches a class, a model type or a repository's name in lower case.
    """

    pattern: str
    reason: str
    hint: str = _USE_BRING


UNSUPPORTED: tuple[UnsupportedModel, ...] = (
    UnsupportedModel(
        "dreamforcausallm|dream-?reasoner",
        "DreamReasoner is another network than Dream: per-head norms, blocks of 32, no shift",
    ),
    UnsupportedModel(
        "diffusion_?gemma",
        "DiffusionGemma has no mask token: its canvas starts as random tokens, and none is final "
        "before the end",
        _USE_ANOTHER,
    ),
    UnsupportedModel(
        "nemotron_?-?labs_?-?diffusion",
        "Nemotron-Labs-Diffusion scales its rotary embedding (YaRN) and its queries by position; "
        "whether its logits are shifted and finished text is seen causally is not known here",
    ),
    UnsupportedModel(
        "llada_?-?moe_?-?v2",
        "LLaDA-MoE-v2 is another network than LLaDA-MoE, and its config.json was not seen",
    ),
    UnsupportedModel(
        "we_?-?dlm",
        "WeDLM attends causally to reordered positions, which is not implemented",
        _USE_ANOTHER,
    ),
    UnsupportedModel(
        "mineru", "MinerU-Diffusion reads pictures, which is not implemented", _USE_ANOTHER
    ),
    UnsupportedModel(
        "two_?-?tower",
        "TwoTower runs two networks, one for finished text and one for masks, which is not "
        "implemented",
    ),
    UnsupportedModel(
        "stable_?-?diffcoder",
        "Stable-DiffCoder is another network, and its config.json was not seen",
    ),
    UnsupportedModel(
        "llada_?-?2(.0)?_?-?uni|lladauni",
        "LLaDA2.0-Uni writes images too and is not implemented",
        "Use LLaDA2.0-mini, -flash or LLaDA2.1.",
    ),
    UnsupportedModel(
        "mmada|lavida|llada_?-?v(?![a-z0-9])|lladav(?=model|for)|llava",
        "models that read or write images are not implemented",
        _USE_ANOTHER,
    ),
    UnsupportedModel(
        r"(?<![a-z])i-?dlm(?![a-z])|(?<![a-z])i-?dlm(?=for|model)",
        "I-DLM has SDAR's layers, but attends causally, shifts its logits and accepts tokens by a "
        "ratio of probabilities: it is not a masked-block model",
        _USE_ANOTHER,
    ),
    UnsupportedModel(
        "rnd1", "RND1 is another network of experts with masks, which is not implemented"
    ),
    UnsupportedModel(
        "blockdiffusion|gidd",
        "this diffusion model starts from random tokens instead of masks",
        _USE_ANOTHER,
    ),
)


def check_supported_model(raw: Mapping[str, Any], folder: Path | None = None) -> None:
    """Refuse a checkpoint that one of `UNSUPPORTED` names. Raises `CheckpointError`."""
    for name in _names(raw, folder):
        for model in UNSUPPORTED:
            if re.search(model.pattern, name.lower()):
                raise CheckpointError(model.reason, given=name[:100], hint=model.hint)


def _names(raw: Mapping[str, Any], folder: Path | None) -> Iterator[str]:
    """Names of a checkpoint: in config.json, of its folder, of its repository in the hub cache."""
    classes = raw.get("architectures")
    for name in classes if isinstance(classes, list) else [classes]:
        if isinstance(name, str):
            yield name
    for key in ("model_type", "_name_or_path"):
        name = raw.get(key)
        if isinstance(name, str):
            yield Path(name).name
    if folder is not None:
        yield folder.name
        if folder.parent.name == "snapshots":
            yield folder.parent.parent.name.rpartition("--")[2]
