"""Measures how dense the package's code is: `python -m tools.density [--functions] [FOLDER]`.

A token is a name, an operator or a number; strings and comments do not count. Lines are those that
are not blank, docstrings and comments among them.
"""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
COUNTED = (tokenize.NAME, tokenize.OP, tokenize.NUMBER)
MOST_COLUMNS = 100
MOST_TOKENS = 250
MOST_PACKED = 2
VAGUE_NAMES = frozenset(
    ("asked", "at", "chosen", "each", "found", "given", "mine", "place", "said", "theirs", "told")
) | {"wanted"}
"""Names that do not say what they hold."""


@dataclass(frozen=True)
class Function:
    """A function with the number of its tokens, decorators and signature among them."""

    path: str
    line: int
    name: str
    tokens: int


@dataclass
class Density:
    """What is measured of a set of files; it grows file by file."""

    tokens: int = 0
    lines: int = 0
    long_lines: list[str] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    nested_conditionals: list[str] = field(default_factory=list)
    packed_assignments: list[str] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)

    @property
    def tokens_a_line(self) -> float:
        """Tokens over lines that are not blank."""
        return self.tokens / max(self.lines, 1)

    @property
    def large_functions(self) -> list[Function]:
        """Functions of more than MOST_TOKENS tokens, the largest first."""
        large = [function for function in self.functions if function.tokens > MOST_TOKENS]
        return sorted(large, key=lambda function: -function.tokens)

    @property
    def repeated_classes(self) -> list[str]:
        """Names that more than one top-level class has."""
        return sorted(name for name, count in self.classes.items() if count > 1)


def token_lines(text: str) -> list[int]:
    """The line of each token that counts."""
    stream = tokenize.generate_tokens(io.StringIO(text).readline)
    return [token.start[0] for token in stream if token.type in COUNTED]


def functions_of(tree: ast.Module, path: str, lines: list[int]) -> Iterator[Function]:
    """Every function of a file; one that lies inside another counts in both."""
    for node in ast.walk(tree):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        last = node.end_lineno or node.lineno
        tokens = sum(first <= line <= last for line in lines)
        yield Function(path, node.lineno, node.name, tokens)


def is_nested_conditional(node: ast.AST) -> bool:
    """Whether a conditional expression holds another one, at any depth."""
    if not isinstance(node, ast.IfExp):
        return False
    return any(isinstance(inner, ast.IfExp) for inner in ast.walk(node) if inner is not node)


def is_packed(node: ast.AST) -> bool:
    """Whether an assignment packs more than MOST_PACKED values, as in `a, b, c = x, y, z`."""
    if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
        return False
    targets = [target for target in node.targets if isinstance(target, ast.Tuple)]
    return any(len(target.elts) > MOST_PACKED for target in targets)


def vague_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Parameters and variables with such a name, with their lines; not attributes and fields."""
    fields = {
        id(statement.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg in VAGUE_NAMES:
            yield node.lineno, node.arg
        is_variable = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        if is_variable and node.id in VAGUE_NAMES and id(node) not in fields:
            yield node.lineno, node.id


def measure(paths: list[Path]) -> Density:
    """Measure these files together."""
    density = Density()
    for path in paths:
        _add(density, path)
    return density


def _add(density: Density, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    name = str(path.relative_to(ROOT))
    rows = text.splitlines()
    in_lines = token_lines(text)
    density.tokens += len(in_lines)
    density.lines += sum(bool(row.strip()) for row in rows)
    long = [number for number, row in enumerate(rows, 1) if len(row) > MOST_COLUMNS]
    density.long_lines += [f"{name}:{number}" for number in long]
    density.functions += functions_of(tree, name, in_lines)
    for node in ast.walk(tree):
        if is_nested_conditional(node):
            density.nested_conditionals.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]
        if is_packed(node):
            density.packed_assignments.append(f"{name}:{node.lineno}")  # type: ignore[attr-defined]
    density.classes.update(node.name for node in tree.body if isinstance(node, ast.ClassDef))


def table(folder: Path) -> str:
    """Tokens, lines and tokens a line of each part of a folder, then what is over the limits."""
    parts = sorted(path for path in folder.iterdir() if path.suffix == ".py" or path.is_dir())
    rows = []
    for part in parts:
        files = sorted(part.rglob("*.py")) if part.is_dir() else [part]
        if files:
            density = measure(files)
            rows.append((part.name, density.tokens, density.lines, density.tokens_a_line))
    whole = measure(sorted(folder.rglob("*.py")))
    rows.append(("all", whole.tokens, whole.lines, whole.tokens_a_line))
    text = [f"{'part':<24}{'tokens':>9}{'lines':>8}{'a line':>8}"]
    text += [
        f"{name:<24}{tokens:>9,}{lines:>8,}{ratio:>8.1f}" for name, tokens, lines, ratio in rows
    ]
    text += [
        "",
        f"lines over {MOST_COLUMNS} columns: {len(whole.long_lines)}",
        f"functions over {MOST_TOKENS} tokens: {len(whole.large_functions)}",
        f"nested conditional expressions: {len(whole.nested_conditionals)}",
        f"assignments of more than {MOST_PACKED} packed values: {len(whole.packed_assignments)}",
        f"class names used more than once: {' '.join(whole.repeated_classes) or 'none'}",
    ]
    return "\n".join(text)


def main() -> None:
    """Print the table; with --functions also each place that is over a limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "creditdecoding")
    parser.add_argument("--functions", action="store_true", help="list each place over a limit")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    print(table(folder))
    if not arguments.functions:
        return
    whole = measure(sorted(folder.rglob("*.py")))
    for function in whole.large_functions:
        print(f"{function.path}:{function.line}: {function.name} has {function.tokens} tokens")
    for location in (*whole.long_lines, *whole.nested_conditionals, *whole.packed_assignments):
        print(location)


if __name__ == "__main__":
    main()
