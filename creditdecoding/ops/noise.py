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
    """The finaliser of splitmix64. Int64 arithmetic wraps. Works in place on its temporaries,
    because memory is the cost.
    """
    x = _xor_shifted(x, 30).mul_(_MIX1)
    x = _xor_shifted(x, 27).mul_(_MIX2)
    return _xor_shifted(x, 31)


def _xor_shifted(x: Tensor, bits: int) -> Tensor:
    """`x ^ (x >> bits)`; the mask clears copies of the sign, which makes the shift logical."""
    mask = (1 << (64 - bits)) - 1
    shifted = x >> bits
    shifted.bitwise_and_(mask)
    return shifted.bitwise_xor_(x)


def uniform_noise(*keys: Int[Tensor, ...]) -> Float[Tensor, ...]:
    """Uniform float64 in (0, 1), a function of the integer `keys`, which broadcast."""
    state = torch.zeros((), dtype=torch.long, device=keys[0].device)
    for key in keys:
        scrambled = _scramble(key + _GOLDEN)
        state = _scramble(state + (scrambled + _GOLDEN))
    mask = (1 << 52) - 1
    integer = (state >> 12).bitwise_and_(mask)
    return integer.double().add_(0.5).mul_(2.0**-52)


def gumbel_noise(*keys: Int[Tensor, ...]) -> Float[Tensor, ...]:
    """Standard Gumbel noise in float64, a function of the integer `keys`."""
    exponential = uniform_noise(*keys).log_().neg_()
    return exponential.log_().neg_()
