"""The mean of the weights of several training runs: one model that is often better than each.

As in model soups (arXiv 2203.05482): it helps where the runs lie close together, because one went
on from another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.errors import OptionError


def mean_weights(
    states: Sequence[dict[str, Tensor]],
    shares: Sequence[float],
) -> dict[str, Tensor]:
    """The mean of weights of equal names and shapes, each counted by its share.

    Raises `OptionError` for networks of unlike shape.
    """
    shapes = [{name: weight.shape for name, weight in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes):
        raise OptionError(
            "the runs trained networks of unlike shape",
            given=", ".join(f"{len(state)} weights" for state in states),
            allowed="equal names and shapes of weights",
            hint="Take the mean of runs of which one went on from another.",
        )
    total = sum(shares)
    mean = {name: torch.zeros_like(weight) for name, weight in states[0].items()}
    for state, share in zip(states, shares):
        for name, weight in state.items():
            mean[name] += weight * (share / total)
    return mean
