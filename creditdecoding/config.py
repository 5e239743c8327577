"""The places where an option can be declared: the architecture, the process, the request, a training run.

Every option is one dataclass field. Its help text and its bounds are the field's metadata, from which validation, command
line flags, `--help` and documentation are derived. Leaves to others: reading checkpoints (models/), decoder hyper-parameters
(each decoder file declares its own with the same `option`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from creditdecoding.errors import OptionError, unknown_name

C = TypeVar("C")
LARGEST = 2**63  # of any number: what a tensor can hold


def option(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A dataclass field with its help text and bounds (`ge` <= value, `gt` < value, value <= `le`, or one of `choices`)."""
    metadata = {"help": help, "ge": ge, "gt": gt, "le": le, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def kinds(field: dataclasses.Field[Any]) -> list[str]:
    """The names of the types a field declares, whether its module postpones annotations or not: `int | None` -> [int, None]."""
    given = field.type.__name__ if isinstance(field.type, type) and not hasattr(field.type, "__args__") else str(field.type)
    return given.replace("typing.", "").replace(" ", "").split("|")


def allowed_text(field: dataclasses.Field[Any]) -> str:
    """The bounds of an option in words, empty where it has none."""
    meta = field.metadata
    if meta.get("choices"):
        return " | ".join(meta["choices"])
    low = f"{meta['ge']} <= " if meta.get("ge") is not None else f"{meta['gt']} < " if meta.get("gt") is not None else ""
    high = f" <= {meta['le']}" if meta.get("le") is not None else ""
    return f"{low}{field.name}{high}" if low or high else ""


def check_fields(config: Any) -> None:
    """Hold every field of the dataclass `config` to its declared type and bounds. Raises `OptionError`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None and "None" in kinds(field):
            continue
        _check_type(field, value)
        meta = field.metadata
        bad = (
            (meta.get("choices") and value not in meta["choices"])
            or (meta.get("ge") is not None and not value >= meta["ge"])
            or (meta.get("gt") is not None and not value > meta["gt"])
            or (meta.get("le") is not None and not value <= meta["le"])
        )
        if bad:
            raise OptionError(f"{field.name} is out of range", given=value, allowed=allowed_text(field), hint="Change the value and try again.")


def _check_type(field: dataclasses.Field[Any], value: Any) -> None:
    names = kinds(field)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and abs(value) >= LARGEST:
        raise OptionError(f"{field.name} is out of range", given=str(value)[:40], allowed="what 64 bits hold", hint="Change the value and try again.")
    fine = (
        "Any" in names
        or ("bool" in names and isinstance(value, bool))
        or ("int" in names and is_number and isinstance(value, int))
        or ("float" in names and is_number and math.isfinite(value))
        or ("str" in names and isinstance(value, str))
        or (any(name.startswith("tuple") for name in names) and isinstance(value, tuple))
    )
    if not fine:
        raise OptionError(f"{field.name} has the wrong type", given=value, allowed=" | ".join(names), hint="Change the value and try again.")


def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:
    """Build the dataclass `cls` from `values`; a name it does not declare raises `OptionError` with the nearest one."""
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise unknown_name(f"option of {cls.__name__}", name, known)
    return cls(**values)


def split_spec(text: str, noun: str) -> tuple[str, dict[str, str]]:
    """`name:knob=value,knob=value` as the name and the texts of its knobs. Raises `OptionError`; `noun` says what is named."""
    name, _, tail = text.partition(":")
    knobs: dict[str, str] = {}
    for part in filter(None, tail.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise OptionError(f"a {noun} option without a value", given=part, allowed="knob=value", hint=f"Write it as {name}:{key}=VALUE.")
        knobs[key.strip()] = value.strip()
    return name, knobs


def typed(cls: type[Any], knobs: Mapping[str, str]) -> dict[str, Any]:
    """The texts of `knobs` as the types that the fields of `cls` declare; unknown names pass through to be refused by name."""
    declared = {field.name: kinds(field) for field in dataclasses.fields(cls)}
    return {key: _convert(key, value, declared.get(key, ["str"])) for key, value in knobs.items()}


def _convert(key: str, value: str, declared: list[str]) -> Any:
    if "None" in declared and value.lower() in ("none", "null"):
        return None
    if "bool" in declared and value.lower() in ("true", "false"):
        return value.lower() == "true"
    for name, convert in (("int", int), ("float", float)):
        if name in declared:
            try:
                return convert(value)
            except ValueError as error:
                raise OptionError(
                    f"{key} is not a number", given=value, allowed=" | ".join(declared), hint="Change the value and try again."
                ) from error
    return value


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """Mixture of experts in a layer's place of a feed-forward: how tokens are routed and how wide the experts are.

    `score` turns router logits into scores; with `groups` > 1 only experts of the best `top_groups` groups may be chosen.
    `dense_layers` counts the first layers that have a plain feed-forward; `shared_size` is the width of the expert that
    every token passes through, 0 for none. `bias`: a correction is added to the scores for the choice, not for the weight.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    shared_size: int = 0
    dense_layers: int = 0
    score: str = "softmax"
    renormalize: bool = False
    scaling: float = 1.0
    groups: int = 1
    top_groups: int = 1
    bias: bool = False
    router_float32: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a checkpoint, filled by a family reader from its config.json; never written by hand.

    `rotary_dim` is how many of a head's dimensions are rotated (the first ones); `logit_shift`: the logits of position i
    are read at position i-1 (row 0 serves position 0 too); `causal_block`: attention is two-way inside blocks of this many
    positions, counted from 0, and causal between them, `None` for full attention.
    """

    family: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    embedding_rows: int
    max_length: int
    rope_theta: float
    rms_norm_eps: float
    tie_embeddings: bool
    rope_full_precision: bool
    mask_token_id: int | None
    stop_token_ids: tuple[int, ...]
    pad_token_id: int
    rotary_dim: int | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    logit_shift: bool = False
    causal_block: int | None = None
    moe: MoEConfig | None = None

    def parameters(self) -> int:
        """Number of parameters, from the shapes alone."""
        kv, q = self.num_kv_heads * self.head_dim, self.num_heads * self.head_dim
        attention = self.hidden_size * (2 * q + 2 * kv) + (q + 2 * kv) * self.qkv_bias + 2 * self.head_dim * self.qk_norm
        dense = 3 * self.hidden_size * self.intermediate_size
        routed, sparse = 0, 0
        if self.moe is not None:
            sparse = self.num_layers - self.moe.dense_layers
            width = self.moe.num_experts * self.moe.intermediate_size + self.moe.shared_size
            routed = 3 * self.hidden_size * width + self.moe.num_experts * (self.hidden_size + self.moe.bias)
        layers = self.num_layers * (attention + 2 * self.hidden_size) + (self.num_layers - sparse) * dense + sparse * routed
        tables = 1 if self.tie_embeddings else 2
        return layers + self.hidden_size * (1 + tables * self.embedding_rows)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Options of the process: where the model runs and how many rows share a forward pass."""

    device: str = option("auto", "Where to run: auto, cpu, cuda, cuda:1, mps.")
    dtype: str = option("auto", "Weights and activations.", choices=("auto", "float32", "bfloat16", "float16"))
    quantize: str = option("none", "Smaller weights, made while loading; int8 needs the extra quant.", choices=("none", "int8"))
    threads: int | None = option(None, "CPU threads; by default torch decides.", ge=1)
    compile: bool = option(False, "torch.compile the layers: slow first passes, faster later ones.")
    revision: str | None = option(None, "Branch, tag or commit of a hub id.")
    offline: bool = option(False, "Take a hub id from what is downloaded already.")
    cache_dir: str | None = option(None, "Where downloads of hub ids lie; by default the hub's own cache.")
    batch_size: int = option(16, "Rows that share a forward pass.", ge=1)
    parse_special: bool = option(False, "Names of special tokens in prompts and messages are such tokens; by default they are plain text.")
    causal_block: int | None = option(None, "Block length of a block-causal checkpoint whose files do not say it (SDAR -b8, -b16, ...).", ge=1)
    ignore_config_keys: tuple[str, ...] = option((), "Key of config.json to read the checkpoint without, since it changes no logit; may be repeated.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Options of a process that takes requests while others run."""

    max_waiting: int = option(64, "Requests that may wait: a server turns more away (status 429), a batch reads no further.", ge=0)
    memory: float | None = option(
        None, "GiB for the rows under way: cached keys and values, logits, state, activations; by default 80% of what is free.", gt=0.0
    )
    overtakes: int = option(8, "How often a request that does not fit into memory yet may be passed by others that do.", ge=0)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """Options of a file of requests."""

    name: str | None = option(None, "The model's name in lines and answers; by default what --model says.")
    max_line: int = option(2**20, "Bytes of a line at most; a longer one is answered with an error.", ge=1)
    ray: int = option(0, "Workers on a Ray cluster, each with a model of its own, on a GPU each where there are any; 0: this process alone.", ge=0)
    address: str | None = option(None, "Ray cluster to use; by default the one this machine belongs to, else one is started here.")

    def __post_init__(self) -> None:
        check_fields(self)
        if self.address is not None and not self.ray:
            raise OptionError("address is of a Ray cluster", given=self.address, hint="Say with --ray how many workers it should run.")


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Options of one request."""

    decoder: Any = option("credit", "Decoding rule, as NAME, NAME:knob=value,... or a file (see `credit decoders`, `credit export`).")
    gen_length: int = option(128, "Masked positions appended to the prompt; the answer is at most this long.", ge=1, le=1_048_576)
    block_length: int | None = option(
        None, "Positions decoded together, left to right; by default the checkpoint's own, else 32. Need not divide gen_length.", ge=1, le=1_048_576
    )
    cache: str = option("auto", "Keys and values kept between passes: auto, none, prefix, dual, every:n=4, vicinity:w=16 or block (docs/caches.md).")
    temperature: float = option(0.0, "0 is greedy; above 0, tokens are drawn by seeded Gumbel noise.", ge=0.0)
    top_k: int | None = option(None, "Draw only among the k likeliest tokens.", ge=1, le=2**31)
    top_p: float | None = option(None, "Draw only among the likeliest tokens that together hold this probability.", gt=0.0, le=1.0)
    cfg_scale: float = option(
        0.0,
        "Classifier-free guidance away from what the model says without seeing the prompt; above 0 a pass runs every row twice.",
        ge=0.0,
        le=1000.0,
    )
    seed: int = option(0, "Seed of the noise; with it a row's answer does not depend on its neighbours.", ge=0, le=2**62)
    early_stop: bool = option(True, "Finish a row as soon as its end token and all before it are committed.")
    logits_eos_inf: bool = option(False, "Never write a stop token (LLaDA's option of this name bans the end of text alone).")
    confidence_eos_eot_inf: bool = option(False, "Give end tokens confidence 0, so that they are written last.")
    stop: tuple[str, ...] = option((), "Cut the answer before the first of these strings and finish the row.")

    def __post_init__(self) -> None:
        check_fields(self)
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise OptionError("a stop string must not be empty", given=text, hint="Leave it out or give some text.")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """Options of a verifier's training."""

    epochs: int = option(3, "Times that each answer is seen.", ge=1)
    fit_batch: int = option(16, "Answers an optimiser step, each with all its labelled prefixes.", ge=1)
    parts: int = option(2, "Parts a step is split into, by length.", ge=1)
    lr: float = option(1e-3, "Peak learning rate; warm-up over the first 5% of the steps, then cosine to 2%.", gt=0.0)
    weight_decay: float = option(0.01, "Weight decay of AdamW.", ge=0.0)
    masks: int = option(0, "Masks behind an unfinished answer; its value is read at the first, or at its last token.", ge=0, le=1024)
    outcome: bool = option(False, "Learn from complete answers alone: the outcome verifier that a process verifier is compared with.")
    held_out: float = option(0.2, "Share of the problems held out to measure on.", gt=0.0, le=0.9)
    calibration: float = option(0.1, "Share of the problems kept for the last two numbers; 0: leave them out.", ge=0.0, le=0.5)
    seed: int = option(0, "Seed of the division of problems and of the order of states.", ge=0, le=2**62)
    compile_fit: bool = option(False, "torch.compile the network while it learns.")
    save_every: int = option(50, "Steps between saved states.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class CollectConfig:
    """Options of collecting labels for a verifier."""

    n_cov: int = option(4, "Answers of a problem whose prefixes are labelled: drawn from the prompt, or wrong ones with --strategy first_pit.", ge=1)
    n_mc: int = option(8, "Completions drawn from every prefix; its label is the share of them that is right.", ge=1)
    strategy: str = option(
        "random",
        "random labels all prefixes of answers drawn from the prompt; first_pit those of wrong answers to promising prefixes, up to the "
        "first without a right completion.",
        choices=("random", "first_pit"),
    )
    promising: float = option(0.0, "first_pit: a prefix is promising if more than this share of its completions is right.", ge=0.0, le=1.0)
    limit: int = option(200, "Problems a family; 0 for all of a benchmark or a file.", ge=0)
    split: str = option("train", "Split of the embedded families.", choices=("train", "dev", "test"))
    item_seed: int = option(0, "Seed of the draw of problems.", ge=0)
    delimiter: str | None = option(None, "What ends a step, in place of the task's own: a text, \\n for a line's end, or a size such as '8 tokens'.")
    raw: bool = option(False, "Ask without the chat template.")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Options of a training run."""

    steps: int = option(6000, "Optimiser steps.", ge=1)
    batch_size: int = option(64, "Rows a step and process.", ge=2)
    parts: int = option(2, "Parts a step is split into, by row length.", ge=1)
    hidden_size: int = option(192, "Width.", ge=32)
    num_layers: int = option(4, "Layers.", ge=1)
    num_heads: int = option(6, "Attention heads.", ge=1)
    intermediate_size: int = option(512, "Width of the feed-forward layer.", ge=32)
    vocabulary: int = option(1152, "Ids of the tokenizer at most.", ge=300)
    lr: float = option(5e-3, "Peak learning rate; cosine to 2% of it.", gt=0.0)
    induction: bool = option(True, "Begin with look-up circuits in the first two layers (see docs/log.md).")
    drill_steps: int = option(300, "Steps at the beginning that drill look-up on random tokens.", ge=0)
    next_token_until: float = option(0.15, "Fraction of the run that trains next tokens through mask tokens.", ge=0.0, le=1.0)
    blocks_until: float = option(0.32, "Fraction of the run until which half of it is block diffusion's two-stream pass.", ge=0.0, le=1.0)
    seed: int = option(0, "Seed of weights, items and masks.", ge=0)
    device: str = option("cpu", "cpu, cuda or mps.")
    threads: int = option(1, "CPU threads a process.", ge=1)
    processes: int = option(1, "Processes that share each step; on a CPU one a core.", ge=1)
    compile: bool = option(True, "torch.compile the network (about twice as fast after some minutes of warm-up).")
    save_every: int = option(100, "Steps between checkpoints.", ge=1)
    eval_every: int = option(2000, "Steps between evaluations.", ge=1)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise OptionError("num_heads must divide hidden_size into an even head size", given=self.num_heads, hint="Change one of the two.")
