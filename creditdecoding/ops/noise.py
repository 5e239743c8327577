"""Noise that depends only on (seed, position, step, id): counter-based, so that batch neighbours
cannot change a row's draw.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

# The constants of splitmix64 as int64.
_GOLDEN = -7046029254386353131
_MIX1 = -4658895280553007687
_MIX2 = -7723592293110705685


def _scramble(x: Tensor) -> Tensor:
    """The finaliser of splitmix64. Int64 arithmetic wraps; masks make the shifts logical. Works in
    place on its temporaries, because memory is the cost.
    """
    x = (x >> 30).bitwise_and_(0x3FFFFFFFF).bitwise_xor_(x).mul_(_MIX1)
    x = (x >> 27).bitwise_and_(0x1FFFFFFFFF).bitwise_xor_(x).mul_(_MIX2)
    return (x >> 31).bitwise_and_(0x1FFFFFFFF).bitwise_xor_(x)


def uniform_noise(*keys: Int[Tensor, ...]) -> Float[Tensor, ...]:
    """Uniform float64 in (0, 1), a function of the integer `keys`, which broadcast."""
    state = torch.zeros((), dtype=torch.long, device=keys[0].device)
    for key in keys:
        state = _scramble(state + (_scramble(key + _GOLDEN) + _GOLDEN))
    return (state >> 12).bitwise_and_((1 << 52) - 1).double().add_(0.5).mul_(2.0**-52)


def gumbel_noise(*keys: Int[Tensor, ...]) -> Float[Tensor, ...]:
    """Standard Gumbel noise in float64, a function of the integer `keys`."""
    return uniform_noise(*keys).log_().neg_().log_().neg_()
