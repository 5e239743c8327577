"""Decoders and tasks from outside of this package: Python files, and entry points of installed
packages.

A file is run once for each content. A broken package breaks only what is named from it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import logging
import re
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from creditdecoding.errors import OptionError

PYTHON = ".py"
MODULE_PREFIX = "creditdecoding_file_"
DIGEST_SIZE = 8
_DIGEST = "__source_digest__"

logger = logging.getLogger(__name__)


def is_python_file(name: object) -> bool:
    """Whether a name is that of a Python file."""
    return isinstance(name, str) and name.lower().endswith(PYTHON)


def load_file(path: str, noun: str) -> ModuleType:
    """The module that a Python file defines; `noun` is what it should hold.

    Raises `OptionError` if the file cannot be read, or raises an exception.
    """
    file = Path(path).expanduser()
    try:
        source = file.read_bytes()
    except FileNotFoundError as error:
        raise OptionError(
            f"there is no such {noun} file",
            given=path,
            hint=f"Check the path; relative paths begin in {Path.cwd()}.",
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"the {noun} file cannot be read ({reason})", given=path, hint="Give a Python file."
        ) from error
    return _run_source(str(file.resolve()), source, noun)


@functools.cache
def _run_source(path: str, source: bytes, noun: str) -> ModuleType:
    """Run a file's source as a new module. Nothing is written beside the file."""
    module = ModuleType(MODULE_PREFIX + _digest(path.encode() + b"\0" + source))
    module.__file__ = path
    setattr(module, _DIGEST, _digest(source))
    sys.modules[module.__name__] = module  # dataclasses look there for their annotations
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        is_missing = isinstance(error, ModuleNotFoundError)
        hint = "Install it: the folder of the file is not searched." if is_missing else "Mend it."
        raise OptionError(
            f"the {noun} file cannot be imported: {describe_error(error, path)}", hint=hint
        ) from error
    return module


def load_function(name: str, noun: str) -> Callable[..., Any]:
    """The function that a text `module:function` names; `noun` is what it is for.

    Raises `OptionError` if the module cannot be imported, or has no such function.
    """
    form = re.fullmatch(r"([\w.]+):([\w.]+)", name)
    if form is None:
        raise OptionError(
            f"the {noun} is not named as a function",
            given=name,
            allowed="module:function",
            hint="Write it as my_package.my_module:my_function.",
        )
    try:
        function = functools.reduce(getattr, form[2].split("."), importlib.import_module(form[1]))
    except (Exception, SystemExit) as error:
        raise OptionError(
            f"the {noun} cannot be loaded: {describe_error(error, '')}",
            given=name,
            allowed="module:function of a module that Python finds here",
            hint="Correct the name, or install the module.",
        ) from error
    if not callable(function):
        raise OptionError(
            f"the {noun} cannot be called",
            given=name,
            allowed="module:function",
            hint=f"It is a {type(function).__name__}: name a function.",
        )
    return function


def describe_error(error: BaseException, path: str) -> str:
    """Type and message of an error, with the last line of the file `path` that it came through."""
    message = f"{type(error).__name__}: {error}".rstrip(": ")
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and Path(__file__) != Path(frame.filename)
    ]
    frames = [frame for frame in frames if frame.filename == path] or frames
    return f"{message} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else message


def _digest(source: bytes) -> str:
    return hashlib.blake2b(source, digest_size=DIGEST_SIZE).hexdigest()


def file_digest(path: Path) -> str:
    """A digest of a file's content."""
    return _digest(path.read_bytes())


@functools.cache
def source_digest(module_name: str) -> str:
    """A digest of a loaded module's source; empty if it has none."""
    module = sys.modules[module_name]
    if hasattr(module, _DIGEST):
        return str(getattr(module, _DIGEST))
    try:
        return file_digest(Path(inspect.getsourcefile(module) or ""))
    except (OSError, TypeError):
        return ""


@dataclass(frozen=True)
class Plugin:
    """What an installed package adds under a name."""

    entry: EntryPoint
    noun: str

    @property
    def package(self) -> str:
        """Name and version of the distribution."""
        distribution = self.entry.dist
        return f"{distribution.name} {distribution.version}" if distribution else "unknown"

    def load(self) -> Any:
        """The object that the entry point names. Raises `OptionError` with the package's name."""
        try:
            return self.entry.load()
        except (Exception, SystemExit) as error:
            raise OptionError(
                f"the {self.noun} {self.entry.name} of the package {self.package} cannot be "
                f"loaded: {describe_error(error, '')}",
                hint="Update or uninstall the package.",
            ) from error


@functools.cache
def plugins(group: str, noun: str, taken: frozenset[str]) -> dict[str, Plugin]:
    """What installed packages add in an entry-point group, by name. Nothing is imported.

    Names that are `taken` by this package, or used by several packages, are left out with a
    warning.
    """
    installed = [Plugin(entry, noun) for entry in entry_points(group=group)]
    counts = Counter(plugin.entry.name for plugin in installed)
    usable: dict[str, Plugin] = {}
    for plugin in installed:
        name = plugin.entry.name
        if name in taken:
            _warn_unused(plugin, "this is a built-in name")
        elif counts[name] > 1:
            _warn_unused(plugin, "several packages have this name")
        elif not re.fullmatch(r"[\w-]+", name):
            _warn_unused(plugin, "a name may only have letters, digits, _ and -")
        else:
            usable[name] = plugin
    return usable


def _warn_unused(plugin: Plugin, reason: str) -> None:
    logger.warning(
        "the %s %s of the package %s is not used: %s",
        plugin.noun,
        plugin.entry.name,
        plugin.package,
        reason,
    )
