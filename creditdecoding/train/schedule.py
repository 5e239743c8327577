"""What every training loop needs: the learning rate of a step, and a state file that a kill at any moment leaves whole.

Leaves to others: the loops (loop.py, and those of verifiers).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch


def rate(step: int, steps: int, peak: float, warm: int) -> float:
    """Linear warm-up over `warm` steps, cosine to 2% of `peak`."""
    return peak * min(1.0, (step + 1) / warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what `torch.load` reads back; a kill leaves the old or the new file, never half of one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)
