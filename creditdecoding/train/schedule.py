"""Learning rates of a training step."""

from __future__ import annotations

import math

FINAL_SHARE = 0.02  # of the peak rate, at the end
DECAYED_SHARE = 0.05


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, cosine to 2% of `peak`."""
    warm = min(1.0, (step + 1) / warmup)
    angle = math.pi * step / steps
    cosine = 0.5 * (1 + math.cos(angle))
    share = FINAL_SHARE + (1 - FINAL_SHARE) * cosine
    return peak * warm * share


def stable_rate(step: int, progress: float, peak: float, warmup: int, decay: float) -> float:
    """Linear warm-up over `warmup` steps, constant, then linear to 5% of `peak` over the last
    `decay` of the run (warmup-stable-decay). `progress` is the share of the run that is over.
    """
    warm = min(1.0, (step + 1) / warmup)
    left = min(1.0, (1 - progress) / decay) if decay else 1.0
    return peak * warm * (DECAYED_SHARE + (1 - DECAYED_SHARE) * left)
