"""The decoders by name. A decoder's name is its file's name: put a file here and it is known to
every command. Files in `controls` are ablations for comparisons; only callers that ask for them see
them.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from creditdecoding.decoders import _files
from creditdecoding.decoders.base import BaseDecoder, Decoder
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.options import bounds_text, from_mapping, parse_values, split_spec

_FORMER_ATTRIBUTES = {
    "edits": "can_edit",
    "revokes": "can_remask",
    "shadows": "leave_one_out",
    "ahead": "looks_ahead",
    "dense": "dense_state",
}
"""Class attributes of older decoders, and the fields of `Capabilities` that replaced them."""


def names(controls: bool = False) -> list[str]:
    """Every decoder's name, sorted; with `controls` also those of the controls."""
    return sorted(_module_names(controls))


def _module_names(controls: bool) -> dict[str, str]:
    """The module of every decoder, by the decoder's name."""
    folder = Path(__file__).parent
    modules = {name: f"{__name__}.{name}" for name in _public_modules(folder)}
    del modules["base"], modules["controls"]
    if controls:
        names = _public_modules(folder / "controls")
        modules |= {name: f"{__name__}.controls.{name}" for name in names}
    return modules


def _public_modules(folder: Path) -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return [name for name in modules if not name.startswith("_")]


@functools.cache  # a request names its decoder, and listing the folder takes 0.2 ms
def decoder_class(name: str, controls: bool = True) -> type[Any]:
    """The dataclass of the decoder called `name`: the one its file defines with a `step`. Raises
    `OptionError`.
    """
    modules = _module_names(controls)
    if name not in modules:
        raise unknown_name("decoder", name, sorted(modules))
    module = importlib.import_module(modules[name])
    classes = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and issubclass(value, Decoder)
    ]
    if len(classes) != 1:
        raise OptionError(
            f"the file of decoder {name} must define exactly one decoder",
            given=len(classes),
            allowed="one dataclass with init and step",
            hint="See docs/guide/your-decoder.md.",
        )
    _check_capabilities(classes[0])
    return classes[0]


def _check_capabilities(cls: type[Any]) -> None:
    """Refuse a class that declares what it does by the attributes of older versions alone: nothing
    reads them any more.
    """
    if getattr(cls, "capabilities", BaseDecoder.capabilities) is not BaseDecoder.capabilities:
        return
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    knobs = {field.name for field in fields}
    for former, capability in _FORMER_ATTRIBUTES.items():
        if former not in knobs and getattr(cls, former, None) is True:
            raise OptionError(
                f"{cls.__name__} declares `{former} = True`, which is no longer read",
                allowed=f"capabilities = Capabilities({capability}=True)",
                hint="See docs/guide/your-decoder.md.",
            )


def create(name: str, **knobs: Any) -> Decoder:
    """The decoder called `name` with some knobs changed. Raises `OptionError` on an unknown name,
    knob or bad value.
    """
    cls = decoder_class(name)
    decoder: Decoder = from_mapping(cls, _current_names(cls, knobs))
    return decoder


def _parse(name: str, knobs: Mapping[str, Any], controls: bool) -> Decoder:
    """As `create`, where knobs that are texts become what the decoder declares them to be."""
    cls = decoder_class(name, controls)
    current = _current_names(cls, knobs)
    texts = {knob: value for knob, value in current.items() if isinstance(value, str)}
    decoder: Decoder = from_mapping(cls, {**current, **parse_values(cls, texts)})
    return decoder


def _current_names(cls: type[Any], knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs under the names they have today. Raises `OptionError` where both names are used."""
    renamed = cls.old_knobs if issubclass(cls, BaseDecoder) else {}
    current: dict[str, Any] = {}
    for knob, value in knobs.items():
        name = renamed.get(knob, knob)
        if name in current:
            raise OptionError(
                f"{name} is given twice, once under its former name",
                given=knob,
                hint=f"Give {name} alone.",
            )
        current[name] = value
    return current


def resolve(decoder: Any, controls: bool = True) -> Decoder:
    """A decoder from an object, a name, a text `name:knob=value,knob=value`, or a mapping of "name"
    and knobs. Without `controls` their names are unknown. Raises `OptionError`.
    """
    if isinstance(decoder, Decoder) and not isinstance(decoder, type):
        _check_capabilities(type(decoder))
        return decoder
    if isinstance(decoder, Mapping) and isinstance(decoder.get("name"), str):
        decoder_class(decoder["name"], controls)
        return create(**decoder)
    if not isinstance(decoder, str):
        raise OptionError(
            "not a decoder",
            given=decoder,
            allowed="a name or an object with init and step",
            hint="See docs/guide/your-decoder.md.",
        )
    name, knobs = split_spec(decoder, "decoder")
    return _parse(name, knobs, controls)


def load(decoder: Any, controls: bool = True) -> tuple[Decoder, int | None]:
    """As `resolve`, and also from a file `credit.yaml`, or `credit.yaml:knob=value`; with the block
    size that the file asks for.

    For callers that may read files: what a network client names goes to `resolve`. Raises
    `OptionError`.
    """
    if not isinstance(decoder, str) or not _files.is_file(decoder.partition(":")[0]):
        return resolve(decoder, controls), None
    path, knobs = split_spec(decoder, "decoder")
    return from_settings({**_files.read(path), **knobs}, controls=controls)


def from_settings(
    values: Mapping[str, Any], expected: str | None = None, controls: bool = True
) -> tuple[Decoder, int | None]:
    """Decoder and block size of a mapping with `name`, knobs and `block_size`, all but the name
    optional.

    With `expected` the name may be missing, and must not be another. Raises `OptionError`.
    """
    knobs = dict(values)
    name = knobs.pop("name", expected)
    block_size = knobs.pop("block_size", None)
    if not isinstance(name, str):
        raise OptionError(
            "a decoder file without a name",
            given=name,
            allowed=", ".join(names()),
            hint="Add a line: name: credit",
        )
    if expected is not None and name != expected:
        raise OptionError(
            "the file describes another decoder",
            given=name,
            allowed=expected,
            hint=f"Choose the algorithm of {name}, or another file.",
        )
    if block_size is not None and not (type(block_size) is int and block_size >= 1):
        raise OptionError(
            "block_size is not a number of positions",
            given=block_size,
            allowed="1 <= block_size",
            hint="Change it or leave it out.",
        )
    return _parse(name, knobs, controls), block_size


def export_text(
    decoder: Decoder, format: str, block_size: int | None = None, heading: str = ""
) -> str:
    """The text of a file that `load` (of format text: `resolve`) turns into this decoder. Raises
    `OptionError` for another format.
    """
    values = settings(decoder)
    if block_size is not None and format != "text":
        values["block_size"] = block_size
    return _files.to_text(values, format, heading)


def settings(decoder: Decoder) -> dict[str, Any]:
    """Name and knobs of a decoder, as JSON-ready data."""
    module = type(decoder).__module__
    is_ours = module.startswith(__name__ + ".")
    name = module.rpartition(".")[2] if is_ours else type(decoder).__name__
    if dataclasses.is_dataclass(decoder) and not isinstance(decoder, type):
        return {"name": name, **dataclasses.asdict(decoder)}
    return {"name": name}


def describe(name: str) -> dict[str, Any]:
    """The rule in one sentence and every knob with default, bounds and help: what `credit decoders`
    and the docs show.
    """
    cls = decoder_class(name)
    knobs = [
        {
            "name": field.name,
            "default": field.default,
            "allowed": bounds_text(field),
            "help": field.metadata.get("help", ""),
        }
        for field in dataclasses.fields(cls)
    ]
    first_paragraph = (cls.__doc__ or "").strip().partition("\n\n")[0]
    return {"name": name, "rule": " ".join(first_paragraph.split()), "knobs": knobs}
