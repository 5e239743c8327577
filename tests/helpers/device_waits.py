"""Counts where the host would wait for a device, on a machine that has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
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


READS_BY_HOST = (
    *("cpu", "numpy", "tolist", "item"),
    *("__bool__", "__int__", "__float__", "__index__"),
)
"""Methods of a tensor that bring values to the host. On a CPU they run no operation that a dispatch
mode could see.
"""


class DeviceWaits(TorchDispatchMode):
    """Names the operations on values of the device whose result the host must know to go on.

    Values of the device are the logits, which `from_device` marks, and everything made of them.
    `waits` are inside the step, `copies` bring tensors to the host, with their numbers of elements.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies: list[int] = []
        self._methods = _HostReads(self)

    def __enter__(self) -> Any:
        self._methods.__enter__()
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._methods.__exit__(*details)

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
            index = [x for x in tree_iter(args[1:2]) if isinstance(x, Tensor)]
            by_mask = name.startswith("index") and any(x.dtype == torch.bool for x in index)
            if by_mask or name in COPIES_TO_HOST:
                self.waits.append(name)
            for x in tree_iter(outputs):
                if isinstance(x, Tensor):
                    x._is_on_device = True  # type: ignore[attr-defined]
        return outputs


class _HostReads(TorchFunctionMode):
    """Notes what methods bring to the host. The copy that `cpu` returns is no longer of the
    device.
    """

    def __init__(self, watch: DeviceWaits) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in READS_BY_HOST and hasattr(args[0], "_is_on_device"):
            if name != "cpu":
                self.watch.waits.append(name)
                return func(*args, **(kwargs or {}))
            self.watch.copies.append(args[0].numel())
            with torch.utils._python_dispatch._disable_current_modes():
                return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
