"""Loads safetensors into a model tensor by tensor, and writes them back; strict in both directions.

A family describes its files with a rename table: pattern of our parameter -> released tensors that
fill it. `{n}` is the layer on both sides. Patterns of parameters that a model lacks are ignored, so
one table serves dense and expert layers.

    RENAME = {
        # the released tensor is the parameter
        "layers.{n}.o.weight": "model.layers.{n}.attention.dense.weight",
        # one released tensor holds the rows of several parameters (LLaDA2: Q, then K, then V)
        **stacked("model.layers.{n}.attention.query_key_value.weight",
                  "layers.{n}.q.weight", "layers.{n}.k.weight", "layers.{n}.v.weight"),
        # several released tensors fill one parameter; a checkpoint has one of several layouts
        **experts("model.layers.{n}.mlp.experts"),
    }

Both helpers write `Part`s. `Part("...experts.{j}.up_proj.weight", share=(1, 2))` is the second half
of the rows of our parameter at index `j` (`{j}`: one released tensor for each index of our first
axis); `Part(name, stack=(...))` is our rows of a released tensor. A tuple lists every tensor that
may fill some of the parameter.

Every element of every parameter and persistent buffer must be filled exactly once, and every
released tensor be used. This, names and shapes are checked on the files' headers before any weight
is read. Parameters take the requested dtype, buffers keep theirs (a router's bias is float32).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from creditdecoding.checkpoint import shards
from creditdecoding.errors import CheckpointError
from creditdecoding.wording import count

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes in all."""

Transform = Callable[[str, Tensor], Tensor]
"""Called with the name of a parameter or tensor and its weight; returns what replaces it."""

WINDOW = 256 * 2**20
"""Bytes of a file that are mapped at a time."""

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The dtypes that can be read, by safetensors' names."""

MISMATCH = "config.json and weights do not belong together."


@dataclass(frozen=True)
class Part:
    """A released tensor that fills some of a parameter.

    If `name` holds `{j}` there is one such tensor for each index of our first axis. It fills the
    `share[0]`-th of `share[1]` equal parts of our rows, where rows are the axis before the last
    (the only one of a vector). With `stack`, the tensor holds the rows of these parameters of ours,
    in this order, and ours are taken.
    """

    name: str
    share: tuple[int, int] = (0, 1)
    stack: tuple[str, ...] = ()


Rename = Mapping[str, str | Part | tuple[str | Part, ...]]


def stacked(released: str, *parameters: str) -> dict[str, Part]:
    """Table entries for a released tensor that holds the rows of `parameters`, in this order."""
    return {parameter: Part(released, stack=parameters) for parameter in parameters}


def experts(released: str, parameters: str = "layers.{n}.mlp") -> dict[str, tuple[str | Part, ...]]:
    """Table entries for the experts under the name `released`, in any of three layouts.

    They are separate tensors, merged by training tools, or as transformers 5 writes them.
    """
    gate, up = (0, 2), (1, 2)
    return {
        f"{parameters}.gate_up": (
            Part(f"{released}.{{j}}.gate_proj.weight", gate),
            Part(f"{released}.{{j}}.up_proj.weight", up),
            Part(f"{released}.gate_proj", gate),
            Part(f"{released}.up_proj", up),
            f"{released}.gate_up_proj",
        ),
        f"{parameters}.down": (f"{released}.{{j}}.down_proj.weight", f"{released}.down_proj"),
    }


@dataclass(frozen=True)
class TensorHeader:
    """File, dtype and shape of a tensor that was not read yet."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Placement:
    """`rows` of a released tensor of shape `shape` fill `index` of our tensor `parameter`."""

    parameter: str
    index: tuple[int | slice, ...]
    rows: slice
    shape: tuple[int, ...]


def read_headers(paths: list[Path]) -> dict[str, TensorHeader]:
    """The header of every tensor in the weight files. Raises `CheckpointError`."""
    headers: dict[str, TensorHeader] = {}
    for path in paths:
        with _open(path) as file:
            for name in list(file.keys()):
                if name in headers:
                    raise CheckpointError(
                        f"{name} is in two files",
                        given=[headers[name].file.name, path.name],
                        hint="Remove one of them.",
                    )
                view = file.get_slice(name)
                header = TensorHeader(path, view.get_dtype(), tuple(view.get_shape()))
                if header.dtype not in DTYPES:
                    raise CheckpointError(
                        f"{name} is quantised or not a weight",
                        given=header.dtype,
                        allowed=", ".join(DTYPES),
                        hint="Use the bfloat16 release; quantize int8 saves memory while loading.",
                    )
                headers[name] = header
    return headers


def _open(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is truncated or not safetensors ({error})",
            hint="Download the file again.",
        ) from error


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a checkpoint of `model` must fill: parameters and persistent buffers."""
    tensors: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return tensors


def placements(shapes: Mapping[str, tuple[int, ...]], rename: Rename) -> dict[str, list[Placement]]:
    """Name of each released tensor -> where it may go, for tensors of ours with these `shapes`."""
    table: dict[str, list[Placement]] = {}
    for parameter, shape in shapes.items():
        layer, pattern = _layer_and_pattern(parameter)
        sources = rename[pattern]
        for source in sources if isinstance(sources, tuple) else (sources,):
            part = Part(source) if isinstance(source, str) else source
            heights = [shapes[name.format(n=layer)][0] for name in part.stack]
            for j in range(shape[0]) if "{j}" in part.name else (None,):
                placement = _placement(parameter, shape, j, part, heights)
                table.setdefault(part.name.format(n=layer, j=j), []).append(placement)
    return table


def _layer_and_pattern(parameter: str) -> tuple[str, str]:
    """`layers.3.o.weight` -> ("3", "layers.{n}.o.weight")."""
    match = re.match(r"layers\.(\d+)\.", parameter)
    if match is None:
        return "", parameter
    return match[1], "layers.{n}." + parameter[match.end() :]


def _placement(
    parameter: str, shape: tuple[int, ...], j: int | None, part: Part, heights: list[int]
) -> Placement:
    """Where `part` goes; `heights` are the numbers of rows in its stack."""
    leading = () if j is None else (j,)
    inner = shape[len(leading) :]
    axis = max(len(inner) - 2, 0)
    number, count = part.share
    step, rest = divmod(inner[axis], count)
    assert rest == 0, f"{part.name}: {inner[axis]} rows cannot be split into {count} parts"
    share = slice(number * step, (number + 1) * step)
    index = (*leading, *[slice(None)] * axis, share)
    if not part.stack:
        return Placement(parameter, index, slice(None), (*inner[:axis], step, *inner[axis + 1 :]))
    assert axis == 0 and j is None, "only matrices and vectors can be stacked"
    position = part.stack.index(_layer_and_pattern(parameter)[1])
    above = sum(heights[:position])
    return Placement(parameter, index, slice(above, above + step), (sum(heights), *inner[1:]))


def check_weights(
    model: nn.Module, headers: Mapping[str, TensorHeader], rename: Rename
) -> dict[str, list[Placement]]:
    """Where each tensor of the files goes.

    Raises `CheckpointError` for missing, unknown, doubled and wrongly shaped weights.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_tensors(model).items()}
    table = placements(shapes, rename)
    filled = {
        name: np.zeros(shape[: max(1, len(shape) - 1)], dtype=bool)
        for name, shape in shapes.items()
    }
    for name, header in headers.items():
        if name not in table:
            raise CheckpointError(
                "a weight that the architecture does not have", given=name, hint=MISMATCH
            )
        for placement in table[name]:
            _fill(name, header, placement, filled[placement.parameter])
    missing = [name for name, rows in filled.items() if not rows.all()]
    if missing:
        raise CheckpointError(
            f"{count(len(missing), 'weight is', 'weights are')} missing",
            given=_missing_tensor(missing[0], filled[missing[0]], table),
            hint="Download the checkpoint again.",
        )
    return {name: table[name] for name in headers}


def _fill(name: str, header: TensorHeader, placement: Placement, filled: NDArray[np.bool_]) -> None:
    """Mark what a released tensor fills of a parameter."""
    if header.shape != placement.shape:
        raise CheckpointError(
            f"wrong shape of {name}", given=header.shape, allowed=placement.shape, hint=MISMATCH
        )
    if filled[placement.index].any():
        raise CheckpointError(
            "a weight that other tensors of the checkpoint hold too",
            given=name,
            hint="Remove one of the two layouts.",
        )
    filled[placement.index] = True


def _missing_tensor(
    parameter: str, filled: NDArray[np.bool_], table: Mapping[str, list[Placement]]
) -> str:
    """The released tensor that would fill most of what is missing of a parameter."""
    sizes = {
        name: filled[placement.index].size
        for name, candidates in table.items()
        for placement in candidates
        if placement.parameter == parameter and not filled[placement.index].any()
    }
    return max(sizes, key=sizes.__getitem__)


def _windows(headers: Mapping[str, TensorHeader]) -> Iterator[tuple[Path, list[str]]]:
    """The tensors of each file, at most `WINDOW` bytes (or one tensor) at a time."""
    for path in dict.fromkeys(header.file for header in headers.values()):
        window: list[str] = []
        mapped = 0
        for name, header in headers.items():
            if header.file != path:
                continue
            if window and mapped + header.size > WINDOW:
                yield path, window
                window, mapped = [], 0
            window.append(name)
            mapped += header.size
        yield path, window


def _read_tensors(headers: Mapping[str, TensorHeader]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, file by file. Reopening a file gives back what was mapped of it."""
    for path, names in _windows(headers):
        with _open(path) as file:
            for name in names:
                yield name, file.get_tensor(name)


def _merged_tensors(
    headers: Mapping[str, TensorHeader], merge: Transform | None, on_progress: Progress | None
) -> Iterator[tuple[str, Tensor]]:
    """Every tensor after `merge`; progress is shown while they are read."""
    show = on_progress or (lambda done, total: None)
    total = sum(header.size for header in headers.values())
    done = 0
    for name, tensor in _read_tensors(headers):
        show(done, total)
        yield name, tensor if merge is None else merge(name, tensor)
        done += headers[name].size
    show(done, total)


def load_weights(
    model: nn.Module,
    folder: Path,
    rename: Rename,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Progress | None = None,
    transform: Transform | None = None,
    merge: Transform | None = None,
) -> None:
    """Fill `model` (on the meta device) tensor by tensor.

    A released tensor is replaced by what `merge` returns for its name, of the same shape, and a
    complete parameter by what `transform` returns, which may be smaller. Raises
    `CheckpointError` before any weight is read.
    """
    headers = read_headers(shards(folder))
    table = check_weights(model, headers, rename)
    targets = state_tensors(model)
    parts_left = Counter(part.parameter for parts in table.values() for part in parts)
    incomplete: dict[str, Tensor] = {}
    for name, tensor in _merged_tensors(headers, merge, on_progress):
        for placement in table[name]:
            parameter = placement.parameter
            if parameter not in incomplete:
                incomplete[parameter] = _empty(targets[parameter], device, dtype)
            incomplete[parameter][placement.index].copy_(tensor[placement.rows])
            parts_left[parameter] -= 1
            if not parts_left[parameter]:
                _set_tensor(model, parameter, incomplete.pop(parameter), transform)


def _empty(target: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    dtype = dtype if isinstance(target, nn.Parameter) else target.dtype
    return torch.empty(target.shape, dtype=dtype, device=device)


def _set_tensor(model: nn.Module, name: str, tensor: Tensor, transform: Transform | None) -> None:
    """Replace the parameter or buffer `name`."""
    module_name, _, attribute = name.rpartition(".")
    module = model.get_submodule(module_name)
    if isinstance(getattr(module, attribute), nn.Parameter):
        if transform is not None:
            tensor = transform(name, tensor)
        if not isinstance(tensor, nn.Parameter):
            tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(module, attribute, tensor)


def save_weights(model: nn.Module, path: Path, rename: Rename, dtype: torch.dtype) -> None:
    """Write `model` under its released names to a safetensors file.

    Parameters are saved in `dtype`, buffers in theirs; `rename` must hold plain names only.
    """
    tensors = {}
    for parameter, tensor in state_tensors(model).items():
        saved_dtype = dtype if isinstance(tensor, nn.Parameter) else tensor.dtype
        tensors[released_name(rename, parameter)] = (
            tensor.detach().to("cpu", saved_dtype).contiguous()
        )
    save_file(tensors, str(path), metadata={"format": "pt"})


def released_name(rename: Rename, parameter: str) -> str:
    """The name of a parameter in released files, for tables that hold plain names."""
    layer, pattern = _layer_and_pattern(parameter)
    released = rename[pattern]
    assert isinstance(released, str), f"{pattern} is not a plain name"
    return released.format(n=layer)
