"""The places where an option can be declared: the architecture, the process, the request, a
training run.

Every option is one dataclass field. Its help text and its bounds are the field's metadata, from
which validation, command
line flags, `--help` and documentation are derived.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """Mixture of experts in a layer's place of a feed-forward: how tokens are routed and how wide
    the experts are.

    `score` turns router logits into scores; with `groups` > 1 only experts of the best `top_groups`
    groups may be chosen.
    `dense_layers` counts the first layers that have a plain feed-forward; `shared_size` is the
    width of the expert that
    every token passes through, 0 for none. `bias`: a correction is added to the scores for the
    choice, not for the weight.
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
    """Architecture of a checkpoint, filled by a family reader from its config.json; never written
    by hand.

    `rotary_dim` is how many of a head's dimensions are rotated (the first ones); `logit_shift`: the
    logits of position i
    are read at position i-1 (row 0 serves position 0 too); `causal_block`: attention is two-way
    inside blocks of this many
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

    def num_parameters(self) -> int:
        """Number of parameters, from the shapes alone."""
        kv, q = self.num_kv_heads * self.head_dim, self.num_heads * self.head_dim
        attention = (
            self.hidden_size * (2 * q + 2 * kv)
            + (q + 2 * kv) * self.qkv_bias
            + 2 * self.head_dim * self.qk_norm
        )
        dense = 3 * self.hidden_size * self.intermediate_size
        routed, sparse = 0, 0
        if self.moe is not None:
            sparse = self.num_layers - self.moe.dense_layers
            width = self.moe.num_experts * self.moe.intermediate_size + self.moe.shared_size
            routed = 3 * self.hidden_size * width + self.moe.num_experts * (
                self.hidden_size + self.moe.bias
            )
        layers = (
            self.num_layers * (attention + 2 * self.hidden_size)
            + (self.num_layers - sparse) * dense
            + sparse * routed
        )
        tables = 1 if self.tie_embeddings else 2
        return layers + self.hidden_size * (1 + tables * self.embedding_rows)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Options of the process: where the model runs and how many rows share a forward pass."""

    device: str = option("auto", "Where to run: auto, cpu, cuda, cuda:1, mps.")
    dtype: str = option(
        "auto", "Weights and activations.", choices=("auto", "float32", "bfloat16", "float16")
    )
    quantize: str = option(
        "none",
        "Smaller weights, made while loading; int8 needs the extra quant.",
        choices=("none", "int8"),
    )
    threads: int | None = option(None, "CPU threads; by default torch decides.", ge=1)
    compile: bool = option(False, "torch.compile the layers: slow first passes, faster later ones.")
    revision: str | None = option(None, "Branch, tag or commit of a hub id.")
    offline: bool = option(False, "Take a hub id from what is downloaded already.")
    cache_dir: str | None = option(
        None, "Where downloads of hub ids lie; by default the hub's own cache."
    )
    batch_size: int = option(16, "Rows that share a forward pass.", ge=1)
    parse_special: bool = option(
        False,
        "Names of special tokens in prompts and messages are such tokens; by default they are plain text.",
    )
    causal_block: int | None = option(
        None,
        "Block length of a block-causal checkpoint whose files do not say it (SDAR -b8, -b16, ...).",
        ge=1,
    )
    ignore_config_keys: tuple[str, ...] = option(
        (),
        "Key of config.json to read the checkpoint without, since it changes no logit; may be repeated.",
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Options of a process that takes requests while others run."""

    max_waiting: int = option(
        64,
        "Requests that may wait: a server turns more away (status 429), a batch reads no further.",
        ge=0,
    )
    memory: float | None = option(
        None,
        "GiB for the rows under way: cached keys and values, logits, state, activations; by default 80% of what is free.",
        gt=0.0,
    )
    max_bypass: int = option(
        8,
        "How often a request that does not fit into memory yet may be passed by others that do.",
        ge=0,
        short="--overtakes",  # its earlier name
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Options of one request."""

    decoder: Any = option(
        "credit",
        "Decoding rule, as NAME, NAME:knob=value,... or a file (see `credit decoders`, `credit export`).",
        short="-d",
        knobs=("threshold",),
    )
    gen_length: int = option(
        128,
        "Masked positions appended to the prompt; the answer is at most this long.",
        ge=1,
        le=1_048_576,
    )
    block_length: int | None = option(
        None,
        "Positions decoded together, left to right; by default the checkpoint's own, else 32. Need not divide gen_length.",
        ge=1,
        le=1_048_576,
    )
    cache: str = option(
        "auto",
        "Keys and values kept between passes: auto, none, prefix, dual, every:n=4, vicinity:w=16 or block (docs/caches.md).",
    )
    temperature: float = option(
        0.0, "0 is greedy; above 0, tokens are drawn by seeded Gumbel noise.", ge=0.0
    )
    top_k: int | None = option(None, "Draw only among the k likeliest tokens.", ge=1, le=2**31)
    top_p: float | None = option(
        None,
        "Draw only among the likeliest tokens that together hold this probability.",
        gt=0.0,
        le=1.0,
    )
    cfg_scale: float = option(
        0.0,
        "Classifier-free guidance away from what the model says without seeing the prompt; above 0 a pass runs every row twice.",
        ge=0.0,
        le=1000.0,
    )
    seed: int = option(
        0,
        "Seed of the noise; with it a row's answer does not depend on its neighbours.",
        ge=0,
        le=2**62,
    )
    early_stop: bool = option(
        True, "Finish a row as soon as its end token and all before it are committed."
    )
    logits_eos_inf: bool = option(
        False, "Never write a stop token (LLaDA's option of this name bans the end of text alone)."
    )
    confidence_eos_eot_inf: bool = option(
        False, "Give end tokens confidence 0, so that they are written last."
    )
    stop: tuple[str, ...] = option(
        (), "Cut the answer before the first of these strings and finish the row."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise OptionError(
                    "a stop string must not be empty",
                    given=text,
                    hint="Leave it out or give some text.",
                )
