"""Decoding of a masked diffusion model in few passes, for transformers' `generate`; leaves
everything to the package creditdecoding.
"""

from creditdecoding.integrations.transformers import generate

__all__ = ["generate"]
