"""Stands in for modules of an engine that need a GPU, or load much that a test of decisions does
not use: every name in them is a class that accepts what is done with it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class StandInType(type):
    """Classes that accept every call, attribute and index; as a decorator they return the function.
    Subclasses are classes like any other.
    """

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in_class(name)

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        if "is_stand_in" not in cls.__dict__:
            return super().__call__(*arguments, **named)
        decorates = len(arguments) == 1 and not named and callable(arguments[0])
        return arguments[0] if decorates else cls

    def __getitem__(cls, index: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return object

    __ror__ = __or__

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __bool__(cls) -> bool:
        return False


def stand_in_class(name: str) -> Any:
    """A class of that name that stands in for anything."""
    return StandInType(name, (), {"is_stand_in": True})


class StandInModule(ModuleType):
    """A module in which every name is a class that stands in."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = stand_in_class(name)
        setattr(self, name, value)
        return value


class StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules `tops` and all below them empty, but for those named in `real`."""

    def __init__(self, folder: Path, tops: Sequence[str], real: Sequence[str] = ()) -> None:
        self.folder = folder
        self.tops = tuple(tops)
        self.real = tuple(real)

    def install(self) -> None:
        """Look here first, after torch has looked for triton."""
        import torch.utils._triton as known  # noqa: PLC0415

        known.has_triton_package()
        known.has_triton()
        sys.meta_path.insert(0, self)

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        stands_in = any(name == top or name.startswith(f"{top}.") for top in self.tops)
        if not stands_in or name in self.real:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return StandInModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = [str(self.folder.joinpath(*module.__name__.split(".")))]
