"""The decoders. A decoder's name is its file's name: put a file here and it is known everywhere."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from creditdecoding.decoders import _file
from creditdecoding.decoders.base import Decoder
from creditdecoding.errors import OptionError, unknown_name
from creditdecoding.options import bounds_text, from_mapping, parse_values, split_spec


def names() -> list[str]:
    """Every decoder there is, sorted: the files of this folder and of controls/, but base.py and
    those that begin with an underscore.
    """
    return sorted(_modules())


def _modules() -> dict[str, str]:
    """The module of every decoder, by the decoder's name."""
    folder = Path(__file__).parent
    rules = {
        name: f"{__name__}.{name}" for name in _files(folder) if name not in ("base", "controls")
    }
    controls = {name: f"{__name__}.controls.{name}" for name in _files(folder / "controls")}
    return {**rules, **controls}


def _files(folder: Path) -> list[str]:
    """The public modules of a folder."""
    return [
        module.name
        for module in pkgutil.iter_modules([str(folder)])
        if not module.name.startswith("_")
    ]


def decoder_class(name: str) -> type[Any]:
    """The dataclass of the decoder called `name`: the one its file defines with an `init` and a
    `step`. Raises `OptionError`.
    """
    modules = _modules()
    if name not in modules:
        raise unknown_name("decoder", name, sorted(modules))
    module = importlib.import_module(modules[name])
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and dataclasses.is_dataclass(value)
        and issubclass(value, Decoder)
    ]
    if len(found) != 1:
        raise OptionError(
            f"the file of decoder {name} must define exactly one decoder",
            given=len(found),
            allowed="one dataclass with init and step",
            hint="See docs/adding-a-decoder.md.",
        )
    return found[0]


def create(name: str, **knobs: Any) -> Decoder:
    """The decoder called `name` with some knobs changed. Raises `OptionError` on an unknown name,
    knob or bad value.
    """
    made: Decoder = from_mapping(decoder_class(name), knobs)
    return made


def resolve(given: Any) -> Decoder:
    """A decoder from an object, a name, a text `name:knob=value,knob=value`, or a mapping of "name"
    and knobs. Raises `OptionError`.
    """
    if isinstance(given, Decoder) and not isinstance(given, type):
        return given
    if isinstance(given, Mapping) and isinstance(given.get("name"), str):
        return create(**given)
    if not isinstance(given, str):
        raise OptionError(
            "not a decoder",
            given=given,
            allowed="a name or an object with init and step",
            hint="See docs/adding-a-decoder.md.",
        )
    name, knobs = split_spec(given, "decoder")
    return create(name, **parse_values(decoder_class(name), knobs))


def load(given: Any) -> tuple[Decoder, int | None]:
    """As `resolve`, and also from a file `credit.yaml`, or `credit.yaml:knob=value`; with the block
    size that the file asks for.

    For callers who may read files: what a network client names goes to `resolve`. Raises
    `OptionError`.
    """
    if not isinstance(given, str) or not _file.is_file(given.partition(":")[0]):
        return resolve(given), None
    path, knobs = split_spec(given, "decoder")
    return from_settings({**_file.read(path), **knobs})


def from_settings(values: Mapping[str, Any], rule: str | None = None) -> tuple[Decoder, int | None]:
    """Decoder and block size of a mapping with `name`, knobs and `block_size`, all but the name
    optional.

    With `rule` given the name may be missing, and must not be another. Raises `OptionError`.
    """
    knobs = dict(values)
    name = knobs.pop("name", rule)
    size = knobs.pop("block_size", None)
    if not isinstance(name, str):
        raise OptionError(
            "a decoder file without a name",
            given=name,
            allowed=", ".join(names()),
            hint="Add a line: name: credit",
        )
    if rule is not None and name != rule:
        raise OptionError(
            "the file describes another decoder",
            given=name,
            allowed=rule,
            hint=f"Choose the algorithm of {name}, or another file.",
        )
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise OptionError(
            "block_size is not a number of positions",
            given=size,
            allowed="1 <= block_size",
            hint="Change it or leave it out.",
        )
    written = {key: value for key, value in knobs.items() if isinstance(value, str)}
    return create(name, **{**knobs, **parse_values(decoder_class(name), written)}), size


def export_text(
    decoder: Decoder, format: str, block_size: int | None = None, heading: str = ""
) -> str:
    """The text of a file that `load` (of format text: `resolve`) turns into this decoder. Raises
    `OptionError` for another format.
    """
    size = {} if block_size is None or format == "text" else {"block_size": block_size}
    return _file.text({**settings(decoder), **size}, format, heading)


def settings(decoder: Decoder) -> dict[str, Any]:
    """Name and knobs of a decoder, as JSON-ready data."""
    knobs: dict[str, Any] = (
        dataclasses.asdict(decoder)
        if dataclasses.is_dataclass(decoder) and not isinstance(decoder, type)
        else {}
    )
    module = type(decoder).__module__
    name = module.rsplit(".", 1)[1] if module.startswith(__name__ + ".") else type(decoder).__name__
    return {"name": name, **knobs}


def describe(name: str) -> dict[str, Any]:
    """Rule in one line and every knob with default, bounds and help: what `credit decoders` and the
    docs show.
    """
    cls = decoder_class(name)
    knobs = [
        {
            "name": f.name,
            "default": f.default,
            "allowed": bounds_text(f),
            "help": f.metadata.get("help", ""),
        }
        for f in dataclasses.fields(cls)
    ]
    return {"name": name, "rule": (cls.__doc__ or "").strip().splitlines()[0], "knobs": knobs}
