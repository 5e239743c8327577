"""The learning rate of a training step."""

from __future__ import annotations

import math

FINAL_SHARE = 0.02  # of the peak rate, at the end


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, cosine to 2% of `peak`."""
    warm = min(1.0, (step + 1) / warmup)
    angle = math.pi * step / steps
    cosine = 0.5 * (1 + math.cos(angle))
    share = FINAL_SHARE + (1 - FINAL_SHARE) * cosine
    return peak * warm * share
