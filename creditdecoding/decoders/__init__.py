"""The decoders by name. A decoder's name is its file's name: put a file here and it is known to
every command. Files in `controls` are ablations for comparisons; only callers that ask for them see
them. Decoders of other packages have the names of their entry points; `load` also reads Python
files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any

from creditdecoding.decoders import _files
from creditdecoding.decoders._live_blocks import LiveBlockOptions, LiveBlocks
from creditdecoding.decoders._registry import (
    DIGEST,
    build,
    check_capabilities,
    check_origin,
    decoder_class,
    file_class,
    name_of,
    names,
    origin,
)
from creditdecoding.decoders.base import BaseDecoder, Decoder
from creditdecoding.errors import OptionError
from creditdecoding.options import bounds_text, parse_values, split_spec
from creditdecoding.plugins import is_python_file

__all__ = [
    "class_of",
    "create",
    "decoder_class",
    "describe",
    "export_text",
    "from_file",
    "from_settings",
    "load",
    "names",
    "origins",
    "resolve",
    "settings",
    "shared_knobs",
]


VOCAB_PARALLEL = "vocab_parallel"
"""A key of a decoder's file that is for SGLang alone: docs/guide/sglang.md."""


def create(name: str, **knobs: Any) -> Decoder:
    """The decoder called `name` with some knobs changed. Raises `OptionError` on an unknown name,
    knob or bad value.
    """
    cls = decoder_class(name)
    return _build(cls, _current_names(cls, knobs))


def _parse(cls: type[Any], knobs: Mapping[str, Any]) -> Decoder:
    """As `create`, where knobs that are texts become what the decoder declares them to be."""
    current = _current_names(cls, knobs)
    parsed: dict[str, Any] = {}
    for owner in (cls, LiveBlockOptions):
        names_of_owner = {field.name for field in dataclasses.fields(owner)}
        own = {knob: value for knob, value in current.items() if knob in names_of_owner}
        texts = {knob: value for knob, value in own.items() if isinstance(value, str)}
        parsed |= parse_values(owner, texts)
    return _build(cls, {**current, **parsed})


def _build(cls: type[Any], knobs: Mapping[str, Any]) -> Decoder:
    """A decoder from knobs with today's names; with `live_blocks` above 1 it runs in several blocks
    at a time.
    """
    own = {field.name for field in dataclasses.fields(cls)}
    shared = {field.name for field in dataclasses.fields(LiveBlockOptions)} - own
    rule = build(cls, {knob: value for knob, value in knobs.items() if knob not in shared})
    window = {knob: value for knob, value in knobs.items() if knob in shared}
    if "open_share" in window and "live_blocks" not in window:
        raise OptionError(
            "open_share without live_blocks changes nothing",
            given=window["open_share"],
            hint="Give live_blocks too, for example live_blocks=2.",
        )
    options = LiveBlockOptions(**window)
    return rule if options.live_blocks == 1 else LiveBlocks(rule, options)


def class_of(name: str, controls: bool = True) -> type[Any]:
    """The class of a decoder's name, or of a Python file. Raises `OptionError`."""
    return file_class(name) if is_python_file(name) else decoder_class(name, controls)


def _current_names(cls: type[Any], knobs: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs under the names they have today. Raises `OptionError` where both names are used,
    and for the digest of another source.
    """
    renamed = cls.old_knobs if issubclass(cls, BaseDecoder) else {}
    current: dict[str, Any] = {}
    knobs = dict(knobs)
    if DIGEST in knobs and origin(cls):
        check_origin(cls, knobs.pop(DIGEST))
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
    and knobs. Without `controls` their names are unknown; files are not read. Raises `OptionError`.
    """
    if isinstance(decoder, Decoder) and not isinstance(decoder, type):
        check_capabilities(type(decoder))
        return decoder
    if isinstance(decoder, Mapping) and isinstance(decoder.get("name"), str):
        decoder_class(decoder["name"], controls)
        return create(**decoder)
    if not isinstance(decoder, str):
        raise OptionError(
            "not a decoder",
            given=decoder,
            allowed='a name, {"name": NAME, knob: value} or an object with init and step',
            hint="See docs/guide/your-decoder.md.",
        )
    name, knobs = split_spec(decoder, "decoder")
    return _parse(decoder_class(name, controls), knobs)


def load(decoder: Any, controls: bool = True) -> tuple[Decoder, int | None]:
    """As `resolve`, and also from a file: `mine.py` with a decoder's class, or settings
    `credit.yaml`; both also with `:knob=value`. With the block size that the settings ask for.

    For callers that may read files: what a network client names goes to `resolve`. Raises
    `OptionError`.
    """
    if isinstance(decoder, os.PathLike):
        decoder = os.fspath(decoder)
    if isinstance(decoder, Mapping) and is_python_file(decoder.get("name")):
        return from_settings(decoder)
    if not isinstance(decoder, str):
        return resolve(decoder, controls), None
    name, knobs = split_spec(decoder, "decoder")
    if is_python_file(name):
        return from_file(name, knobs), None
    if _files.is_file(name):
        return from_settings({**_files.read(name), **knobs}, controls=controls)
    return resolve(decoder, controls), None


def from_file(path: str, knobs: Mapping[str, Any]) -> Decoder:
    """The decoder of a Python file with some knobs changed. Raises `OptionError`."""
    return _parse(file_class(path), knobs)


def from_settings(
    values: Mapping[str, Any], expected: str | None = None, controls: bool = True
) -> tuple[Decoder, int | None]:
    """Decoder and block size of a mapping with `name`, knobs, `block_size` and `vocab_parallel`,
    all but the name optional.

    With `expected` the name may be missing, and must not be another. Raises `OptionError`.
    """
    knobs = dict(values)
    name = knobs.pop("name", expected)
    block_size = knobs.pop("block_size", None)
    is_vocab_parallel = knobs.pop(VOCAB_PARALLEL, False)
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
    if not isinstance(is_vocab_parallel, bool):
        raise OptionError(
            f"{VOCAB_PARALLEL} is neither true nor false",
            given=is_vocab_parallel,
            allowed="true, false",
            hint="Change it or leave it out.",
        )
    return _parse(class_of(name, controls), knobs), block_size


def export_text(
    decoder: Decoder, format: str, block_size: int | None = None, heading: str = ""
) -> str:
    """The text of a file that `load` (of format text: `resolve`) turns into this decoder. Raises
    `OptionError` for another format.
    """
    values = settings(decoder)
    if is_python_file(values["name"]):
        values["name"] = os.path.abspath(values["name"])
    if block_size is not None and format != "text":
        values["block_size"] = block_size
    return _files.to_text(values, format, heading)


def settings(decoder: Decoder) -> dict[str, Any]:
    """Name and knobs of a decoder, as JSON-ready data; of one from outside also the digest of its
    source.
    """
    if isinstance(decoder, LiveBlocks):
        return {**settings(decoder.rule), **dataclasses.asdict(decoder.options)}
    cls = type(decoder)
    if dataclasses.is_dataclass(decoder) and not isinstance(decoder, type):
        return {"name": name_of(cls), **dataclasses.asdict(decoder), **origin(cls)}
    return {"name": name_of(cls)}


def origins(specs: Iterable[Any]) -> dict[str, str]:
    """The digests of the decoders from outside among some specs, by name."""
    rules = (load(spec)[0] for spec in specs)
    classes = {type(rule.rule if isinstance(rule, LiveBlocks) else rule) for rule in rules}
    return {name_of(cls): origin(cls)[DIGEST] for cls in classes if origin(cls)}


def describe(name: str) -> dict[str, Any]:
    """The rule in one sentence and every knob with default, bounds and help: what `credit decoders`
    and the docs show.
    """
    cls = class_of(name)
    knobs = [_describe_knob(field) for field in dataclasses.fields(cls)]
    first_paragraph = (cls.__doc__ or "").strip().partition("\n\n")[0]
    return {"name": name, "rule": " ".join(first_paragraph.split()), "knobs": knobs}


def shared_knobs(name: str) -> list[dict[str, Any]]:
    """The knobs that a rule takes besides its own, described as its own are: those of several live
    blocks. None where its defaults do not allow them.
    """
    cls = class_of(name)
    try:
        LiveBlocks(build(cls, {}), LiveBlockOptions(live_blocks=2))
    except OptionError:
        return []
    own = {field.name for field in dataclasses.fields(cls)}
    fields = dataclasses.fields(LiveBlockOptions)
    return [_describe_knob(field) for field in fields if field.name not in own]


def _describe_knob(field: dataclasses.Field[Any]) -> dict[str, Any]:
    return {
        "name": field.name,
        "default": field.default,
        "allowed": bounds_text(field),
        "help": field.metadata.get("help", ""),
    }
