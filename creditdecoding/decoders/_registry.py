"""Names and files of decoders, and the classes that they stand for."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from creditdecoding.decoders.base import BaseDecoder, Capabilities, Decoder
from creditdecoding.errors import CreditError, OptionError, prefix_errors, unknown_name
from creditdecoding.options import from_mapping
from creditdecoding.plugins import (
    MODULE_PREFIX,
    Plugin,
    describe_error,
    is_python_file,
    load_file,
    plugins,
    source_digest,
)

GROUP = "creditdecoding.decoders"
"""The entry-point group for decoders of other packages."""

DIGEST = "digest"
"""In settings of a decoder from outside: the digest of its source."""

_PACKAGE = __package__ or ""
_FORMER_ATTRIBUTES = {
    "edits": "can_edit",
    "revokes": "can_remask",
    "shadows": "leave_one_out",
    "ahead": "looks_ahead",
    "dense": "dense_state",
}
"""Class attributes of older decoders, and the fields of `Capabilities` that replaced them."""

_DECLARATIONS = ("capabilities", "sweep", "old_knobs")
_HINT = "See docs/guide/your-decoder.md."


def names(controls: bool = False) -> list[str]:
    """Every decoder's name, sorted; with `controls` also those of the controls."""
    return sorted({*_module_names(controls), *installed()})


def installed() -> dict[str, Plugin]:
    """The decoders of other packages by name."""
    return plugins(GROUP, "decoder", frozenset(_module_names(controls=True)))


@functools.cache
def _module_names(controls: bool) -> dict[str, str]:
    """The module of every decoder of this package, by the decoder's name."""
    folder = Path(__file__).parent
    modules = {name: f"{_PACKAGE}.{name}" for name in _public_modules(folder)}
    del modules["base"], modules["controls"]
    if controls:
        names = _public_modules(folder / "controls")
        modules |= {name: f"{_PACKAGE}.controls.{name}" for name in names}
    return modules


def _public_modules(folder: Path) -> list[str]:
    modules = (module.name for module in pkgutil.iter_modules([str(folder)]))
    return [name for name in modules if not name.startswith("_")]


def decoder_class(name: str, controls: bool = True) -> type[Any]:
    """The dataclass of the decoder called `name`, of this or of an installed package. Raises
    `OptionError`.
    """
    modules = _module_names(controls)
    if name in modules:
        module = importlib.import_module(modules[name])
        return _only_decoder(module, f"the file of decoder {name}")
    if is_python_file(name):
        raise OptionError(
            "a Python file cannot be named here",
            given=name,
            allowed=", ".join(names(controls)),
            hint="Give it on the command line, or in GenerationConfig.",
        )
    if name not in installed():
        raise unknown_name("decoder", name, names(controls))
    return _installed_class(installed()[name])


@functools.cache
def _installed_class(plugin: Plugin) -> type[Any]:
    label = f"the decoder {plugin.entry.name} of the package {plugin.package}"
    loaded = plugin.load()
    if isinstance(loaded, ModuleType):
        return _only_decoder(loaded, label)
    if not isinstance(loaded, type):
        raise OptionError(f"{label} is not a class", given=loaded, hint=_HINT)
    with prefix_errors(label):
        _check_class(loaded)
    return loaded


def file_class(path: str) -> type[Any]:
    """The decoder that a Python file defines. Raises `OptionError`."""
    builtin = _module_names(controls=True)
    if Path(path).stem in builtin:
        raise OptionError(
            "a decoder file has the name of a built-in decoder",
            given=path,
            allowed=f"any name but {', '.join(sorted(builtin))}",
            hint="Rename the file.",
        )
    return _only_decoder(load_file(path, "decoder"), path)


@functools.cache
def _only_decoder(module: ModuleType, label: str) -> type[Any]:
    """The one public class with a `step` that a module defines; a plain class without `__init__`
    becomes a frozen dataclass.
    """
    classes = dict.fromkeys(
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
        and callable(getattr(value, "step", None))
    )
    if len(classes) != 1:
        raise OptionError(
            f"{label} must define exactly one decoder",
            given=", ".join(cls.__name__ for cls in classes) or "none",
            allowed="one dataclass with init and step; names that begin with _ do not count",
            hint=_HINT,
        )
    (cls,) = classes
    if not {"__dataclass_params__", "__init__"} & vars(cls).keys():
        cls = dataclasses.dataclass(frozen=True)(cls)
    with prefix_errors(label):
        _check_class(cls)
    return cls


def _check_class(cls: type[Any]) -> None:
    """Refuse a class that is not a frozen dataclass with valid defaults and capabilities."""
    params: Any = getattr(cls, "__dataclass_params__", None)
    if not dataclasses.is_dataclass(cls) or not params.frozen:
        raise OptionError(
            f"{cls.__name__} is not a frozen dataclass",
            allowed="@dataclass(frozen=True)",
            hint=_HINT,
        )
    for field in dataclasses.fields(cls):
        _check_knob(cls, field)
    if not issubclass(cls, Decoder):
        hint = "Derive the class from BaseDecoder, or add them."
        raise OptionError(f"{cls.__name__} has no init, or no step", hint=hint)
    check_capabilities(cls)
    _check_declaration(build(cls, {}))


def _check_knob(cls: type[Any], field: dataclasses.Field[Any]) -> None:
    if field.name in _DECLARATIONS:
        raise OptionError(
            f"{cls.__name__}.{field.name} is a knob, because it has a type",
            allowed=f"{field.name} = ...",
            hint="Take the type away.",
        )
    if field.default is dataclasses.MISSING:
        raise OptionError(
            f"the knob {field.name} of {cls.__name__} has no default",
            allowed=f"{field.name}: TYPE = option(DEFAULT, HELP)",
            hint=_HINT,
        )


def _check_declaration(decoder: Decoder) -> None:
    """Refuse capabilities that are not `Capabilities`, or exclude each other."""
    name = type(decoder).__name__
    declared = getattr(decoder, "capabilities", Capabilities())
    if not isinstance(declared, Capabilities):
        raise OptionError(
            f"the capabilities of {name} are not Capabilities",
            given=declared,
            allowed="capabilities = Capabilities(can_edit=True), for example",
            hint=_HINT,
        )
    if declared.looks_ahead and declared.can_revise:
        raise OptionError(
            f"{name} declares looks_ahead together with can_edit or can_remask",
            given=declared,
            hint="Choose one.",
        )


def check_capabilities(cls: type[Any]) -> None:
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
                hint=_HINT,
            )


def build(cls: type[Any], knobs: dict[str, Any]) -> Decoder:
    """A decoder of this class. Raises `OptionError`, also where the class raises another error."""
    try:
        decoder: Decoder = from_mapping(cls, knobs)
    except CreditError:
        raise
    except Exception as error:
        what = f"{cls.__name__} cannot be made: {describe_error(error, '')}"
        raise OptionError(what, given=knobs or None, hint=_HINT) from error
    return decoder


def name_of(cls: type[Any]) -> str:
    """The name under which `load` knows a decoder's class; of another class its own name."""
    module = cls.__module__
    if module.startswith(_PACKAGE + "."):
        return module.rpartition(".")[2]
    if module.startswith(MODULE_PREFIX):
        path = Path(str(sys.modules[module].__file__))
        is_below = Path.cwd() in path.parents
        return os.path.relpath(path) if is_below else str(path)
    for name, plugin in installed().items():
        if plugin.entry.module in sys.modules and _stands_for(plugin, cls):
            return name
    return cls.__name__


def _stands_for(plugin: Plugin, cls: type[Any]) -> bool:
    try:
        return _installed_class(plugin) is cls
    except OptionError:
        return False


def origin(cls: type[Any]) -> dict[str, str]:
    """The digest of a decoder's source, for a file or an installed package; else nothing."""
    is_file = cls.__module__.startswith(MODULE_PREFIX)
    if is_file or name_of(cls) in installed():
        return {DIGEST: source_digest(cls.__module__)}
    return {}


def check_origin(cls: type[Any], digest: Any) -> None:
    """Refuse a decoder whose source is no longer that of the digest. Raises `OptionError`."""
    current = origin(cls).get(DIGEST)
    if digest != current:
        raise OptionError(
            f"the decoder {name_of(cls)} has changed since these settings were written",
            given=f"digest {digest}",
            allowed=str(current),
            hint="Restore it, or take the digest out of the settings.",
        )
