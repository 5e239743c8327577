"""The comparison of a plug-in's code with a released package that is not imported finds what the
release lacks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.released_package import ReleasedPackage, lacks

RELEASE = {
    "__init__.py": "from .core import Engine\nMAP = {}\n",
    "core.py": """
import typing
from dataclasses import dataclass

if typing.TYPE_CHECKING:
    from engine.inner.values import Value as Renamed

@dataclass
class Options:
    width: int
    depth: int = 3

class Base:
    shared = 1
    def __init__(self, size):
        self.size = size
    def step(self, batch, *, early=False):
        return batch
    def stop(self, now=True): ...

class Engine(Base):
    @classmethod
    def named(cls, name, size=1): ...

def run(engine, *, passes): ...
def check(params, *, limit): ...
""",
    "inner/__init__.py": "",
    "inner/values.py": "class Value: ...\n",
}
TYPES = {"options": "engine.core.Options", "engine": "engine.Engine"}

HELD = """
from engine import MAP, Engine
from engine.core import Options, Renamed, run
from engine.inner import values
from engine import core

class Own(Engine):
    def step(self, batch, *, early=False, **more):
        return self.size + batch
    def stop(self, *reasons): ...

def mine(params, limit): ...

MAP["own"] = Own
core.check = mine
run(Engine.named("a"), passes=1)
run(*[], **{})
Options(1, depth=2)
values.Value()
options.width + engine.size + engine.shared + engine.own_thing.deep
getattr(engine, "own_thing", None)
"""
LACKING = {
    "from engine.core import Missing": "engine.core.Missing",
    "from engine.gone import x": "engine.gone.x",
    "from engine.core import run\nrun(1, pass_count=2)": "engine.core.run: missing a required",
    "from engine.core import run\nrun(1, passes=2, more=3)": "got an unexpected keyword argument",
    "from engine.core import run\nrun(1, more=3, **{})": "got an unexpected keyword argument 'more'",
    "from engine.core import Options\nOptions(height=1)": "engine.core.Options: ",
    "from engine import Engine\nEngine.named()": "engine.Engine.named: missing a required argument",
    "from engine import Engine\nEngine.called": "engine.Engine.called",
    "from engine.inner import values\nvalues.Other": "engine.inner.values.Other",
    "self.options.height": "engine.core.Options.height",
    "options.height = 1": "engine.core.Options.height",
    "from engine import Engine\nclass A(Engine):\n def step(self, batch): ...": "'early'",
    "from engine import Engine\nclass A(Engine):\n def step(self, *batch): ...": "'early'",
    "from engine import Engine\nclass A(Engine):\n def step(self): ...": "too many positional",
    "from engine import core\ndef own(params): ...\ncore.check = own": "'limit'",
    "from engine import core\ncore.gone = 1": "engine.core.gone",
}


@pytest.fixture
def release(tmp_path: Path) -> ReleasedPackage:
    for name, text in RELEASE.items():
        file = tmp_path / "wheel" / "engine" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return ReleasedPackage(tmp_path / "wheel", "engine")


def lacks_of(text: str, release: ReleasedPackage, tmp_path: Path) -> list[str]:
    own = tmp_path / "own"
    own.mkdir()
    (own / "use.py").write_text(text)
    return lacks(release, own, TYPES)


def test_what_the_release_offers_is_not_reported(release: ReleasedPackage, tmp_path: Path) -> None:
    assert lacks_of(HELD, release, tmp_path) == []


@pytest.mark.parametrize("text", LACKING)
def test_what_the_release_lacks_is_reported(
    text: str, release: ReleasedPackage, tmp_path: Path
) -> None:
    reported = lacks_of(text, release, tmp_path)
    assert [LACKING[text] in line for line in reported] == [True]
    assert reported[0].startswith("use.py:")
