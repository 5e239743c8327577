"""What every training loop needs: the learning rate of a step, a state file that a kill at any
moment leaves whole, a log that fits it.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch


def learning_rate(step: int, steps: int, peak: float, warm: int) -> float:
    """Linear warm-up over `warm` steps, cosine to 2% of `peak`."""
    return (
        peak
        * min(1.0, (step + 1) / warm)
        * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
    )


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write what `torch.load` reads back; a kill leaves the old or the new file, never half of one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def write_whole(path: Path, text: str) -> None:
    """Write a text file; a kill leaves the old or the new file, never half of one."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def read_log(path: Path, name: str = "step") -> list[dict[str, Any]]:
    """The records of a log in order; of a number that is there twice the later one, a last line
    that was torn off left out.
    """
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            found[record[name]] = record
        except (ValueError, LookupError, TypeError):
            continue
    return [found[number] for number in sorted(found)]


def truncate_log(path: Path, end: int, name: str = "step") -> None:
    """Take out of a log what comes at `end` and later: a run that goes on from there writes it
    anew.
    """
    if path.exists():
        write_whole(
            path,
            "".join(
                json.dumps(record) + "\n" for record in read_log(path, name) if record[name] < end
            ),
        )
