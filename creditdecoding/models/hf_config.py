"""The fields of a checkpoint's two JSON files, read one by one and held to what a network can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creditdecoding.config import ModelConfig, MoEConfig
from creditdecoding.errors import CheckpointError

# What the families with Hugging Face's names for fields have in common; an absent field means this
# value.
PLAIN: Mapping[str, Any] = {"hidden_act": "silu", "is_causal": False, "use_sliding_window": False}

MOST = 2**31 - 1
"""The largest count that any network has."""

SHOWN = 120
"""Characters of a value that an error shows."""

ROPE = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
"""What the objects that describe the rotary embedding may hold."""


@dataclass(frozen=True)
class ConfigReader:
    """config.json and generation_config.json (empty where there is none). Every reading may raise
    `CheckpointError`.
    """

    config: Mapping[str, Any]
    generation: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        """Name of the class that the checkpoint was written for."""
        found = self.config.get("architectures") or [""]
        return str(found[0] if isinstance(found, list) else found)[:SHOWN]

    @property
    def hint(self) -> str:
        """The hint of most errors."""
        return (
            f"Take config.json from a released checkpoint of {self.architecture or 'this family'}."
        )

    def require_values(self, implemented: Mapping[str, Any]) -> None:
        """Refuse each of these fields that has another value than the one implemented; absent or
        null ones pass.
        """
        for name, value in implemented.items():
            given = self.config.get(name)
            if given is not None and given != value:
                raise self.not_implemented(name, given, repr(value))

    def not_implemented(self, name: str, given: Any, allowed: str) -> CheckpointError:
        """The error for a value that changes the forward pass and is not implemented."""
        return CheckpointError(
            f"config.json: {name} is not implemented",
            given=_short(given),
            allowed=allowed,
            hint=self.hint,
        )

    def require(self, *names: str) -> None:
        """Refuse a config.json that lacks one of these fields."""
        for name in names:
            if self.config.get(name) is None:
                raise CheckpointError(
                    f"config.json lacks {name}", allowed=", ".join(names), hint=self.hint
                )

    def integer(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of `least` or more; `default` where it is absent or null, needed without
        one.
        """
        value = self._value(name, default)
        if type(value) is not int or not least <= value <= MOST:
            raise self._senseless(name, value, f"a whole number, {least} to {MOST}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0."""
        value = self._value(name, default)
        if type(value) not in (int, float) or not 0 < value < 1e300:
            raise self._senseless(name, value, "a number above 0")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        if type(value) is not bool:
            raise self._senseless(name, value, "true or false")
        return value

    def token_id(self, name: str) -> int | None:
        """A token id of config.json, if it has one."""
        value = self.config.get(name)
        if value is not None and type(value) is not int:
            raise self._senseless(name, value, "whole numbers")
        return value

    def stop_token_ids(self) -> tuple[int, ...]:
        """End tokens of both files, those of config.json first."""
        found: list[int] = []
        for file, raw in (
            ("config.json", self.config),
            ("generation_config.json", self.generation),
        ):
            given = raw.get("eos_token_id")
            ids = given if isinstance(given, list) else [] if given is None else [given]
            if not all(type(i) is int for i in ids):
                raise self._senseless("eos_token_id", given, "whole numbers", file)
            found += ids
        return tuple(dict.fromkeys(found))

    def pad_token_id(self, stops: tuple[int, ...]) -> int:
        """The padding id: its own, else the first end token, else 0."""
        pad = self.token_id("pad_token_id")
        return next(iter(stops), 0) if pad is None else pad

    def rope(self) -> tuple[float, float | None]:
        """Base of the rotary embedding and the share of a head that is rotated, wherever they lie;
        any scaling is refused.
        """
        found: dict[str, Any] = {}
        for name in ("rope_scaling", "rope_parameters"):
            given = self.config.get(name) or {}
            if not isinstance(given, Mapping):
                raise self._senseless(name, given, "an object")
            if given.get("rope_type", given.get("type", "default")) != "default":
                raise self.not_implemented(name, dict(given), "null")
            unread = [
                key
                for key, value in given.items()
                if key not in ROPE and value not in (None, False, 1)
            ]
            if unread:
                raise self.not_implemented(f"{name}.{unread[0]}", given[unread[0]], "null")
            found |= {
                key: value for key, value in given.items() if key in ROPE and value is not None
            }
        for name in ("rope_theta", "partial_rotary_factor"):
            outer = self.config.get(name)
            if outer is not None and found.setdefault(name, outer) != outer:
                raise self._senseless(name, (outer, found[name]), "one value in both places")
        merged = ConfigReader(found, {})
        if "rope_theta" not in found:
            self.require("rope_theta")
        share = merged.number("partial_rotary_factor") if "partial_rotary_factor" in found else None
        return merged.number("rope_theta"), share

    def causal_block(self, default: int) -> int:
        """Block length of a block-causal checkpoint: `block_size` or `bd_size` of either file, else
        the family's.
        """
        for file in (self.config, self.generation):
            for name in ("block_size", "bd_size"):
                if file.get(name) is not None:
                    return ConfigReader(file, {}).integer(name)
        return default

    def moe_config(self, width: str, **own: Any) -> MoEConfig:
        """The mixture of experts: its three sizes (`width` names the field of one) and what is the
        family's.
        """
        self.require("num_experts", "num_experts_per_tok", width)
        capacity = self.config.get("expert_capacity")
        if capacity:
            what = "expert_capacity: the experts of a whole block are chosen together, as in LLaDA2.2, which is not implemented"
            raise CheckpointError(
                what,
                given=_short(capacity),
                allowed="0, or no such key",
                hint="Use LLaDA2.0, LLaDA2.1 or another model of docs/models.md.",
            )
        found = MoEConfig(
            self.integer("num_experts"),
            self.integer("num_experts_per_tok"),
            self.integer(width),
            **own,
        )
        open_ = found.num_experts // found.groups * found.top_groups
        if (
            found.num_experts % found.groups
            or found.top_groups > found.groups
            or found.top_k > open_
        ):
            given = (found.num_experts, found.groups, found.top_groups, found.top_k)
            raise CheckpointError(
                "config.json: experts, groups and choices do not fit",
                given=given,
                hint=self.hint,
            )
        return found

    def model_config(self, family: str, **own: Any) -> ModelConfig:
        """The architecture of a config.json with Hugging Face's field names; `own` says what is the
        family's.
        """
        self.require_values(PLAIN)
        self._windowless()
        for name in ("logit_shift", "logits_shift", "shift_logits"):
            self.require_values({name: bool(own.get("logit_shift", False))})
        self.require(
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "vocab_size",
            "max_position_embeddings",
            "rms_norm_eps",
        )
        theta, share = self.rope()
        hidden, heads = self.integer("hidden_size"), self.integer("num_attention_heads")
        kv_heads = self.integer("num_key_value_heads", heads, least=0) or heads
        head_dim = self.integer("head_dim", hidden // heads)
        if heads % kv_heads or head_dim % 2 or ("head_dim" not in self.config and hidden % heads):
            raise CheckpointError(
                "config.json: heads do not divide",
                given=(hidden, heads, kv_heads),
                hint=self.hint,
            )
        if "rotary_dim" not in own and share not in (None, 1):
            raise self.not_implemented("partial_rotary_factor", share, "1")
        stops = self.stop_token_ids()
        values: dict[str, Any] = {
            "hidden_size": hidden,
            "num_layers": self.integer("num_hidden_layers"),
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": head_dim,
            "embedding_rows": self.integer("vocab_size"),
            "max_length": self.integer("max_position_embeddings"),
            "rope_theta": theta,
            "rms_norm_eps": self.number("rms_norm_eps"),
            "tie_embeddings": self.boolean("tie_word_embeddings", False),
            "rope_full_precision": False,
            "mask_token_id": self.token_id("mask_token_id"),
            "stop_token_ids": stops,
            "pad_token_id": self.pad_token_id(stops),
            **own,
        }
        self._inside(values)
        if "intermediate_size" not in values:
            values["intermediate_size"] = self.integer("intermediate_size")
        return ModelConfig(family=family, **values)

    def _inside(self, values: Mapping[str, Any]) -> None:
        """Refuse more dense layers than there are layers, and a block that is longer than any text."""
        moe, block = values.get("moe"), values.get("causal_block")
        if moe is not None and moe.dense_layers > values["num_layers"]:
            allowed = f"at most {values['num_layers']}, the layers"
            raise self._senseless("first_k_dense_replace", moe.dense_layers, allowed)
        if block is not None and block > values["max_length"]:
            raise self._senseless(
                "the block length", block, f"at most {values['max_length']}, the positions"
            )

    def _windowless(self) -> None:
        """Refuse a sliding window: layers that have one, or a width where nothing says that it is
        not used.
        """
        if (
            self.config.get("sliding_window") is not None
            and self.config.get("use_sliding_window") is None
        ):
            raise self.not_implemented(
                "sliding_window", self.config["sliding_window"], "null, or use_sliding_window false"
            )
        kinds = self.config.get("layer_types")
        if kinds is not None and (
            not isinstance(kinds, list) or any(kind != "full_attention" for kind in kinds)
        ):
            raise self.not_implemented("layer_types", kinds, "full_attention")

    def _value(self, name: str, default: Any) -> Any:
        if self.config.get(name) is not None:
            return self.config[name]
        if default is None:
            self.require(name)
        return default

    def _senseless(
        self, name: str, given: Any, allowed: str, file: str = "config.json"
    ) -> CheckpointError:
        return CheckpointError(
            f"{file}: {name} makes no sense",
            given=_short(given),
            allowed=allowed,
            hint=self.hint,
        )


def _short(value: Any) -> Any:
    """A value of a config as an error shows it."""
    text = repr(value)
    return value if len(text) <= SHOWN else f"{text[:SHOWN]}..."
