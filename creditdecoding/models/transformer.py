"""THE transformer: one network for every family, configured by data.

Pre-norm, RMSNorm, SwiGLU or mixture of experts, rotary embedding (all of a head or its first
dimensions), grouped-query attention with or
without biases and per-head norms, full or block-causal, tied or untied head, logits shifted by one
or not, no timestep input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from creditdecoding.config import ModelConfig
from creditdecoding.models.attention import attention, block_causal_mask
from creditdecoding.models.kv_cache import KVCache, LayerCache, ModelGeometry
from creditdecoding.models.moe import MoE, SwiGLU


class RMSNorm(nn.Module):
    """Root-mean-square norm: float32 inside, cast back, then times the weight (the order the
    released weights expect).
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*any size"]) -> Float[Tensor, "*any size"]:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(
            x.dtype
        )


def rope_table(
    positions: Int[Tensor, "*rows length"], dim: int, theta: float
) -> tuple[Float[Tensor, "*rows length dim"], Float[Tensor, "*rows length dim"]]:
    """Cosine and sine of the rotary embedding in float32, rotate-half layout."""
    inverse = theta ** (
        -torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim
    )
    angle = positions[..., None].float() * inverse
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(
    x: Float[Tensor, "rows heads length dim"], cos: Tensor, sin: Tensor
) -> Float[Tensor, "rows heads length dim"]:
    """Apply the rotary embedding to the first dimensions, as many as `cos`, `sin` [length, some] or
    [rows, 1, length, some] have.
    """
    turned, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cos + torch.cat((-second, first), dim=-1) * sin
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


class Layer(nn.Module):
    """Attention and feed-forward (or experts), each behind a norm and a residual."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        size, dim, bias = config.hidden_size, config.head_dim, config.qkv_bias
        self.config = config
        self.attn_norm = RMSNorm(size, config.rms_norm_eps)
        self.q = nn.Linear(size, config.num_heads * dim, bias=bias)
        self.k = nn.Linear(size, config.num_kv_heads * dim, bias=bias)
        self.v = nn.Linear(size, config.num_kv_heads * dim, bias=bias)
        self.q_norm = RMSNorm(dim, config.rms_norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(dim, config.rms_norm_eps) if config.qk_norm else None
        self.o = nn.Linear(config.num_heads * dim, size, bias=False)
        self.ff_norm = RMSNorm(size, config.rms_norm_eps)
        dense = config.moe is None or index < config.moe.dense_layers
        self.mlp: nn.Module = (
            SwiGLU(size, config.intermediate_size)
            if dense or config.moe is None
            else MoE(size, config.moe)
        )

    def forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention_mask: Tensor | None,
        backend: str,
        cache: LayerCache | None = None,
    ) -> Tensor:
        rows, length, _ = x.shape
        h = self.attn_norm(x)
        q, k, v = (
            p(h).view(rows, length, -1, self.config.head_dim).transpose(1, 2)
            for p in (self.q, self.k, self.v)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.config.rope_full_precision:
            q, k = rotate(q.float(), cos, sin).to(v.dtype), rotate(k.float(), cos, sin).to(v.dtype)
        else:
            q, k = (
                rotate(q, cos.to(v.dtype), sin.to(v.dtype)),
                rotate(k, cos.to(v.dtype), sin.to(v.dtype)),
            )
        if cache is not None:
            k, v = cache.update(k, v)
        mixed = attention(q, k, v, attention_mask, backend)
        x = x + self.o(mixed.transpose(1, 2).reshape(rows, length, -1))
        return torch.add(x, self.mlp(self.ff_norm(x)))


class Transformer(nn.Module):
    """Token ids in, logits of the asked positions out."""

    def __init__(self, config: ModelConfig, attention_backend: str = "sdpa") -> None:
        super().__init__()
        self.config, self.attention_backend = config, attention_backend
        self.embed = nn.Embedding(config.embedding_rows, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.hidden_size, config.embedding_rows, bias=False)
        )

    @property
    def geometry(self) -> ModelGeometry:
        """What the loop must know of this network."""
        return ModelGeometry(
            self.config.causal_block, self.config.logit_shift, supports_kv_cache=True
        )

    def compile_layers(self, dynamic: bool) -> None:
        """torch.compile layer by layer: all layers share one compiled graph (a shape, unless
        `dynamic`).
        """
        for layer in self.layers:
            layer.compile(dynamic=dynamic)

    def new_cache(self) -> KVCache:
        """An empty store for keys and values, where the weights are and in their type."""
        weight = self.norm.weight
        return KVCache(
            self.config.num_layers,
            self.config.num_kv_heads,
            self.config.head_dim,
            weight.device,
            weight.dtype,
        )

    def forward(
        self,
        tokens: Int[Tensor, "rows length"],
        logit_positions: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
        attention_mask: Bool[Tensor, "rows queries keys"] | None = None,
        positions: Int[Tensor, "rows length"] | None = None,
        caches: list[LayerCache] | None = None,
    ) -> Float[Tensor, "n vocab"]:
        """Logits for the positions `read` = (row indices, column indices); the head runs on these
        alone.

        `allowed` is True where a query sees a key (1 in place of `queries`: the same for all),
        `None` for all keys; the
        pattern of a block-causal model comes on top. `positions` are the rotary positions, 0, 1, 2,
        ... unless given. With `stores`
        (see `KVCache.view`) `tokens` are the positions to compute, and the keys are all positions
        0, 1, 2, ... that are seen; tokens
        beyond the stores' columns are not kept, and their keys come last.
        """
        row, column = logit_positions
        if self.config.logit_shift:
            column = (column - 1).clamp(min=0)
        return self.logits(
            self.hidden_states(tokens, attention_mask, positions, caches)[row, column]
        )

    def hidden_states(
        self,
        tokens: Tensor,
        attention_mask: Tensor | None = None,
        positions: Tensor | None = None,
        caches: list[LayerCache] | None = None,
        extra_embeddings: Tensor | None = None,
    ) -> Float[Tensor, "rows length hidden"]:
        """Hidden states after the last layer, before the final norm; `added` [rows, length, hidden]
        goes to the embeddings.
        """
        at = torch.arange(tokens.shape[1], device=tokens.device) if positions is None else positions
        turns = at if positions is None else at[:, None]
        cos, sin = rope_table(
            turns, self.config.rotary_dim or self.config.head_dim, self.config.rope_theta
        )
        if self.config.causal_block is not None:
            keys = at
            if caches is not None:
                stored = torch.arange(caches[0].visible, device=tokens.device).expand(
                    *at.shape[:-1], -1
                )
                keys = torch.cat((stored, at[..., caches[0].columns.shape[1] :]), dim=-1)
            pattern = block_causal_mask(at, keys, self.config.causal_block)
            attention_mask = pattern if attention_mask is None else pattern & attention_mask
        x: Tensor = (
            self.embed(tokens)
            if extra_embeddings is None
            else self.embed(tokens) + extra_embeddings
        )
        for index, layer in enumerate(self.layers):
            x = layer(
                x,
                cos,
                sin,
                attention_mask,
                self.attention_backend,
                None if caches is None else caches[index],
            )
        return x

    def logits(self, hidden: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n vocab"]:
        """Final norm and language-model head, for hidden states of any leading shape."""
        table = self.embed.weight if self.head is None else self.head.weight
        found: Tensor = F.linear(self.norm(hidden), table)
        return found


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Normal initialisation: 0.02 for embeddings, 1/sqrt(fan-in) for matrices, smaller where they
    write to the residual.
    """
    depth = (2 * model.config.num_layers) ** -0.5
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        elif name.startswith(("embed", "head")):
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            scale = depth if name.endswith(("o.weight", "down.weight", "mlp.down")) else 1.0
            weight.normal_(0.0, scale * weight.shape[-1] ** -0.5, generator=generator)
