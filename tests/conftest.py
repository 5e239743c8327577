"""Shapes in signatures are executed in tests: every function of decoders/, ops/ and models/ checks its
tensors while the tests of these rooms run. The other tests run without, in two thirds of the time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # waiting threads of a test's processes starve other workers
os.environ["CREDITDECODING_CACHE"] = os.devnull  # what was pulled on this machine changes no test
SHAPE_CHECKED_ROOMS = ("decoders", "ops", "models")
OF_PROCESSES = ("test_interrupt.py", "test_serve.py", "test_listener.py")
"""Together they come to one worker, whose fork server imports the package once for all."""

hook = jaxtyping.install_import_hook(
    [f"creditdecoding.{room}" for room in SHAPE_CHECKED_ROOMS], "beartype.beartype"
)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check shapes in the tests of the rooms that declare them."""
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    jaxtyping.config.update("jaxtyping_disable", room not in SHAPE_CHECKED_ROOMS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests of processes first, and skip those marked `gpu` where there is no CUDA device."""
    items.sort(key=lambda item: item.path.name not in OF_PROCESSES)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests recorded with `record_property`: versions and counts that a reader of the
    log should see.
    """
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{name}: {value}")
