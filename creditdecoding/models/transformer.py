"""The transformer: one network for every family, configured by `ModelConfig`.

Pre-norm with RMSNorm; SwiGLU or mixture of experts; rotary embedding of a head or its first
dimensions; grouped-query attention with or without biases and per-head norms, full or block-causal;
tied or untied head; logits shifted by one or not. There is no timestep input.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from creditdecoding.config import Llama3RopeScaling, ModelConfig
from creditdecoding.models.attention import attention, block_causal_mask
from creditdecoding.models.buckets import bucket, in_buckets
from creditdecoding.models.kv_cache import KVCache, LayerCache, ModelGeometry, PackedLayerCache
from creditdecoding.models.moe import MoE, SwiGLU, stable_rows
from creditdecoding.models.packed_rows import PackedRows
from creditdecoding.ops.head_logits import HeadLogits, ModelLogits

RECOMPILE_LIMIT = 256
"""Graphs of a layer. Learner, sampler and verifier share one compiled function."""

Mask = Tensor | PackedRows | None
Caches = list[LayerCache] | list[PackedLayerCache] | None


class RMSNorm(nn.Module):
    """Root-mean-square norm in float32, cast back before it is multiplied by the weight.

    Released weights expect this order.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*any size"]) -> Float[Tensor, "*any size"]:
        exact = x.float()
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * (exact * scale).to(x.dtype)


def rope_table(
    positions: Int[Tensor, "*rows length"],
    dim: int,
    theta: float,
    scaling: Llama3RopeScaling | None = None,
) -> tuple[Float[Tensor, "*rows length dim"], Float[Tensor, "*rows length dim"]]:
    """Cosine and sine of the rotary embedding in float32, rotate-half layout."""
    exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
    frequencies = theta**-exponents
    if scaling is not None:
        frequencies = _scaled(frequencies, scaling)
    angles = positions[..., None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def _scaled(frequencies: Tensor, scaling: Llama3RopeScaling) -> Tensor:
    """Radians a position of each plane, as Llama 3.1 changes them."""
    turns = scaling.original_length * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(
    x: Float[Tensor, "rows heads length dim"], cos: Tensor, sin: Tensor
) -> Float[Tensor, "rows heads length dim"]:
    """Apply the rotary embedding to the first dimensions of each head.

    `cos` and `sin` are [length, rotated] or [rows, 1, length, rotated].
    """
    rotated, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = rotated.chunk(2, dim=-1)
    rotated = rotated * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((rotated, rest), dim=-1) if rest.shape[-1] else rotated


class Layer(nn.Module):
    """Attention and feed-forward (or experts), each with a norm before and a residual around it."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        size, head_dim = config.hidden_size, config.head_dim
        q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
        self.config = config
        self.attn_norm = RMSNorm(size, config.rms_norm_eps)
        self.q = nn.Linear(size, q_size, bias=config.qkv_bias)
        self.k = nn.Linear(size, kv_size, bias=config.qkv_bias)
        self.v = nn.Linear(size, kv_size, bias=config.qkv_bias)
        self.q_norm = RMSNorm(head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(head_dim, config.rms_norm_eps) if config.qk_norm else None
        self.o = nn.Linear(q_size, size, bias=False)
        self.ff_norm = RMSNorm(size, config.rms_norm_eps)
        self.mlp: nn.Module
        if config.moe is None or index < config.moe.dense_layers:
            self.mlp = SwiGLU(size, config.intermediate_size)
        else:
            self.mlp = MoE(size, config.moe)

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Mask,
        backend: str,
        cache: LayerCache | PackedLayerCache | None = None,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [rows, length, hidden]; with `queries` [rows, most], those columns alone.

        Keys and values are computed and stored at every column in any case.
        """
        h = self.attn_norm(x)
        k, v = self.keys_and_values(h, cos, sin)
        if cache is not None:
            k, v = cache.update(k, v)
        if queries is not None:
            x, h = columns_of(x, queries), columns_of(h, queries)
            cos, sin = rotation_of(cos, queries), rotation_of(sin, queries)
            attention_mask = mask_of(attention_mask, queries)
        q = self.queries_of(h, cos, sin)
        return self.output(x, attend(q, k, v, attention_mask, backend))

    def keys_and_values(self, h: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [rows, kv_heads, length, head_dim] of normalised states `h`."""
        k = self._rotated(self._heads(self.k(h)), self.k_norm, cos, sin)
        return k, self._heads(self.v(h))

    def queries_of(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries [rows, heads, length, head_dim] of normalised states `h`."""
        return self._rotated(self._heads(self.q(h)), self.q_norm, cos, sin)

    def output(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What the layer makes of `x` [rows, length, hidden] and its attention, `mixed`."""
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        return torch.add(x, self.mlp(self.ff_norm(x)))

    def _heads(self, projected: Tensor) -> Tensor:
        """[rows, length, heads * head_dim] as [rows, heads, length, head_dim]."""
        heads_last = (*projected.shape[:2], -1, self.config.head_dim)
        return projected.view(heads_last).transpose(1, 2)

    def _rotated(self, x: Tensor, norm: RMSNorm | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys, normalised if the family does so, with the rotary embedding."""
        if norm is not None:
            x = norm(x)
        if self.config.rope_full_precision:
            return rotate(x.float(), cos, sin).to(x.dtype)
        return rotate(x, cos.to(x.dtype), sin.to(x.dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, backend: str) -> Tensor:
    """Attention of padded rows, or of packed ones.

    Padded: q [rows, heads, length, dim], k and v likewise, as in `attention`. Packed: as in
    `PackedRows.attend`, a line and the keys of the line or the buffers of the caches.
    """
    if isinstance(mask, PackedRows):
        return mask.attend(q, k, v, backend)
    return attention(q, k, v, mask, backend)


def columns_of(x: Tensor, queries: Int[Tensor, "rows most"]) -> Tensor:
    """The columns `queries` of x [rows, length, size], [rows, most, size]."""
    if len(queries) == 1:
        return x[:, queries[0]]
    return x.gather(1, queries[..., None].expand(-1, -1, x.shape[-1]))


def rotation_of(table: Tensor, queries: Int[Tensor, "rows most"]) -> Tensor:
    """The part of a rotary table, [length, dim] or [rows, 1, length, dim], for the `queries`."""
    if table.dim() == 2:
        return table[queries[0]] if len(queries) == 1 else table[queries][:, None]
    return columns_of(table[:, 0], queries)[:, None]


def mask_of(mask: Mask, queries: Int[Tensor, "rows most"]) -> Mask:
    """The rows of an attention mask [rows_or_1, queries_or_1, keys] for the `queries`."""
    if isinstance(mask, PackedRows):
        return mask.reads
    if mask is None or mask.shape[1] == 1:
        return mask
    return columns_of(mask.expand(len(queries), -1, -1), queries)


class Transformer(nn.Module):
    """Maps token ids to logits at chosen positions. `fused_head` is as in `EngineConfig`."""

    def __init__(self, config: ModelConfig, attention_backend: str = "sdpa") -> None:
        super().__init__()
        self.config = config
        self.attention_backend = attention_backend
        self.is_compiled = False
        self.pads_passes = False
        self.fused_head = "auto"
        self.embed = _embedding(config.embedding_rows, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = None
        if not config.tie_embeddings:
            self.head = nn.Linear(config.hidden_size, config.embedding_rows, bias=False)

    @property
    def geometry(self) -> ModelGeometry:
        """What a decoding loop must know of this network."""
        return ModelGeometry(
            causal_block=self.config.causal_block,
            logit_shift=self.config.logit_shift,
            supports_kv_cache=True,
            fused_head=self.fused_head,
            line_bytes=self.config.embedding_rows * self.norm.weight.element_size(),
        )

    @property
    def packs_rows(self) -> bool:
        """Whether unlike rows of a pass are better packed than padded: on a CPU, where a call for
        each row costs little, and not with compiled layers, which would be compiled again.
        """
        return self.norm.weight.device.type == "cpu" and not self.is_compiled

    def compile_layers(
        self, dynamic: bool, pads_passes: bool = False, backend: str = "inductor"
    ) -> None:
        """torch.compile each layer: all share one graph, or one per shape unless `dynamic`.

        With `pads_passes` there are few sizes (`creditdecoding.models.buckets`), so that the graphs
        can be recorded as CUDA graphs. torch counts the graphs of all networks of a process
        together, and computes without graphs when there are more than `RECOMPILE_LIMIT`.
        """
        self.is_compiled = True
        self.pads_passes = pads_passes
        limit = max(RECOMPILE_LIMIT, torch._dynamo.config.recompile_limit)
        torch._dynamo.config.recompile_limit = limit
        records = pads_passes and backend == "inductor"
        mode = {"mode": "reduce-overhead"} if records else {}
        for layer in self.layers:
            layer.compile(dynamic=dynamic, backend=backend, **mode)

    def new_cache(self) -> KVCache:
        """An empty cache with the device and dtype of the weights."""
        config, weight = self.config, self.norm.weight
        return KVCache(
            config.num_layers,
            config.num_kv_heads,
            config.head_dim,
            weight.device,
            weight.dtype,
            static=self.pads_passes,
        )

    def forward(
        self,
        tokens: Int[Tensor, "rows length"],
        logit_positions: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
        attention_mask: Bool[Tensor, "rows queries keys"] | PackedRows | None = None,
        positions: Int[Tensor, "rows length"] | None = None,
        caches: Caches = None,
        most_reads: int | None = None,
        write_logits: bool = True,
    ) -> ModelLogits:
        """Logits at `logit_positions` = (row indices, column indices); the head and what the last
        layer does after its keys and values run on these only.

        `attention_mask` is True where a query sees a key; size 1 in place of `queries` serves all,
        None lets every query see every key. Block-causal models apply their pattern in addition.
        `positions` are the rotary positions, by default 0, 1, 2, ...

        With `caches` (see `KVCache.layer_caches`) only `tokens` are computed and the keys are all
        visible positions 0, 1, 2, ...; tokens beyond the caches' columns are not stored and their
        keys come last.

        `most_reads` is the largest number of `logit_positions` in a row. Without it the host counts
        them, and on a device, where that would be a wait, the last layer runs everywhere.

        With `PackedRows` in place of a mask `tokens` is a line [1, positions] of several rows, the
        columns to read are final (not shifted), in the order of the rows, and `positions` are
        needed.

        Returns [n, vocab], a tensor, or `HeadLogits` unless `write_logits`.
        """
        hidden = self._read_states(
            tokens,
            logit_positions,
            attention_mask,
            positions,
            caches,
            most_reads,
        )
        return self.read(hidden, write_logits)

    def read(self, hidden: Float[Tensor, "n hidden"], write_logits: bool = True) -> ModelLogits:
        """The logits of hidden states, a tensor, or `HeadLogits` unless `write_logits`."""
        if write_logits:
            return self.logits(hidden)
        return HeadLogits(self.norm(hidden), self._head_weight)

    def _read_states(
        self,
        tokens: Tensor,
        logit_positions: tuple[Tensor, Tensor],
        attention_mask: Mask,
        positions: Tensor | None,
        caches: Caches,
        most_reads: int | None,
    ) -> Float[Tensor, "n hidden"]:
        """Hidden states [n, hidden] where logits are read; the arguments are those of `forward`.

        The last layer runs at the columns that are read, or everywhere if that is no more work.
        """
        row, column = logit_positions
        if isinstance(attention_mask, PackedRows):
            return self._packed_states(tokens, column, attention_mask, positions, caches)
        if most_reads is None:
            most_reads = most_reads_of(row, tokens)
        width = stable_rows(most_reads)
        if self.pads_passes and not torch.is_grad_enabled():
            width = bucket(most_reads)
            padded = in_buckets(
                tokens, attention_mask, positions, cast("list[LayerCache] | None", caches)
            )
            tokens, attention_mask, positions, caches = padded
        arguments = (tokens, attention_mask, positions, caches)
        queries, column = self.columns_read(tokens, logit_positions, width)
        return self.hidden_states(*arguments, queries=queries)[row, column]

    def columns_read(
        self, tokens: Tensor, logit_positions: tuple[Tensor, Tensor], width: int
    ) -> tuple[Int[Tensor, "rows width"] | None, Int[Tensor, " n"]]:
        """The columns that the last layer runs at, at most `width` in a row, None for all of them;
        and where each of `logit_positions` is among these.
        """
        row, column = logit_positions
        if self.config.logit_shift:
            column = (column - 1).clamp(min=0)
        if width >= tokens.shape[1]:
            return None, column
        rank = _rank_in_row(row, len(tokens))
        queries = column.new_zeros(len(tokens), width).index_put((row, rank), column)
        return queries, rank

    def _packed_states(
        self,
        tokens: Tensor,
        column: Tensor,
        rows: PackedRows,
        positions: Tensor | None,
        caches: Caches,
    ) -> Tensor:
        """The hidden states of a packed pass, [n, hidden], at the `column` [n] of the line.

        The last layer has as many queries as are read, rounded up to `STABLE_ROWS`; those that no
        row has attend to nothing and are cut off.
        """
        width = stable_rows(max(len(column), 1))
        queries = F.pad(column, (0, width - len(column)))[None]
        hidden = self.hidden_states(tokens, rows, positions, caches, queries=queries)
        return hidden[0, : len(column)]

    def hidden_states(
        self,
        tokens: Tensor,
        attention_mask: Mask = None,
        positions: Tensor | None = None,
        caches: Caches = None,
        extra_embeddings: Tensor | None = None,
        queries: Int[Tensor, "rows most"] | None = None,
    ) -> Float[Tensor, "rows length_or_most hidden"]:
        """Hidden states after the last layer, before the final norm; with `queries` at those
        columns alone.

        `extra_embeddings` [rows, length, hidden] are added to the token embeddings.
        """
        cos, sin, attention_mask = self.layer_inputs(tokens, attention_mask, positions, caches)
        x: Tensor = self.embed(tokens)
        if extra_embeddings is not None:
            x = x + extra_embeddings
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            cache = None if caches is None else caches[index]
            read = queries if index == last else None
            x = layer(x, cos, sin, attention_mask, self.attention_backend, cache, read)
        return x

    def layer_inputs(
        self, tokens: Tensor, attention_mask: Mask, positions: Tensor | None, caches: Caches
    ) -> tuple[Tensor, Tensor, Mask]:
        """What is the same for all layers: the rotary table (`rotate`) and the mask."""
        config = self.config
        if positions is None:
            positions = rotary_positions = torch.arange(tokens.shape[1], device=tokens.device)
        else:
            rotary_positions = positions[:, None]  # one table for all heads
        cos, sin = rope_table(
            rotary_positions,
            config.rotary_dim or config.head_dim,
            config.rope_theta,
            config.rope_scaling,
        )
        return cos, sin, self._with_causal_blocks(attention_mask, positions, caches)

    def _with_causal_blocks(
        self,
        mask: Mask,
        positions: Tensor,
        caches: Caches,
    ) -> Mask:
        """The mask and the pattern of a block-causal model, which packed rows have already.

        `positions` are those of the queries; with `caches` the keys are all visible columns.
        """
        if self.config.causal_block is None or isinstance(mask, PackedRows):
            return mask
        keys = _key_positions(positions, caches)
        pattern = block_causal_mask(positions, keys, self.config.causal_block)
        return pattern if mask is None else pattern & mask

    def logits(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n vocab"]:
        """Final norm and language-model head, for hidden states of any leading shape."""
        return F.linear(self.norm(hidden), self._head_weight)

    @property
    def _head_weight(self) -> Float[Tensor, "vocab hidden"]:
        return self.embed.weight if self.head is None else self.head.weight


def most_reads_of(row: Int[Tensor, " n"], tokens: Tensor) -> int:
    """The largest count of an index in `row`; on a device, which would have to be asked, the length
    of a row.
    """
    if row.device.type != "cpu":
        return tokens.shape[1]
    most = len(row) if len(tokens) == 1 else int(row.bincount(minlength=1).amax())
    return max(most, 1)  # a layer without any query has no shape


def _rank_in_row(row: Int[Tensor, " n"], rows: int) -> Int[Tensor, " n"]:
    """How many earlier entries of `row` are equal to each entry."""
    if rows == 1:
        return torch.arange(len(row), device=row.device)
    is_row = row[:, None] == torch.arange(rows, device=row.device)
    return (is_row.cumsum(0) - 1).gather(1, row[:, None])[:, 0]


def _key_positions(positions: Tensor, caches: Caches) -> Tensor:
    """Positions of the keys: the visible columns, then the tokens that are not stored."""
    if caches is None:
        return positions
    first = caches[0]
    assert isinstance(first, LayerCache)
    columns = torch.arange(first.visible, device=positions.device)
    not_stored = positions[..., first.columns.shape[1] :]
    return torch.cat((columns.expand(*positions.shape[:-1], -1), not_stored), dim=-1)


def _embedding(rows: int, size: int) -> nn.Embedding:
    """An embedding that draws nothing on the meta device: torch would import its compiler."""
    weight = torch.empty(rows, size)
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding(rows, size, _weight=weight)


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Initialise with normal weights: 0.02 for embeddings, 1/sqrt(fan-in) for matrices.

    Matrices that write to the residual are scaled by 1/sqrt(2 layers); norms are 1, biases 0.
    """
    residual_scale = (2 * model.config.num_layers) ** -0.5
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        elif name.startswith(("embed", "head")):
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            writes_residual = name.endswith(("o.weight", "down.weight", "mlp.down"))
            scale = residual_scale if writes_residual else 1.0
            weight.normal_(0.0, scale * weight.shape[-1] ** -0.5, generator=generator)
