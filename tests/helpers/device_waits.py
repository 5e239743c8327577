"""Counts where the host would wait for a device, on a machine that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

COPIES_TO_HOST = (
    "_local_scalar_dense",
    "is_nonzero",
    "item",
    "nonzero",
    "masked_select",
    "equal",
    "_unique2",
    "unique_dim",
)


class DeviceWaits(TorchDispatchMode):
    """Names the operations on values of the device whose result the host must know to go on.

    Values of the device are the logits, which `from_device` marks, and everything made of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def from_device(self, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """The model, whose logits are values of the device."""

        def marked(*args: Any, **kwargs: Any) -> Tensor:
            logits = model(*args, **kwargs)
            logits._is_on_device = True  # type: ignore[attr-defined]
            return logits

        return marked

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
        outputs = func(*args, **(kwargs or {}))
        if any(hasattr(x, "_is_on_device") for x in inputs):
            name = func.overloadpacket.__name__
            by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in inputs[1:])
            if by_mask or name in COPIES_TO_HOST:
                self.waits.append(name)
            for x in tree_iter(outputs):
                if isinstance(x, Tensor):
                    x._is_on_device = True  # type: ignore[attr-defined]
        return outputs
