"""States of several rows, joined and taken apart."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from creditdecoding.decoders.base import State
from creditdecoding.ops.padding import stack_padded


def stack_states(states: Sequence[State]) -> State:
    """Join states along the row axis; zeros, which mean "nothing yet", pad the other axes."""
    names = states[0] if states else {}
    return {name: stack_padded([state[name] for state in states]) for name in names}


def take_rows(state: State, rows: slice | Tensor) -> State:
    """The state of some rows."""
    return {name: tensor[rows] for name, tensor in state.items()}
