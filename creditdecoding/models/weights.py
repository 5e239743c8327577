"""Streams safetensors into a model, each tensor to its place, and writes them back; strict in both
directions.

A family says where tensors land with a rename table: our parameter's pattern -> where it comes
from. `{n}` is the layer on both
sides. Patterns of parameters that a model does not have are not looked at, so one table serves
dense and expert layers.

    RENAME = {
        # the released tensor is the parameter
        "layers.{n}.o.weight": "model.layers.{n}.attention.dense.weight",
        # one released tensor holds the rows of several parameters, one below the other (LLaDA2: all
        Q heads, all K, all V)
        **stacked("model.layers.{n}.attention.query_key_value.weight", "layers.{n}.q.weight",
        "layers.{n}.k.weight", "layers.{n}.v.weight"),
        # one parameter is filled by several released tensors; of several layouts the checkpoint has
        one
        **experts("model.layers.{n}.mlp.experts"),
    }

Both helpers only write `Part`s, the one description there is:
`Part("...experts.{j}.up_proj.weight", share=(1, 2))` is the second
half of the rows of our parameter at index `j` (`{j}`: one released tensor an index of our first
axis), `Part(name, stack=(...))` is
those rows of a released tensor that belong to us. A tuple lists every tensor that may fill some of
the parameter. Whatever the
table allows, every element of every parameter and stored buffer must be filled exactly once, and
every released tensor be used:
this, names and shapes are checked on the files' headers before any weight is read. Parameters take
the asked dtype, buffers keep
their own (a router's bias stays float32).
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from creditdecoding.checkpoint import shards
from creditdecoding.errors import CheckpointError

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes there are."""

Transform = Callable[[str, Tensor], Tensor]
"""Called with our name of a parameter and its weight."""

WINDOW = 256 * 2**20
"""Bytes of a file that are mapped at a time."""


DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Names that safetensors gives to the dtypes read here."""


@dataclass(frozen=True)
class Part:
    """A released tensor that fills some of a parameter.

    `name` may hold `{j}`: then there is one such tensor for each index of our first axis. It fills
    the `share[0]`-th of
    `share[1]` equal parts of our rows; rows are the axis before the last (the only one of a
    vector). With `stack`, the tensor
    holds the rows of these parameters of ours, in this order, and ours are taken.
    """

    name: str
    share: tuple[int, int] = (0, 1)
    stack: tuple[str, ...] = ()


Rename = Mapping[str, str | Part | tuple[str | Part, ...]]


def stacked(name: str, *ours: str) -> dict[str, Part]:
    """Table entries for a released tensor that holds the rows of several of our parameters, in this
    order.
    """
    return {each: Part(name, stack=ours) for each in ours}


def experts(released: str, ours: str = "layers.{n}.mlp") -> dict[str, tuple[str | Part, ...]]:
    """Table entries for the experts below `released`: one by one, merged by training tools, or as
    transformers 5 writes them.
    """
    halves = (("gate", (0, 2)), ("up", (1, 2)))
    one_by_one = [Part(f"{released}.{{j}}.{half}_proj.weight", share) for half, share in halves]
    merged = [Part(f"{released}.{half}_proj", share) for half, share in halves]
    return {
        f"{ours}.gate_up": (*one_by_one, *merged, f"{released}.gate_up_proj"),
        f"{ours}.down": (f"{released}.{{j}}.down_proj.weight", f"{released}.down_proj"),
    }


@dataclass(frozen=True)
class TensorHeader:
    """What a weight file says about one tensor before it is read."""

    file: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Placement:
    """A released tensor of shape `shape`: its `rows` go to `place` of our tensor `ours`."""

    ours: str
    place: tuple[int | slice, ...]
    rows: slice
    shape: tuple[int, ...]


def read_headers(paths: list[Path]) -> dict[str, TensorHeader]:
    """Every tensor of the weight files with its shape and dtype, nothing else read. Raises
    `CheckpointError`.
    """
    found: dict[str, TensorHeader] = {}
    for path in paths:
        with _open(path) as file:
            for name in list(file.keys()):
                if name in found:
                    raise CheckpointError(
                        f"{name} is in two files",
                        given=[found[name].file.name, path.name],
                        hint="Remove one of them.",
                    )
                view = file.get_slice(name)
                found[name] = TensorHeader(path, view.get_dtype(), tuple(view.get_shape()))
                if found[name].dtype not in DTYPES:
                    raise CheckpointError(
                        f"{name} is quantised or no weight at all",
                        given=found[name].dtype,
                        allowed=", ".join(DTYPES),
                        hint="Use the release in bfloat16; quantize int8 makes smaller weights while loading.",
                    )
    return found


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
    found: dict[str, Tensor] = model.state_dict(keep_vars=True)
    return found


def placements(shapes: Mapping[str, tuple[int, ...]], rename: Rename) -> dict[str, list[Placement]]:
    """Released tensor name -> where it may land, for tensors of ours with these `shapes`."""
    found: dict[str, list[Placement]] = {}
    for ours, shape in shapes.items():
        n, pattern = _pattern(ours)
        given = rename[pattern]
        for each in given if isinstance(given, tuple) else (given,):
            part = Part(each) if isinstance(each, str) else each
            heights = [shapes[name.format(n=n)][0] for name in part.stack]
            for j in range(shape[0]) if "{j}" in part.name else (None,):
                landing = _landing(ours, shape, j, part, heights)
                found.setdefault(part.name.format(n=n, j=j), []).append(landing)
    return found


def _pattern(ours: str) -> tuple[str, str]:
    """Layer and table key of one of our names."""
    match = re.match(r"layers\.(\d+)\.", ours)
    return (match[1], "layers.{n}." + ours[match.end() :]) if match else ("", ours)


def _landing(
    ours: str, shape: tuple[int, ...], j: int | None, part: Part, heights: list[int]
) -> Placement:
    inner = shape if j is None else shape[1:]
    axis = max(len(inner) - 2, 0)
    index, count = part.share
    step = inner[axis] // count
    assert step * count == inner[axis], (
        f"{part.name}: {inner[axis]} rows do not fall into {count} parts"
    )
    place = (
        *(() if j is None else (j,)),
        *([slice(None)] * axis),
        slice(index * step, (index + 1) * step),
    )
    if not part.stack:
        return Placement(ours, place, slice(None), (*inner[:axis], step, *inner[axis + 1 :]))
    assert axis == 0 and j is None, "rows are stacked in matrices and vectors only"
    above = sum(heights[: part.stack.index(_pattern(ours)[1])])
    return Placement(ours, place, slice(above, above + step), (sum(heights), *inner[1:]))


def check_weights(
    model: nn.Module, found: Mapping[str, TensorHeader], rename: Rename
) -> dict[str, list[Placement]]:
    """Where each tensor of the files goes. Raises `CheckpointError` on missing, extra, doubled or
    wrong-shape weights.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state_tensors(model).items()}
    table = placements(shapes, rename)
    filled = {
        name: np.zeros(shape[: max(1, len(shape) - 1)], dtype=bool)
        for name, shape in shapes.items()
    }
    for name, header in found.items():
        if name not in table:
            raise CheckpointError(
                "a weight that the architecture does not have",
                given=name,
                hint="config.json and weights do not belong together.",
            )
        for landing in table[name]:
            if header.shape != landing.shape:
                raise CheckpointError(
                    f"wrong shape of {name}",
                    given=header.shape,
                    allowed=landing.shape,
                    hint="config.json and weights do not belong together.",
                )
            if filled[landing.ours][landing.place].any():
                raise CheckpointError(
                    "a weight that other tensors of the checkpoint hold too",
                    given=name,
                    hint="Remove one of the two layouts.",
                )
            filled[landing.ours][landing.place] = True
    holes = {name for name, rows in filled.items() if not rows.all()}
    if holes:
        first = next(name for name in filled if name in holes)
        absent = [
            (name, at.place)
            for name, each in table.items()
            for at in each
            if at.ours == first and not filled[first][at.place].any()
        ]
        named = max(absent, key=lambda each: filled[first][each[1]].size)[0]
        raise CheckpointError(
            f"{len(holes)} weights are missing", given=named, hint="Download the checkpoint again."
        )
    return {name: table[name] for name in found}


def _tensors(found: Mapping[str, TensorHeader]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor, file by file; a file is opened anew after `WINDOW` bytes, which gives back what
    was mapped of it.
    """
    for path in dict.fromkeys(header.file for header in found.values()):
        names = [name for name, header in found.items() if header.file == path]
        while names:
            count, mapped = 0, 0
            while count < len(names) and (
                count == 0 or mapped + found[names[count]].size <= WINDOW
            ):
                mapped += found[names[count]].size
                count += 1
            with _open(path) as file:
                for name in names[:count]:
                    yield name, file.get_tensor(name)
            names = names[count:]


def load_weights(
    model: nn.Module,
    folder: Path,
    rename: Rename,
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Progress | None = None,
    finish: Transform | None = None,
) -> None:
    """Fill `model` (on the meta device) tensor by tensor. Raises `CheckpointError` before any
    weight is read.

    A parameter that is complete passes through `finish`, which may put something smaller in its
    place.
    """
    found = read_headers(shards(folder))
    places, wanted = check_weights(model, found, rename), state_tensors(model)
    left = Counter(landing.ours for each in places.values() for landing in each)
    ready: dict[str, Tensor] = {}
    total, done = sum(header.size for header in found.values()), 0
    for name, tensor in _tensors(found):
        if on_progress is not None:
            on_progress(done, total)
        for landing in places[name]:
            ours, is_parameter = landing.ours, isinstance(wanted[landing.ours], nn.Parameter)
            if ours not in ready:
                ready[ours] = torch.empty(
                    wanted[ours].shape,
                    dtype=dtype if is_parameter else wanted[ours].dtype,
                    device=device,
                )
            ready[ours][landing.place].copy_(tensor[landing.rows])
            left[ours] -= 1
            if not left[ours]:
                whole = ready.pop(ours)
                _put(
                    model,
                    ours,
                    finish(ours, whole) if finish is not None and is_parameter else whole,
                    is_parameter,
                )
        done += found[name].size
    if on_progress is not None:
        on_progress(done, total)


def _put(model: nn.Module, name: str, tensor: Tensor, is_parameter: bool) -> None:
    """Put `tensor` in place of the parameter or buffer `name`."""
    module, _, leaf = name.rpartition(".")
    if is_parameter and not isinstance(tensor, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(model.get_submodule(module), leaf, tensor)


def save_weights(model: nn.Module, path: Path, rename: Rename, dtype: torch.dtype) -> None:
    """Write `model` under its released names to the safetensors file `path`; `rename` must be a
    table of plain names.
    """
    tensors = {}
    for ours, tensor in state_tensors(model).items():
        n, pattern = _pattern(ours)
        name = rename[pattern]
        assert isinstance(name, str), f"{pattern} is not a plain name"
        tensors[name.format(n=n)] = (
            tensor.detach()
            .to("cpu", dtype if isinstance(tensor, nn.Parameter) else tensor.dtype)
            .contiguous()
        )
    save_file(tensors, str(path), metadata={"format": "pt"})
