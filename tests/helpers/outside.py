"""Decoders and tasks from outside of the package: files, and installed packages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

HALF = '''
from __future__ import annotations

from dataclasses import dataclass

from creditdecoding.decoders.base import BaseDecoder, Decision, Sweep, at_least_one
from creditdecoding.options import option


@dataclass(frozen=True)
class Half(BaseDecoder):
    """Commits what has at least the threshold."""

    threshold: float = option(0.5, "Least confidence.", ge=0.0, le=1.0)

    sweep = Sweep("threshold", (0.5, 0.9))

    def step(self, prediction, block, state):
        tokens, confidence = prediction.choose()
        commit = at_least_one(confidence >= self.threshold, confidence, block.editable)
        return Decision(tokens, commit, confidence.float()), state
'''
"""A decoder file without a fault."""

REVERSE = """
from creditdecoding.tasks.base import Item, Task, same_answer


def make(rng):
    word = "".join(rng.choice("abcdef") for _ in range(5))
    return Item("reverse", f"Reverse {word}.", f"Answer: {word[::-1]}", word[::-1], (word,))


TASK = Task("reverse", "reverse a word", make, same_answer)
"""
"""A task file without a fault."""


def write(folder: Path, name: str, text: str) -> Path:
    """A file of this text."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def install(
    site: Path,
    package: str,
    entry_points: Mapping[str, Mapping[str, str]],
    modules: Mapping[str, str],
) -> None:
    """Install a package of version 1.2 into a folder that is on `sys.path`.

    `entry_points` are by group and name; `modules` are the texts of its modules.
    """
    for name, text in modules.items():
        write(site, f"{name}.py", text)
    about = site / f"{package}-1.2.dist-info"
    about.mkdir()
    write(about, "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    lines = []
    for group, entries in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    write(about, "entry_points.txt", "\n".join(lines))
