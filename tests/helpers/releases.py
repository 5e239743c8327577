"""Other packages' releases, installed beside the environment for tests that need them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def installed(name: str, packages: Sequence[str], *options: str) -> Path:
    """A folder build/NAME with packages of the index; made once."""
    folder = ROOT / "build" / name
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}-{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", *options]
        subprocess.run([*command, "--target", str(fresh), *packages], check=True)
        fresh.rename(folder)
    return folder


def run_tests(folder: Path, *tests: str) -> None:
    """Run test files with the packages of a folder; all of them must run."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-rs", *tests]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "SKIPPED" not in done.stdout, done.stdout[-1000:]
