"""docs/project/architecture.md names files that exist, and every room of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "creditdecoding"
PAGE = ROOT / "docs" / "project" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
IN_TICKS = re.findall(r"`([\w./-]+(?:\.py|/))`", TEXT)
LINKS = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)


@pytest.mark.parametrize("name", sorted(set(IN_TICKS)))
def test_a_file_that_is_named_exists(name: str) -> None:
    assert (ROOT / name).exists() or (PACKAGE / name).exists()


@pytest.mark.parametrize("link", sorted(set(LINKS)))
def test_a_file_that_is_linked_exists(link: str) -> None:
    assert (PAGE.parent / link).exists()


def test_every_room_is_named() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    named = {name.removesuffix("/") for name in IN_TICKS}
    assert rooms <= named
