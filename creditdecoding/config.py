"""Options of a process and of a request, and the architecture of a checkpoint.

Options are dataclass fields declared once with help and bounds, from which validation,
command-line flags and documentation are made.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from creditdecoding.errors import OptionError
from creditdecoding.options import check_fields, option


@dataclasses.dataclass(frozen=True)
class MoEConfig:
    """Mixture of experts in place of a layer's feed-forward.

    `score` turns router logits into scores ("softmax" or "sigmoid"). With `groups` > 1 only experts
    of the best `top_groups` groups are chosen. The first `dense_layers` layers have a plain
    feed-forward. `shared_size` is the width of the expert that every token passes through, 0 for
    none. `bias` is added to the scores for the choice, not for the weights.
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

    def num_parameters(self, hidden_size: int) -> int:
        """Number of parameters of a layer's router and experts."""
        width = self.num_experts * self.intermediate_size + self.shared_size
        router = self.num_experts * (hidden_size + self.bias)
        return 3 * hidden_size * width + router


@dataclasses.dataclass(frozen=True)
class Llama3RopeScaling:
    """The rotary embedding of Llama 3.1 and later: slow planes turn `factor` times slower.

    A plane that turns fewer than `low_freq_factor` times in `original_length` positions is slowed,
    one that turns more than `high_freq_factor` times is not, and those between are blended.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture of a checkpoint, read from its config.json by its family.

    `rotary_dim` is the number of a head's first dimensions that are rotated, None for all. With
    `logit_shift` the logits of position i are read at position i-1 (at 0 for position 0).
    `causal_block`: attention is bidirectional within blocks of this many positions and causal
    between them; None for full attention.
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
    rope_scaling: Llama3RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm: bool = False
    logit_shift: bool = False
    causal_block: int | None = None
    moe: MoEConfig | None = None

    def num_parameters(self) -> int:
        """Number of parameters, from the shapes alone."""
        hidden = self.hidden_size
        q_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        per_layer = 2 * hidden + hidden * (2 * q_size + 2 * kv_size)
        if self.qkv_bias:
            per_layer += q_size + 2 * kv_size
        if self.qk_norm:
            per_layer += 2 * self.head_dim
        dense_layers = self.num_layers if self.moe is None else self.moe.dense_layers
        total = self.num_layers * per_layer + dense_layers * 3 * hidden * self.intermediate_size
        if self.moe is not None:
            total += (self.num_layers - dense_layers) * self.moe.num_parameters(hidden)
        tables = 1 if self.tie_embeddings else 2
        return total + hidden * (1 + tables * self.embedding_rows)


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Options of a process: where the model runs and how many requests share a forward pass."""

    device: str = option("auto", "Where to run: auto, cpu, cuda, cuda:1, mps.")
    dtype: str = option(
        "auto",
        "Weights and activations; auto is bfloat16 on GPUs, and for large models on CPUs that are "
        "faster in it, else float32.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantize: str = option(
        "none",
        "Convert weights while loading; int8 needs the extra quant.",
        choices=("none", "int8"),
    )
    threads: int | None = option(None, "CPU threads; by default torch decides.", ge=1, rare=True)
    compile: bool = option(
        False, "torch.compile the layers: slow first passes, faster later ones.", rare=True
    )
    cuda_graphs: bool = option(
        False,
        "Pad passes to few sizes, and record the compiled layers as CUDA graphs; on a CPU they are "
        "only padded and compiled.",
        rare=True,
    )
    fused_head: str = option(
        "auto",
        "Read statistics from the head tile by tile and never write the logits: auto (where those "
        "of a pass take more than 128 MiB), on, off.",
        choices=("auto", "on", "off"),
        rare=True,
    )
    revision: str | None = option(None, "Branch, tag or commit of a hub id.", rare=True)
    offline: bool = option(False, "Use only what is already downloaded of a hub id.", rare=True)
    cache_dir: str | None = option(
        None, "Folder for downloads of hub ids; by default the hub's own cache.", rare=True
    )
    batch_size: int = option(16, "Requests that share a forward pass.", ge=1)
    max_num_batched_tokens: int | None = option(
        None,
        "Positions of a forward pass at most. By default 2,048, with 512 of a long prompt beside "
        "running requests; a prompt alone takes as few passes as memory allows.",
        ge=1,
    )
    prefix_cache: float | None = option(
        None,
        "GiB of keys and values kept for prompts that begin alike (server, batch and chat; "
        "block-causal models); 0 keeps none; by default a tenth of the free memory.",
        ge=0.0,
        rare=True,
    )
    parse_special: bool = option(
        False,
        "Read names of special tokens in prompts and messages as tokens; by default they are text.",
        rare=True,
    )
    causal_block: int | None = option(
        None,
        "Block length of a block-causal checkpoint whose files lack it (SDAR -b8, -b16, ...).",
        ge=1,
        rare=True,
    )
    ignore_config_keys: tuple[str, ...] = option(
        (), "Key of config.json to ignore because it changes no logit; may be repeated.", rare=True
    )

    def __post_init__(self) -> None:
        if isinstance(self.cache_dir, os.PathLike):
            object.__setattr__(self, "cache_dir", os.fspath(self.cache_dir))
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Options of a process that accepts requests while others run."""

    max_waiting: int = option(
        64,
        "Requests that may wait: a server rejects more (status 429), a batch reads no further.",
        ge=0,
    )
    memory: float | None = option(
        None,
        "GiB for running requests: KV cache, logits, state and activations; "
        "by default 80% of free memory.",
        gt=0.0,
    )
    max_bypass: int = option(
        8,
        "How often a request that does not fit into memory may be bypassed by others that do.",
        ge=0,
        short="--overtakes",  # its earlier name
        rare=True,
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """Options of one request."""

    decoder: Any = option(
        "credit",
        "Decoding rule: NAME, NAME:knob=value,..., your own mine.py, or settings.yaml "
        "(see `credit decoders`).",
        default_help="credit; in generate, chat, trace and serve first the checkpoint's own",
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
        "Positions decoded together, block by block from the left; by default the checkpoint's "
        "own, else 32. Need not divide gen_length.",
        ge=1,
        le=1_048_576,
    )
    cache: str = option(
        "auto",
        "Keys and values kept between passes: auto, none, prefix, dual, every:n=4, vicinity:w=16 "
        "or block (docs/guide/caches.md).",
    )
    temperature: float = option(
        0.0, "0 is greedy; above 0, tokens are sampled with seeded Gumbel noise.", ge=0.0
    )
    top_k: int | None = option(
        None, "Sample only from the k most probable tokens.", ge=1, le=2**31, rare=True
    )
    top_p: float | None = option(
        None,
        "Sample only from the most probable tokens that together reach this probability.",
        gt=0.0,
        le=1.0,
        rare=True,
    )
    cfg_scale: float = option(
        0.0,
        "Classifier-free guidance away from the logits without the prompt; "
        "above 0 every pass runs each request twice.",
        ge=0.0,
        le=1000.0,
        rare=True,
    )
    seed: int = option(
        0,
        "Seed of the noise; an answer does not depend on the other requests in its batch.",
        ge=0,
        le=2**62,
    )
    early_stop: bool = option(
        True, "Finish as soon as an end token and everything before it are committed.", rare=True
    )
    logits_eos_inf: bool = option(
        False,
        "Never write a stop token (LLaDA's option of this name bans only the end of text).",
        rare=True,
    )
    confidence_eos_eot_inf: bool = option(
        False, "Give end tokens confidence 0, so that they are written last.", rare=True
    )
    stop: tuple[str, ...] = option(
        (), "Finish at the first of these strings and cut the answer before it."
    )

    def __post_init__(self) -> None:
        if isinstance(self.stop, str | list):
            stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
            object.__setattr__(self, "stop", stops)
        check_fields(self)
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise OptionError(
                    "a stop string must not be empty",
                    given=text,
                    hint="Leave it out or give some text.",
                )
