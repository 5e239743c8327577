"""Labelled states as JSONL: a header line that says how they were made, then a state a line with its counts.

Leaves to others: making them (rollouts.py), learning from them (fit.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from creditdecoding.verifier.identity import Identity
from creditdecoding.verifier.steps import State


@dataclass(frozen=True)
class Label:
    """A state of problem `problem` of a family, and how often it ended right: `wins` of `draws` continuations."""

    family: str
    problem: int
    state: State
    wins: int
    draws: int

    @property
    def value(self) -> float:
        """Mean success: the soft label."""
        return self.wins / self.draws


@dataclass(frozen=True)
class Labels:
    """A store that was read: whose labels these are, how they were made, and the labels."""

    identity: Identity
    settings: Mapping[str, Any]
    labels: tuple[Label, ...]
