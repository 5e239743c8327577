"""Shapes in signatures are executed in tests: every function of these packages checks its tensors
while tests run.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
hook = install_import_hook(
    ["creditdecoding.decoders", "creditdecoding.ops", "creditdecoding.models"], "beartype.beartype"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
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
