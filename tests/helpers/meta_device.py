"""Steps on torch's meta device: the ways of a device, on a machine that has none.

Tensors there have shapes and no values, so that whatever must know one, as the host would by
waiting, raises. What a step brings to the host is made up in place of the one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from creditdecoding.models.transformer import Transformer

META = torch.device("meta")


class HostCopies(TorchDispatchMode):
    """Notes operations that copy values of the host to the device and wait until that is done.

    `upload` does not wait. A single number goes along with the operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._lists = _ListCopies(self.waits)

    def __enter__(self) -> Any:
        self._lists.__enter__()
        return super().__enter__()

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        self._lists.__exit__(*details)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        outputs = func(*args, **kwargs)
        tensors = [x for x in tree_iter((args, kwargs, outputs)) if isinstance(x, Tensor)]
        from_host = any(not x.is_meta and x.dim() for x in tensors)
        if from_host and any(x.is_meta for x in tensors) and not kwargs.get("non_blocking"):
            self.waits.append(func.overloadpacket.__name__)
        return outputs


class _ListCopies(TorchFunctionMode):
    """Notes lists and arrays that become tensors of the device, alone or as an index."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor") and outputs.is_meta:
            self.waits.append(name)
        if name in ("__getitem__", "__setitem__") and args[0].is_meta:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, np.ndarray)) for part in index):
                self.waits.append(name)
        return outputs


class MadeUpOutcomes:
    """Takes the place of `download`: counts the copies, and makes up what they would hold.

    `copies`: the numbers of elements of each.
    """

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.copies: list[int] = []
        self._random = np.random.default_rng(0)

    def __call__(self, groups: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Any]]:
        assert all(x.is_meta for group in groups for x in group.values())
        self.copies.append(sum(x.numel() for group in groups for x in group.values()))
        return [{name: self._values(name, x) for name, x in group.items()} for group in groups]

    def _values(self, name: str, x: Tensor) -> Any:
        shape = tuple(x.shape)
        if name == "finite":
            return np.ones(shape, dtype=np.bool_)
        if name == "needs_another_pass":
            return np.zeros(shape, dtype=np.bool_)
        if x.dtype == torch.bool:
            return self._random.random(shape) < (0.4 if name == "commit" else 0.1)
        if x.dtype == torch.long:
            return self._random.integers(0, self.vocab_size, shape)
        return self._random.random(shape)


def on_meta(model: Transformer) -> Transformer:
    """The network without values."""
    return Transformer(model.config).to(META).eval()
