"""Holds the package's source to its architecture: imports go down only, files and functions stay
short.

Reads syntax trees and imports nothing of the package. The layers, from top to bottom, are `LAYERS`;
a new module must be placed there.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it along

ROOT = Path(__file__).parents[2]
PACKAGE = "creditdecoding"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("cli",),
    ("integrations",),
    ("batch",),
    ("server",),
    ("pav",),
    ("eval", "train", "plots"),
    ("viewer",),
    ("likelihood", "choice_scores", "fingerprint", "bases", "description"),
    ("lm",),
    ("decoding",),
    ("models", "decoders", "text"),
    ("ops", "trace", "checkpoint", "tasks", "constraints"),
    ("bootstrap", "hub", "run_dir", "config", "child_processes", "trace_svg", "plugins"),
    ("options",),
    ("errors", "version", "wording"),
)
HEIGHT = {name: len(LAYERS) - i for i, layer in enumerate(LAYERS) for name in layer}
FACADES = (
    "__init__",
    "__main__",
)  # of the package itself: they import from anywhere and nothing imports them
MAY_IMPORT_LATE = ("cli",)
# Importing these takes 0.2 to 0.7 s, which most commands need not wait for.
MAY_BE_IMPORTED_LATE = ("transformers", "creditdecoding.hub")
FILE_LINES, FUNCTION_LINES = 500, 110


@dataclass(frozen=True)
class Source:
    """A file: its place below the package as dotted parts, whether that is a package's __init__,
    and its text.
    """

    parts: tuple[str, ...]
    is_package: bool
    text: str

    @property
    def unit(self) -> str:
        """What has a place in the layers: the top-level module or package that the file belongs to."""
        return self.parts[0] if self.parts else "__init__"

    @property
    def label(self) -> str:
        """How the file is named in a report."""
        inner = (*self.parts, "__init__") if self.is_package else self.parts
        return "/".join((PACKAGE, *inner)) + ".py"


@dataclass(frozen=True)
class Import:
    """One imported module with full dotted name, the line, and whether it happens inside a
    function.
    """

    target: str
    line: int
    late: bool


def sources() -> list[Source]:
    """Every Python file of the package."""
    modules = []
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        modules.append(
            Source(
                parts[:-1] if is_package else parts, is_package, path.read_text(encoding="utf-8")
            )
        )
    return modules


def imports(source: Source) -> Iterator[Import]:
    """Every import of a file; `from a import b` counts as `a.b`, of which the layers look at no
    more than they need.
    """

    def walk(node: ast.AST, late: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, late) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from (
                    Import(f"{base(child)}.{alias.name}", child.lineno, late)
                    for alias in child.names
                )
            yield from walk(
                child,
                late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)),
            )

    def base(node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        here = (PACKAGE, *source.parts)
        up = here[: len(here) - node.level + source.is_package]
        return ".".join((*up, *([node.module] if node.module else [])))

    yield from walk(ast.parse(source.text), False)


def unit_of(name: str, label: str) -> tuple[int, str]:
    """Height of a top-level module, and a complaint if it has none."""
    if name in FACADES:
        return len(LAYERS) + 1, ""
    if name not in HEIGHT:
        return (
            0,
            f"{label}: {PACKAGE}.{name} is in no layer; place it in LAYERS of tests/project/test_layers.py",
        )
    return HEIGHT[name], ""


def complaints(source: Source, units: set[str]) -> list[str]:
    """What is wrong with the imports of one file; `units` are the package's top-level modules."""
    height, unplaced = unit_of(source.unit, source.label)
    problems = [unplaced] if unplaced else []
    for item in imports(source):
        where = f"{source.label}:{item.line}"
        heavy = item.target.startswith(MAY_BE_IMPORTED_LATE)
        if item.late and source.unit not in MAY_IMPORT_LATE and not heavy:
            problems.append(
                f"{where}: import of {item.target} inside a function; move it to the top of the file"
            )
        first, *rest = item.target.split(".")
        if first != PACKAGE:
            continue
        target = (
            rest[0] if rest and (rest[0] in units or rest[0] in HEIGHT) else "__init__"
        )  # a name of the facade comes from the facade
        if target == source.unit or source.unit in FACADES or unplaced:
            continue
        other, unknown = unit_of(target, where)
        if unknown:
            problems.append(unknown)
        elif other >= height:
            way = "up" if other > height else "sideways"
            shown = PACKAGE if target == "__init__" else f"{PACKAGE}.{target}"
            problems.append(
                f"{where}: {PACKAGE}.{source.unit} imports {way} from {shown}; imports go down only"
            )
    return problems


def all_complaints(files: list[Source]) -> list[str]:
    """What is wrong with the imports of all files."""
    units = {source.unit for source in files}
    return [text for source in files for text in complaints(source, units)]


def optional_modules(pyproject: str) -> set[str]:
    """Import names of the optional dependencies, those of developers left out."""
    extras: dict[str, list[str]] = tomllib.loads(pyproject)["project"]["optional-dependencies"]
    names = {
        re.split(r"[^A-Za-z0-9._-]", text)[0]
        for extra, listed in extras.items()
        if extra != "dev"
        for text in listed
    }
    return {name.replace("-", "_").lower() for name in names} - {PACKAGE}


def importers(files: list[Source], modules: set[str]) -> dict[str, list[str]]:
    """Which rooms of the package import each of `modules`."""
    rooms: dict[str, set[str]] = {name: set() for name in modules}
    for source in files:
        for item in imports(source):
            top = item.target.split(".")[0]
            if top in rooms:
                rooms[top].add(source.unit)
    return {name: sorted(units) for name, units in rooms.items()}


def too_long(files: list[Source]) -> list[str]:
    """Files and functions beyond the limits, with their lengths."""
    long_code = []
    for source in files:
        lines = len(source.text.splitlines())
        if lines > FILE_LINES:
            long_code.append(f"{source.label}: {lines} lines, at most {FILE_LINES}")
        for node in ast.walk(ast.parse(source.text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (
                    (node.end_lineno or node.lineno)
                    - min([node.lineno, *(d.lineno for d in node.decorator_list)])
                    + 1
                )
                if length > FUNCTION_LINES:
                    long_code.append(
                        f"{source.label}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"
                    )
    return long_code


def test_imports_go_down_only() -> None:
    problems = all_complaints(sources())
    assert not problems, "\n" + "\n".join(problems)


def test_an_optional_dependency_is_imported_by_one_room() -> None:
    modules = optional_modules((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert (
        {"matplotlib", "torchao"} <= modules and "pytest" not in modules and "ruff" not in modules
    )
    importers_of = {
        name: where for name, where in importers(sources(), modules).items() if len(where) > 1
    }
    assert not importers_of, f"\nimported by more than one room: {importers_of}"


def test_files_and_functions_are_short() -> None:
    long_code = too_long(sources())
    assert not long_code, "\n" + "\n".join(long_code)


def test_every_file_says_what_it_is_for() -> None:
    undescribed = [
        source.label
        for source in sources()
        if source.text.strip() and not ast.get_docstring(ast.parse(source.text))
    ]
    assert not undescribed, f"no docstring at the head of {undescribed}"


def source(path: str, text: str) -> Source:
    """A made-up file; `path` is its path below the package."""
    parts = tuple(path.split("/"))
    is_package = parts[-1] == "__init__"
    return Source(parts[:-1] if is_package else parts, is_package, text)


UNITS = {*HEIGHT, "__init__"}
BAD = [
    (
        "ops/vocab_stats",
        "from creditdecoding.decoders.base import Decoder",
        "imports up from creditdecoding.decoders",
    ),
    ("errors", "import creditdecoding.config", "imports up from creditdecoding.config"),
    ("errors", "import creditdecoding.config as c, os", "imports up from creditdecoding.config"),
    (
        "models/families/llada",
        "from creditdecoding.text.tokenizer import Tokenizer",
        "imports sideways from creditdecoding.text",
    ),
    (
        "decoders/credit",
        "from creditdecoding import models",
        "imports sideways from creditdecoding.models",
    ),
    (
        "decoders/credit",
        "from ..models import weights",
        "imports sideways from creditdecoding.models",
    ),
    (
        "decoders/__init__",
        "from ..models import weights",
        "imports sideways from creditdecoding.models",
    ),
    ("decoders/__init__", "from .. import lm", "imports up from creditdecoding.lm"),
    ("trace", "from . import lm", "imports up from creditdecoding.lm"),
    ("trace", "from .checkpoint import locate", "imports sideways from creditdecoding.checkpoint"),
    (
        "viewer/html",
        "from creditdecoding.eval.evaluate import evaluate",
        "imports up from creditdecoding.eval",
    ),
    ("eval/runner", "from creditdecoding import load", "imports up from creditdecoding;"),
    ("cli", "import creditdecoding", "imports up from creditdecoding;"),
    (
        "trace",
        "if True:\n    try:\n        import creditdecoding.lm\n    except ImportError:\n        pass",
        "imports up from creditdecoding.lm",
    ),
    (
        "lm",
        "class A:\n    from creditdecoding.cli import main",
        "imports up from creditdecoding.cli",
    ),
    ("lm", "def f():\n    import json", "import of json inside a function"),
    (
        "lm",
        "class A:\n    async def f(self):\n        if self:\n            from os import path",
        "import of os.path inside a function",
    ),
    (
        "decoding/step",
        "def f():\n    from creditdecoding.lm import load",
        "imports up from creditdecoding.lm",
    ),
    ("decoding/step", "def f():\n    from creditdecoding.lm import load", "inside a function"),
    ("cli", "def f():\n    from creditdecoding import load", "imports up from creditdecoding;"),
    ("utils", "x = 1", "creditdecoding.utils is in no layer; place it in LAYERS"),
    ("utils/deep/er", "x = 1", "creditdecoding.utils is in no layer; place it in LAYERS"),
]
GOOD = [
    ("text/tokenizer", "def f():\n    from transformers import Qwen2Tokenizer"),
    ("checkpoint", "def f():\n    from creditdecoding.hub import download"),
    ("cli", "def f():\n    from creditdecoding.lm import load\n    import rich"),
    (
        "models/__init__",
        "from .families.llada import RENAME\nfrom . import weights\nfrom ..config import ModelConfig",
    ),
    (
        "models/weights",
        "from creditdecoding.models.transformer import Transformer\nfrom creditdecoding import errors",
    ),
    ("eval/runner", "from creditdecoding.lm import LM\nfrom creditdecoding.tasks.base import Item"),
    (
        "__init__",
        "from creditdecoding.cli import main\nfrom creditdecoding.errors import CreditError",
    ),
    ("__main__", "from creditdecoding.cli import main"),
    (
        "errors",
        "import difflib\nfrom creditdecoding_extras import config\n'import creditdecoding.lm'",
    ),
    ("train/loop", "try:\n    import matplotlib\nexcept ImportError:\n    pass"),
]


@pytest.mark.parametrize(("path", "text", "complaint"), BAD)
def test_a_bad_import_is_caught(path: str, text: str, complaint: str) -> None:
    problems = complaints(source(path, text), UNITS)
    assert any(complaint in line for line in problems), problems
    assert all(line.startswith(source(path, text).label) for line in problems)


@pytest.mark.parametrize(("path", "text"), GOOD)
def test_a_good_import_is_let_through(path: str, text: str) -> None:
    assert complaints(source(path, text), UNITS) == []


def test_a_new_module_must_be_placed_even_if_another_imports_it() -> None:
    problems = all_complaints(
        [source("lm", "from creditdecoding.utils import helper"), source("utils", "helper = 1")]
    )
    assert len(problems) == 2 and all(
        "creditdecoding.utils is in no layer; place it in LAYERS" in line for line in problems
    )


def test_a_second_importer_and_long_code_are_caught() -> None:
    files = [
        source("plots/trace", "import matplotlib.pyplot as plt"),
        source("train/loop", "from matplotlib import figure"),
        source("lm", "import torch"),
    ]
    assert importers(files, {"matplotlib", "tokenizers"}) == {
        "matplotlib": ["plots", "train"],
        "tokenizers": [],
    }
    body = "\n".join(f"        x{i} = {i}" for i in range(FUNCTION_LINES))
    long = source("lm", f"class A:\n    @property\n    def f(self):\n{body}\n" + "\n" * FILE_LINES)
    assert too_long([long]) == [
        f"creditdecoding/lm.py: {FUNCTION_LINES + 3 + FILE_LINES} lines, at most {FILE_LINES}",
        f"creditdecoding/lm.py:3: f has {FUNCTION_LINES + 2} lines, at most {FUNCTION_LINES}",
    ]


def test_optional_dependencies_are_read_by_import_name() -> None:
    text = '[project.optional-dependencies]\neval = ["math-verify>=0.7"]\nserver = ["FastAPI[all]>=0.1; python_version>\'3\'"]\n'
    text += 'dev = ["creditdecoding[eval]", "pytest"]\nall = ["creditdecoding[eval,server]"]\n'
    assert optional_modules(text) == {"math_verify", "fastapi"}


def test_the_test_sees_the_package() -> None:
    labels = {file.label for file in sources()}
    assert {
        f"{PACKAGE}/__init__.py",
        f"{PACKAGE}/lm.py",
        f"{PACKAGE}/models/families/llada.py",
        f"{PACKAGE}/models/__init__.py",
    } <= labels


def module_name(source: Source) -> str:
    """The dotted name of a file's module."""
    return ".".join((PACKAGE, *source.parts))


def circles(files: list[Source]) -> list[list[str]]:
    """Modules that import each other, directly or through others; imports for types count too."""
    modules = {module_name(source) for source in files}
    graph = TopologicalSorter[str]()
    for source in files:
        name = module_name(source)
        for item in imports(source):
            target = item.target if item.target in modules else item.target.rpartition(".")[0]
            if target in modules and target != name and source.unit not in FACADES:
                graph.add(name, target)
    try:
        graph.prepare()
    except CycleError as error:
        return [error.args[1]]
    return []


def test_no_modules_import_each_other() -> None:
    assert circles(sources()) == []


def test_a_circle_is_found() -> None:
    first = source("eval/grid", "from creditdecoding.eval.compare import run")
    second = source("eval/compare", "from creditdecoding.eval import grid")
    (circle,) = circles([first, second])
    assert {f"{PACKAGE}.eval.grid", f"{PACKAGE}.eval.compare"} == set(circle)
