"""Reads a checkpoint's config.json and generation_config.json field by field, with checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creditdecoding.config import Llama3RopeScaling, ModelConfig, MoEConfig
from creditdecoding.errors import CheckpointError

PLAIN: Mapping[str, Any] = {"hidden_act": "silu", "is_causal": False, "use_sliding_window": False}
"""The only implemented values, which an absent field stands for, in all but the LLaDA family."""

SHIFT_NAMES = ("logit_shift", "logits_shift", "shift_logits")

MAX_COUNT = 2**31 - 1
"""The largest count that a network can have."""

MAX_NAME = 120
"""Characters of a class name that an error shows."""

ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
"""Keys of the objects that describe the rotary embedding."""

LLAMA3_KEYS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)
"""Keys of the rotary embedding of Llama 3.1 and later."""


@dataclass(frozen=True)
class ConfigReader:
    """Reads config.json and generation_config.json (empty if absent).

    Every method may raise `CheckpointError`.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    rope_types: tuple[str, ...] = ("default",)
    """Kinds of rotary embedding that the family has."""

    @property
    def architecture(self) -> str:
        """Name of the class that the checkpoint was written for."""
        names = self.config.get("architectures") or [""]
        return str(names[0] if isinstance(names, list) else names)[:MAX_NAME]

    @property
    def hint(self) -> str:
        """The hint of most errors."""
        family = self.architecture or "this family"
        return f"Take config.json from a released checkpoint of {family}."

    def not_implemented(self, name: str, value: Any, allowed: str) -> CheckpointError:
        """The error for a value that changes the forward pass and is not implemented."""
        return CheckpointError(
            f"config.json: {name} is not implemented", given=value, allowed=allowed, hint=self.hint
        )

    def _invalid(
        self, name: str, value: Any, allowed: str, file: str = "config.json"
    ) -> CheckpointError:
        return CheckpointError(
            f"{file}: {name} makes no sense", given=value, allowed=allowed, hint=self.hint
        )

    def require_values(self, implemented: Mapping[str, Any]) -> None:
        """Refuse fields with another value than the implemented one; absent or null ones pass."""
        for name, expected in implemented.items():
            value = self.config.get(name)
            if value is not None and value != expected:
                raise self.not_implemented(name, value, repr(expected))

    def require(self, *names: str) -> None:
        """Refuse a config.json that lacks one of these fields."""
        for name in names:
            if self.config.get(name) is None:
                raise CheckpointError(
                    f"config.json lacks {name}", allowed=", ".join(names), hint=self.hint
                )

    def _value(self, name: str, default: Any) -> Any:
        value = self.config.get(name)
        if value is not None:
            return value
        if default is None:
            self.require(name)
        return default

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number, at least `least`. The field is required if there is no default."""
        value = self._value(name, default)
        if type(value) is not int or not least <= value <= MAX_COUNT:
            raise self._invalid(name, value, f"a whole number, {least} to {MAX_COUNT}")
        return value

    def number(self, name: str) -> float:
        """A number above 0."""
        value = self._value(name, None)
        if type(value) not in (int, float) or not 0 < value < 1e300:
            raise self._invalid(name, value, "a number above 0")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        if type(value) is not bool:
            raise self._invalid(name, value, "true or false")
        return value

    def token_id(self, name: str) -> int | None:
        """A token id, None if absent."""
        value = self.config.get(name)
        if value is not None and type(value) is not int:
            raise self._invalid(name, value, "whole numbers")
        return value

    def stop_token_ids(self) -> tuple[int, ...]:
        """End tokens of both files, those of config.json first."""
        stop_ids: dict[int, None] = {}
        files = {"config.json": self.config, "generation_config.json": self.generation}
        for file, fields in files.items():
            value = fields.get("eos_token_id")
            if value is None:
                continue
            ids = value if isinstance(value, list) else [value]
            if not all(type(token_id) is int for token_id in ids):
                raise self._invalid("eos_token_id", value, "whole numbers", file)
            stop_ids |= dict.fromkeys(ids)
        return tuple(stop_ids)

    def pad_token_id(self, stop_ids: tuple[int, ...]) -> int:
        """The padding id, else the first end token, else 0."""
        pad_id = self.token_id("pad_token_id")
        if pad_id is not None:
            return pad_id
        return stop_ids[0] if stop_ids else 0

    def rope(self) -> tuple[float, float | None]:
        """Base of the rotary embedding, and the share of a head that is rotated (None if absent).

        They are read at the top level and in `rope_scaling` and `rope_parameters`.
        """
        values = self._rope_values()
        for name in ("rope_theta", "partial_rotary_factor"):
            outer = self.config.get(name)
            if outer is not None and values.setdefault(name, outer) != outer:
                raise self._invalid(name, (outer, values[name]), "one value in both places")
        if "rope_theta" not in values:
            self.require("rope_theta")
        reader = ConfigReader(values, {})
        share = None
        if "partial_rotary_factor" in values:
            share = reader.number("partial_rotary_factor")
        return reader.number("rope_theta"), share

    def rope_scaling(self) -> Llama3RopeScaling | None:
        """How the rotary embedding is scaled; None if it is not."""
        values = self._rope_values()
        if _rope_type(values) == "default":
            return None
        reader = ConfigReader(values, {})
        scaling = Llama3RopeScaling(
            factor=reader.number("factor"),
            low_freq_factor=reader.number("low_freq_factor"),
            high_freq_factor=reader.number("high_freq_factor"),
            original_length=reader.integer("original_max_position_embeddings"),
        )
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            allowed = f"above low_freq_factor, {scaling.low_freq_factor:g}"
            raise self._invalid("high_freq_factor", scaling.high_freq_factor, allowed)
        return scaling

    def _rope_values(self) -> dict[str, Any]:
        """What both objects that describe the rotary embedding say."""
        return {**self._rope_object("rope_scaling"), **self._rope_object("rope_parameters")}

    def _rope_object(self, name: str) -> dict[str, Any]:
        """An object that describes the rotary embedding; scaling of another kind is refused."""
        fields = self.config.get(name) or {}
        if not isinstance(fields, Mapping):
            raise self._invalid(name, fields, "an object")
        kind = _rope_type(fields)
        if kind not in self.rope_types:
            allowed = " or ".join(["null", *self.rope_types[1:]])
            raise self.not_implemented(name, dict(fields), allowed)
        keys = (*ROPE_KEYS, *LLAMA3_KEYS) if kind == "llama3" else ROPE_KEYS
        for key, value in fields.items():
            if key not in keys and value not in (None, False, 1):
                raise self.not_implemented(f"{name}.{key}", value, "null")
        return {key: fields[key] for key in keys if fields.get(key) is not None}

    def causal_block(self, default: int) -> int:
        """Block length of a block-causal checkpoint: `block_size` or `bd_size` of either file."""
        for fields in (self.config, self.generation):
            for name in ("block_size", "bd_size"):
                if fields.get(name) is not None:
                    return ConfigReader(fields, {}).integer(name)
        return default

    def moe_config(self, width: str, **family_values: Any) -> MoEConfig:
        """The mixture of experts; `width` names the field with the width of an expert."""
        self.require("num_experts", "num_experts_per_tok", width)
        capacity = self.config.get("expert_capacity")
        if capacity:
            raise CheckpointError(
                "expert_capacity: the experts of a whole block are chosen together, as in "
                "LLaDA2.2, which is not implemented",
                given=capacity,
                allowed="0, or no such key",
                hint="Use LLaDA2.0, LLaDA2.1 or another model of docs/guide/your-checkpoint.md.",
            )
        moe = MoEConfig(
            num_experts=self.integer("num_experts"),
            top_k=self.integer("num_experts_per_tok"),
            intermediate_size=self.integer(width),
            **family_values,
        )
        uneven = moe.num_experts % moe.groups or moe.top_groups > moe.groups
        if uneven or moe.top_k > moe.num_experts // moe.groups * moe.top_groups:
            raise CheckpointError(
                "config.json: experts, groups and choices do not fit",
                given=(moe.num_experts, moe.groups, moe.top_groups, moe.top_k),
                hint=self.hint,
            )
        return moe

    def model_config(self, family: str, **family_values: Any) -> ModelConfig:
        """The architecture from a config.json with Hugging Face's usual field names.

        `family_values` are the fields that the family knows or reads itself.
        """
        self.require_values(PLAIN)
        self._refuse_sliding_windows()
        shifted = bool(family_values.get("logit_shift", False))
        self.require_values(dict.fromkeys(SHIFT_NAMES, shifted))
        self.require(
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
            "rms_norm_eps",
        )
        rope_theta, rotary_share = self.rope()
        if "rotary_dim" not in family_values and rotary_share not in (None, 1):
            raise self.not_implemented("partial_rotary_factor", rotary_share, "1")
        stop_ids = self.stop_token_ids()
        values: dict[str, Any] = {
            **self._heads(),
            "num_layers": self.integer("num_hidden_layers"),
            "embedding_rows": self.integer("vocab_size"),
            "max_length": self.integer("max_position_embeddings"),
            "rope_theta": rope_theta,
            "rope_scaling": self.rope_scaling(),
            "rms_norm_eps": self.number("rms_norm_eps"),
            "tie_embeddings": self.boolean("tie_word_embeddings", False),
            "rope_full_precision": False,
            "mask_token_id": self.token_id("mask_token_id"),
            "stop_token_ids": stop_ids,
            "pad_token_id": self.pad_token_id(stop_ids),
            **family_values,
        }
        if "intermediate_size" not in values:
            values["intermediate_size"] = self.integer("intermediate_size")
        config = ModelConfig(family=family, **values)
        self._check_limits(config)
        return config

    def _heads(self) -> dict[str, int]:
        """Hidden size, numbers of heads and their size."""
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        kv_heads = self.integer("num_key_value_heads", heads, least=0) or heads
        head_dim = self.integer("head_dim", hidden // heads)
        uneven = "head_dim" not in self.config and hidden % heads
        if heads % kv_heads or head_dim % 2 or uneven:
            raise CheckpointError(
                "config.json: heads do not divide", given=(hidden, heads, kv_heads), hint=self.hint
            )
        return {
            "hidden_size": hidden,
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim,
        }

    def _check_limits(self, config: ModelConfig) -> None:
        """Refuse more dense layers than layers, and blocks longer than any text."""
        moe, block = config.moe, config.causal_block
        if moe is not None and moe.dense_layers > config.num_layers:
            allowed = f"at most {config.num_layers}, the layers"
            raise self._invalid("first_k_dense_replace", moe.dense_layers, allowed)
        if block is not None and block > config.max_length:
            allowed = f"at most {config.max_length}, the positions"
            raise self._invalid("the block length", block, allowed)

    def _refuse_sliding_windows(self) -> None:
        """Refuse layers with a window, and a window size that nothing says is unused."""
        window = self.config.get("sliding_window")
        if window is not None and self.config.get("use_sliding_window") is None:
            allowed = "null, or use_sliding_window false"
            raise self.not_implemented("sliding_window", window, allowed)
        layers = self.config.get("layer_types")
        if layers is None:
            return
        if not isinstance(layers, list) or any(layer != "full_attention" for layer in layers):
            raise self.not_implemented("layer_types", layers, "full_attention")


def _rope_type(fields: Mapping[str, Any]) -> str:
    """The kind of rotary embedding that an object describes."""
    return str(fields.get("rope_type", fields.get("type", "default")))
