"""Fixtures of the tests of tasks."""

from __future__ import annotations

import pytest

from creditdecoding.tasks import sandbox


@pytest.fixture(scope="module")
def confined() -> None:
    """Skips where this kernel has no seccomp or no Landlock (5.13 of 2021)."""
    with sandbox._child("answer", 5, 1 << 29) as child:
        _, missing = child.channel.receive(1 << 16)
    if missing:
        pytest.skip(f"this system does not confine {missing}")
