"""PEFT adapters, merged into the tensors of their base while these are read.

An adapter's tensors have the names of the base's modules behind `base_model.model.`:

    <module>.lora_A.weight [r, in], .lora_B.weight [out, r]    W + scale B A
    <module>.lora_embedding_A [r, rows], .lora_embedding_B     W + scale (B A)^T
    <module>.weight, <module>.bias                             replaced (modules_to_save, bias)
    <module>.token_adapter.trainable_tokens_delta [n, hidden]  rows replaced (LoRA on tokens)
    mask_embedding [hidden]                                    the mask's row replaced (ours)

The scale is alpha / r, or alpha / sqrt(r) with rank stabilisation (arXiv 2106.09685, 2312.03732).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from creditdecoding.checkpoint import ADAPTER_CONFIG, CheckpointParts, read_json, shards
from creditdecoding.config import ModelConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models.adapter_config import LoraSettings, lora_settings
from creditdecoding.models.weights import TensorHeader, read_headers

PREFIX = "base_model.model."
MASK_EMBEDDING = "mask_embedding"
TOKENS = ".token_adapter.trainable_tokens_delta"
_LORA = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B)")
_SHAPE_HINT = "The adapter belongs to another base, or its config was changed."


@dataclass(frozen=True)
class Change:
    """What is done to one tensor of the base: an update of low rank, rows, or the whole.

    `tensors` are names in the adapter's file; `rows` the ids of replaced rows.
    """

    kind: str
    tensors: tuple[str, ...]
    scale: float = 1.0
    rows: tuple[int, ...] = ()


class Adapter:
    """An adapter that was checked against its base. `merge` gives a tensor of the result."""

    def __init__(self, path: Path, changes: Mapping[str, tuple[Change, ...]]) -> None:
        self.changes = changes
        self._file = safe_open(str(path), framework="pt")

    def merge(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor of the base with all changes; float32 if there are any."""
        for change in self.changes.get(name, ()):
            tensor = self._changed(tensor.float(), change)
        return tensor

    def _changed(self, tensor: Tensor, change: Change) -> Tensor:
        values: list[Tensor] = [self._file.get_tensor(name).float() for name in change.tensors]
        if change.kind == "whole":
            return values[0]
        if change.kind == "rows":
            index = torch.tensor(change.rows)
            return tensor.index_copy(0, index, values[0].view(len(index), -1))
        first, second = values
        update = second @ first
        if change.kind == "embedding":
            update = update.T
        return tensor + change.scale * update


def read_adapter(parts: CheckpointParts, config: ModelConfig, embedding: str) -> Adapter:
    """The adapter in `parts.folder` for the base in `parts.weights`.

    `embedding` is the released name of the embedding's table. Raises `CheckpointError` for what is
    missing, unknown, of another shape or not implemented, and for another base than its own.
    """
    settings = lora_settings(read_json(parts.folder / ADAPTER_CONFIG))
    (path,) = shards(parts.folder)
    headers = read_headers([path])
    base_headers = read_headers(shards(parts.weights))
    _check_fingerprint(settings, parts.weights, base_headers)
    changes: dict[str, tuple[Change, ...]] = {}
    for name, change in _changes(headers, settings, config.mask_token_id):
        target = name or embedding
        if target not in base_headers:
            raise _unknown(change.tensors[0])
        if target == embedding and config.tie_embeddings:
            _refuse_tied(change)
        _check_shapes(target, change, headers, base_headers[target], settings)
        changes[target] = (*changes.get(target, ()), change)
    _check_complete(changes, settings, base_headers)
    return Adapter(path, changes)


def _changes(
    headers: Mapping[str, TensorHeader], settings: LoraSettings, mask_id: int | None
) -> Iterator[tuple[str, Change]]:
    """Every change with the name of the base's tensor, empty for `mask_embedding`. Raises
    `CheckpointError`.
    """
    for name in headers:
        if name == MASK_EMBEDDING:
            if mask_id is None:
                raise CheckpointError(
                    "the adapter has a mask_embedding, but config.json names no mask",
                    hint="Add mask_token_id to the adapter's config.json.",
                )
            yield "", Change("rows", (name,), rows=(mask_id,))
            continue
        if not name.startswith(PREFIX):
            raise _unknown(name)
        inner = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        match = _LORA.fullmatch(inner)
        if match is not None:
            if match[2] in ("lora_A.weight", "lora_embedding_A"):
                yield f"{match[1]}.weight", _low_rank(name, match[1], headers, settings)
            elif name.replace("_B", "_A") not in headers:
                raise _missing(name.replace("_B", "_A"))
        elif inner.endswith(TOKENS):
            module = inner.removesuffix(TOKENS)
            yield f"{module}.weight", Change("rows", (name,), rows=settings.token_rows(module))
        else:
            yield inner, Change("whole", (name,))


def _low_rank(
    name: str, module: str, headers: Mapping[str, TensorHeader], settings: LoraSettings
) -> Change:
    partner = name.replace("lora_A.", "lora_B.").replace("lora_embedding_A", "lora_embedding_B")
    if partner not in headers:
        raise _missing(partner)
    kind = "embedding" if "lora_embedding" in name else "low rank"
    return Change(kind, (name, partner), settings.scale(module))


def _unknown(name: str) -> CheckpointError:
    return CheckpointError(
        "the adapter has a tensor that its base does not have or that is not implemented",
        given=name[:150],
        allowed="LoRA, trained tokens, and whole weights of the base's modules",
        hint="Give the base that it was made from.",
    )


def _missing(name: str) -> CheckpointError:
    return CheckpointError(
        "the adapter lacks a tensor", given=name[:150], hint="Download the adapter again."
    )


def _refuse_tied(change: Change) -> None:
    """Refuse what would change the head with the embedding, where PEFT changes only one."""
    if change.kind != "rows":
        raise CheckpointError(
            "an adapter of the embedding of a base whose head is tied to it is not implemented",
            given=change.tensors[0],
            hint="Merge it with PEFT's merge_and_unload and save the whole model.",
        )


def _check_shapes(
    target: str,
    change: Change,
    headers: Mapping[str, TensorHeader],
    base: TensorHeader,
    settings: LoraSettings,
) -> None:
    rank = settings.rank(target.removesuffix(".weight"))
    shapes = _expected_shapes(change, base.shape, rank)
    for name, shape in zip(change.tensors, shapes):
        if len(base.shape) > 2 or headers[name].shape != shape:
            raise CheckpointError(
                f"wrong shape of {name}", given=headers[name].shape, allowed=shape, hint=_SHAPE_HINT
            )


def _expected_shapes(
    change: Change, base: tuple[int, ...], rank: int
) -> tuple[tuple[int, ...], ...]:
    """Shapes of a change's tensors, for a tensor of the base's shape. Raises `CheckpointError`."""
    if change.kind == "low rank":
        return (rank, base[-1]), (base[0], rank)
    if change.kind == "embedding":
        return (rank, base[0]), (base[-1], rank)
    if change.kind == "whole":
        return (base,)
    if not all(0 <= row < base[0] for row in change.rows):
        raise CheckpointError(
            "the adapter trains tokens that the base does not have",
            given=max(change.rows),
            allowed=f"below {base[0]}",
            hint=_SHAPE_HINT,
        )
    if change.tensors == (MASK_EMBEDDING,):
        return ((base[-1],),)
    return ((len(change.rows), base[-1]),)


def _check_complete(
    changes: Mapping[str, tuple[Change, ...]],
    settings: LoraSettings,
    base: Mapping[str, TensorHeader],
) -> None:
    """Everything that the config says is trained is there, and nothing else is adapted."""
    for name, header in base.items():
        module = name.rpartition(".")[0]
        kinds = {change.kind for change in changes.get(name, ())}
        is_low_rank = bool(kinds & {"low rank", "embedding"})
        is_matrix = name.endswith(".weight") and len(header.shape) == 2
        if is_matrix and not settings.saves(module) and settings.adapts(module) != is_low_rank:
            if is_low_rank:
                raise _unknown(f"{PREFIX}{module}.lora_A.weight")
            raise _missing(f"{PREFIX}{module}.lora_A.weight")
        if settings.saves(module) and "whole" not in kinds:
            raise _missing(PREFIX + name)
        if name.endswith(".bias") and settings.trains_bias(module) and "whole" not in kinds:
            raise _missing(PREFIX + name)
    for module in settings.tokens:
        names = [name for name in base if name.endswith(f"{module}.weight")]
        if not any(change.kind == "rows" for name in names for change in changes.get(name, ())):
            raise _missing(
                f"{PREFIX}{names[0] if names else module}".removesuffix(".weight") + TOKENS
            )


def _check_fingerprint(
    settings: LoraSettings, base: Path, headers: Mapping[str, TensorHeader]
) -> None:
    if settings.base_fingerprint is None:
        return
    fingerprint = base_fingerprint(base, headers)
    if fingerprint != settings.base_fingerprint:
        raise CheckpointError(
            "the adapter was made for another base",
            given=f"{fingerprint} ({base})",
            allowed=f"{settings.base_fingerprint} ({settings.base_name})",
            hint="Give its own base, or take base_fingerprint out of adapter_config.json to try.",
        )


def base_fingerprint(folder: Path, headers: Mapping[str, TensorHeader] | None = None) -> str:
    """A digest of a base's weights: shapes, and the first and last row of each tensor in bfloat16.

    It does not depend on the type and the number of the weight files.
    """
    headers = read_headers(shards(folder)) if headers is None else headers
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(headers):
        header = headers[name]
        digest.update(f"{name} {header.shape}\n".encode())
        with safe_open(str(header.file), framework="pt") as file:
            view = file.get_slice(name)
            for row in (view[:1], view[header.shape[0] - 1 :]):
                values = row.to(torch.bfloat16).contiguous().view(torch.uint8)
                digest.update(values.numpy().tobytes())
    return digest.hexdigest()
