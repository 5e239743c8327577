"""What training loops share: the learning rate of a step."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

FINAL_SHARE = 0.02  # of the peak rate, at the end


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up over `warmup` steps, cosine to 2% of `peak`."""
    warm = min(1.0, (step + 1) / warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
    return peak * warm * (FINAL_SHARE + (1 - FINAL_SHARE) * cosine)


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what `torch.load` reads back; a kill leaves the old or the new file."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
