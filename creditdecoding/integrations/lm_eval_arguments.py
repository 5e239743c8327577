"""The arguments of lm-eval's model class `creditdecoding`, as `--model_args` gives them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, from_mapping, option, parse_values

DEFAULT_LENGTH = 256
CACHE_NAMES = {"true": "prefix", "false": "none"}


@dataclass(frozen=True)
class ModelArguments:
    """The arguments that `--model_args` takes, besides their `ALIASES` in other evaluations of
    diffusion models.
    """

    pretrained: str = option("pocket", "A checkpoint folder, a hub id, or pocket; also model_path.")
    decoder: str = option(
        "credit",
        "Decoder, NAME or NAME:knob=value;knob=value, since commas separate the arguments.",
    )
    threshold: float | None = option(None, "The decoder's threshold.", gt=0.0, le=1.0)
    steps: int | None = option(
        None, "With decoder=fixed, passes in all: gen_length / steps tokens a pass.", ge=1
    )
    gen_length: int | None = option(
        None, "Masks appended; by default the task's max_gen_toks, else 256.", ge=1
    )
    block_length: int | None = option(None, "Positions decoded together.", ge=1)
    use_cache: str = option("auto", "true (prefix), false, or the name of a cache.")
    cfg: float = option(0.0, "Classifier-free guidance; also cfg_scale.", ge=0.0)
    mc_num: int = option(128, "Samples of a likelihood.", ge=1)
    is_greedy: bool = option(
        False,
        "Also test whether greedy decoding gives the continuation, a pass for each of its tokens.",
    )
    temperature: float | None = option(None, "In place of the task's.", ge=0.0)
    top_p: float | None = option(None, "In place of the task's.", gt=0.0, le=1.0)
    top_k: int | None = option(None, "In place of the task's.", ge=1)
    add_bos_token: bool = option(False, "Put the start token before every context.")
    escape_until: bool = option(False, "Do not cut answers at the task's until.")
    logits_eos_inf: bool = option(False, "Never write a stop token.")
    confidence_eos_eot_inf: bool = option(False, "Write end tokens last.")
    seed: int = option(0, "Seed of draws and masks.", ge=0)
    parse_special: bool = option(
        False, "Names of special tokens in documents are such tokens, not plain text."
    )
    batch_size: int = option(8, "Rows that share a forward pass.", ge=1)
    device: str = option("auto", "Where to run.")
    dtype: str = option("auto", "Weights and activations.")
    revision: str | None = option(None, "Branch, tag or commit of a hub id.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.steps is not None and self.decoder.partition(":")[0] != "fixed":
            raise OptionError(
                "steps is an option of the fixed decoder",
                given=self.decoder,
                hint="Add decoder=fixed, or leave steps out.",
            )

    def decoder_spec(self, length: int) -> str:
        """The decoder with its knobs, for answers of `length` tokens."""
        decoder = self.decoder.replace(";", ",")
        knobs = []
        if self.threshold is not None:
            knobs.append(f"threshold={self.threshold}")
        if self.steps is not None:
            knobs.append(f"k={max(1, math.ceil(length / self.steps))}")
        if not knobs:
            return decoder
        separator = "," if ":" in decoder else ":"
        return decoder + separator + ",".join(knobs)

    def generation_config(self, kwargs: Mapping[str, Any]) -> GenerationConfig:
        """A task's generation_kwargs, with these arguments in their place."""
        until = [] if self.escape_until else kwargs.get("until") or []
        stop = [until] if isinstance(until, str) else until
        if not isinstance(stop, Sequence):
            raise OptionError(
                "the task's until is neither a text nor a list of texts",
                given=until,
                hint="Correct generation_kwargs of the task, or pass escape_until=True.",
            )
        task_length = kwargs.get("max_gen_toks") or kwargs.get("max_new_tokens")
        length = self.gen_length or int(task_length or DEFAULT_LENGTH)
        return GenerationConfig(
            decoder=self.decoder_spec(length),
            gen_length=length,
            block_length=self.block_length,
            cache=CACHE_NAMES.get(self.use_cache.lower(), self.use_cache),
            cfg_scale=self.cfg,
            seed=self.seed,
            logits_eos_inf=self.logits_eos_inf,
            confidence_eos_eot_inf=self.confidence_eos_eot_inf,
            stop=tuple(text for text in stop if text),
            **self._sampling(kwargs),
        )

    def _sampling(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Temperature, top_p and top_k: these arguments, else the task's if it draws."""
        if not kwargs.get("do_sample", True):
            kwargs = {}
        sampling = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
        if self.temperature is None:
            sampling["temperature"] = float(kwargs.get("temperature") or 0.0)
        if self.top_p is None and kwargs.get("top_p"):
            sampling["top_p"] = float(kwargs["top_p"])
        if self.top_k is None and kwargs.get("top_k"):
            sampling["top_k"] = int(kwargs["top_k"])
        return sampling


ALIASES = {
    "model_path": "pretrained",
    "cfg_scale": "cfg",
    "cache": "use_cache",
    "greedy": "is_greedy",
}
_IGNORED = ("max_batch_size", "trust_remote_code", "show_speed", "is_check_greedy")


def parse_arguments(arguments: Mapping[str, Any]) -> ModelArguments:
    """The arguments from the numbers, booleans or texts that lm-eval passes."""
    values = {
        ALIASES.get(name, name): str(value)
        for name, value in arguments.items()
        if value is not None and name not in _IGNORED
    }
    if values.get("batch_size", "").startswith("auto"):  # lm-eval's value for "find out"
        del values["batch_size"]
    return from_mapping(ModelArguments, parse_values(ModelArguments, values))
