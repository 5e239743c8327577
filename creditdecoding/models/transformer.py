"""THE transformer: one network for every family, configured by data.

Pre-norm, RMSNorm, SwiGLU, rotary embedding, grouped-query attention, tied or untied head, no biases, no timestep input.
Leaves to others: which keys a query may see and which positions need logits (the caller), checkpoint names (the family
files), reading weights (weights.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from creditdecoding.config import ModelConfig
from creditdecoding.models.attention import attention


class RMSNorm(nn.Module):
    """Root-mean-square norm: float32 inside, cast back, then times the weight (the order the released weights expect)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*any size"]) -> Float[Tensor, "*any size"]:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rope_table(
    positions: Int[Tensor, "*rows length"], dim: int, theta: float
) -> tuple[Float[Tensor, "*rows length dim"], Float[Tensor, "*rows length dim"]]:
    """Cosine and sine of the rotary embedding in float32, rotate-half layout."""
    inverse = theta ** (-torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim)
    angle = positions[..., None].float() * inverse
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Float[Tensor, "rows heads length dim"], cos: Tensor, sin: Tensor) -> Float[Tensor, "rows heads length dim"]:
    """Apply the rotary embedding; `cos`, `sin` are [length, dim] or [rows, 1, length, dim]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Layer(nn.Module):
    """Attention and SwiGLU, each behind a norm and a residual."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, dim = config.hidden_size, config.head_dim
        self.config = config
        self.attn_norm = RMSNorm(size, config.rms_norm_eps)
        self.q = nn.Linear(size, config.num_heads * dim, bias=False)
        self.k = nn.Linear(size, config.num_kv_heads * dim, bias=False)
        self.v = nn.Linear(size, config.num_kv_heads * dim, bias=False)
        self.o = nn.Linear(config.num_heads * dim, size, bias=False)
        self.ff_norm = RMSNorm(size, config.rms_norm_eps)
        self.gate = nn.Linear(size, config.intermediate_size, bias=False)
        self.up = nn.Linear(size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, size, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor | None, backend: str) -> Tensor:
        rows, length, _ = x.shape
        h = self.attn_norm(x)
        q, k, v = (p(h).view(rows, length, -1, self.config.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        if self.config.rope_full_precision:
            q, k = rotate(q.float(), cos, sin).to(v.dtype), rotate(k.float(), cos, sin).to(v.dtype)
        else:
            q, k = rotate(q, cos.to(v.dtype), sin.to(v.dtype)), rotate(k, cos.to(v.dtype), sin.to(v.dtype))
        mixed = attention(q, k, v, allowed, backend)
        x = x + self.o(mixed.transpose(1, 2).reshape(rows, length, -1))
        h = self.ff_norm(x)
        return torch.add(x, self.down(F.silu(self.gate(h)) * self.up(h)))


class Transformer(nn.Module):
    """Token ids in, logits of the asked positions out."""

    def __init__(self, config: ModelConfig, backend: str = "sdpa") -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.embed = nn.Embedding(config.embedding_rows, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.hidden_size, config.embedding_rows, bias=False)

    def forward(
        self,
        tokens: Int[Tensor, "rows length"],
        read: tuple[Int[Tensor, " n"], Int[Tensor, " n"]],
        allowed: Bool[Tensor, "rows queries keys"] | None = None,
        positions: Int[Tensor, "rows length"] | None = None,
    ) -> Float[Tensor, "n vocab"]:
        """Logits for the positions `read` = (row indices, column indices); the head runs on these alone.

        `allowed` is True where a query sees a key (1 in place of `queries`: the same for all), `None` for full attention.
        `positions` are the rotary positions, 0, 1, 2, ... unless given.
        """
        return self.logits(self.trunk(tokens, allowed, positions)[read])

    def trunk(self, tokens: Tensor, allowed: Tensor | None = None, positions: Tensor | None = None) -> Float[Tensor, "rows length hidden"]:
        """Hidden states after the last layer, before the final norm."""
        if positions is None:
            cos, sin = rope_table(torch.arange(tokens.shape[1], device=tokens.device), self.config.head_dim, self.config.rope_theta)
        else:
            cos, sin = rope_table(positions[:, None], self.config.head_dim, self.config.rope_theta)
        x: Tensor = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, allowed, self.backend)
        return x

    def logits(self, hidden: Float[Tensor, "n hidden"]) -> Float[Tensor, "n vocab"]:
        """Final norm and language-model head."""
        table = self.embed.weight if self.head is None else self.head.weight
        found: Tensor = F.linear(self.norm(hidden), table)
        return found


@torch.no_grad()
def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Normal initialisation: 0.02 for embeddings, 1/sqrt(fan-in) for matrices, smaller where they write to the residual."""
    depth = (2 * model.config.num_layers) ** -0.5
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.fill_(1.0)
        elif name.startswith(("embed", "head")):
            weight.normal_(0.0, 0.02, generator=generator)
        else:
            scale = depth if name.endswith(("o.weight", "down.weight")) else 1.0
            weight.normal_(0.0, scale * weight.shape[1] ** -0.5, generator=generator)
