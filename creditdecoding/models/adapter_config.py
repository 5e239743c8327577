"""Reads PEFT's adapter_config.json; what is not implemented is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creditdecoding.errors import CheckpointError, short_repr

_READ = """
    alpha_pattern base_fingerprint base_model_name_or_path bias exclude_modules
    init_lora_weights layers_to_transform lora_alpha modules_to_save peft_type r rank_pattern
    target_modules trainable_token_indices use_rslora
"""
# What changes nothing of a finished adapter.
_HARMLESS = """
    auto_mapping corda_config eva_config inference_mode loftq_config lora_dropout lora_ga_config
    megatron_core peft_version qalora_group_size revision runtime_config task_type
    ensure_weight_tying
"""
KNOWN = frozenset(f"{_READ} {_HARMLESS}".split())

INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""

_HINT = "Merge it with PEFT's merge_and_unload and save the whole model."


@dataclass(frozen=True)
class LoraSettings:
    """The fields of adapter_config.json. Module names are those of the base, such as
    model.layers.0.self_attn.q_proj; `tokens` are the trained rows of an embedding by its name.
    """

    base_name: str
    base_fingerprint: str | None
    r: int
    alpha: float
    stabilised: bool
    ranks: Mapping[str, Any]
    alphas: Mapping[str, Any]
    targets: tuple[str, ...] | str
    excluded: tuple[str, ...] | str
    layers: tuple[int, ...] | None
    saved: tuple[str, ...]
    bias: str
    tokens: Mapping[str, tuple[int, ...]]

    def rank(self, module: str) -> int:
        """The rank of a module's adapter."""
        return int(_by_pattern(self.ranks, module, self.r))

    def scale(self, module: str) -> float:
        """The factor of B A."""
        rank = self.rank(module)
        alpha = _by_pattern(self.alphas, module, self.alpha)
        return float(alpha / math.sqrt(rank) if self.stabilised else alpha / rank)

    def adapts(self, module: str) -> bool:
        """Whether a module has a low-rank adapter."""
        if not _matches(self.targets, module) or _matches(self.excluded, module):
            return False
        layer = re.search(r"\.(\d+)\.", module)
        return self.layers is None or (layer is not None and int(layer[1]) in self.layers)

    def saves(self, module: str) -> bool:
        """Whether a module is trained as a whole."""
        return any(module == name or module.endswith(f".{name}") for name in self.saved)

    def trains_bias(self, module: str) -> bool:
        """Whether a module's bias is trained."""
        return self.bias == "all" or (self.bias == "lora_only" and self.adapts(module))

    def token_rows(self, module: str) -> tuple[int, ...]:
        """The trained rows of an embedding. Raises `CheckpointError` if none are declared."""
        for name, rows in self.tokens.items():
            if module == name or module.endswith(f".{name}"):
                return rows
        raise CheckpointError(
            "adapter_config.json: trainable_token_indices lacks an embedding",
            given=module,
            allowed=", ".join(self.tokens) or "none",
            hint="Take adapter_config.json from the adapter's release.",
        )


def _matches(names: tuple[str, ...] | str, module: str) -> bool:
    """PEFT's rule: a text is a regular expression of the whole name, a list holds endings."""
    if isinstance(names, str):
        return bool(names) and re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that the name ends with, else the default."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def lora_settings(raw: Mapping[str, Any]) -> LoraSettings:
    """The settings of an adapter. Raises `CheckpointError`."""
    _refuse_unknown(raw)
    fields = _Fields(raw)
    return LoraSettings(
        base_name=fields.text("base_model_name_or_path"),
        base_fingerprint=raw.get("base_fingerprint"),
        r=fields.count("r", 8),
        alpha=fields.number("lora_alpha", 8.0),
        stabilised=bool(raw.get("use_rslora")),
        ranks=fields.patterns("rank_pattern"),
        alphas=fields.patterns("alpha_pattern"),
        targets=fields.names("target_modules"),
        excluded=fields.names("exclude_modules"),
        layers=fields.layers(),
        saved=fields.name_list("modules_to_save"),
        bias=raw.get("bias") or "none",
        tokens=fields.tokens(),
    )


def _refuse_unknown(raw: Mapping[str, Any]) -> None:
    """Refuse other kinds of adapters, and fields and values that are not implemented."""
    if raw.get("peft_type") != "LORA":
        raise _refused("peft_type", raw.get("peft_type"), "LORA")
    for name, value in raw.items():
        if name not in KNOWN and value not in (None, False, {}, [], "", 0):
            raise _refused(name, value, "null or false")
    if raw.get("init_lora_weights", True) not in INITIAL:
        allowed = ", ".join(map(repr, INITIAL))
        raise _refused("init_lora_weights", raw["init_lora_weights"], allowed)
    if raw.get("bias") not in (None, "none", "all", "lora_only"):
        raise _refused("bias", raw["bias"], "none, all, lora_only")


def _refused(name: str, value: object, allowed: str) -> CheckpointError:
    return CheckpointError(
        f"adapter_config.json: {name} {short_repr(value, 60)} is not implemented",
        allowed=allowed,
        hint=_HINT,
    )


@dataclass(frozen=True)
class _Fields:
    """Fields of adapter_config.json with checked types. Every method may raise
    `CheckpointError`.
    """

    raw: Mapping[str, Any]

    def _bad(self, name: str, allowed: str) -> CheckpointError:
        return CheckpointError(
            f"adapter_config.json: {name} makes no sense",
            given=self.raw.get(name),
            allowed=allowed,
            hint="Take adapter_config.json from the adapter's release.",
        )

    def text(self, name: str) -> str:
        value = self.raw.get(name)
        if not isinstance(value, str) or not value:
            raise self._bad(name, "a folder, a hub id or a name that credit pull knows")
        return value

    def count(self, name: str, default: int) -> int:
        value = self.raw.get(name, default)
        if type(value) is not int or value < 1:
            raise self._bad(name, "a whole number from 1")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.raw.get(name, default)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self._bad(name, "a number")
        return float(value)

    def patterns(self, name: str) -> Mapping[str, Any]:
        value = self.raw.get(name) or {}
        is_numbers = isinstance(value, Mapping) and all(
            type(number) in (int, float) and number > 0 for number in value.values()
        )
        if not is_numbers:
            raise self._bad(name, "an object of positive numbers")
        for pattern in value:
            self._check_pattern(name, pattern)
        return dict(value)

    def _check_pattern(self, name: str, pattern: str) -> None:
        try:
            re.compile(pattern)
        except re.error as error:
            raise self._bad(name, "regular expressions") from error

    def names(self, name: str) -> tuple[str, ...] | str:
        value = self.raw.get(name)
        if isinstance(value, str):
            self._check_pattern(name, value)
            return value
        return self.name_list(name)

    def name_list(self, name: str) -> tuple[str, ...]:
        value = self.raw.get(name) or []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._bad(name, "a list of names")
        return tuple(value)

    def layers(self) -> tuple[int, ...] | None:
        value = self.raw.get("layers_to_transform")
        if value is None:
            return None
        layers = value if isinstance(value, list) else [value]
        if not all(type(layer) is int for layer in layers):
            raise self._bad("layers_to_transform", "numbers of layers")
        return tuple(layers)

    def tokens(self) -> Mapping[str, tuple[int, ...]]:
        value = self.raw.get("trainable_token_indices") or {}
        rows = value if isinstance(value, Mapping) else {"embed_tokens": value}
        for ids in rows.values():
            if not isinstance(ids, list) or not all(type(token_id) is int for token_id in ids):
                raise self._bad("trainable_token_indices", "lists of ids")
        return {name: tuple(ids) for name, ids in rows.items()}
