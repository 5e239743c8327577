"""The tests of the trainers for trl, under the release of trl that the package names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASE = "1.16.0"
PACKAGES = (f"trl=={RELEASE}", "datasets", "dill", "multiprocess", "xxhash", "accelerate")
"""trl and what it needs besides what the tests have; torch is not fetched again."""


def installed() -> Path:
    """A folder with that release; made once."""
    folder = ROOT / "build" / "trl" / RELEASE
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}-{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*command, "--target", str(fresh), *PACKAGES], check=True)
        fresh.rename(folder)
    return folder


@pytest.mark.network
@pytest.mark.slow
def test_the_trainers_run_with_the_real_trl() -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(installed()), str(ROOT)]),
        "HF_HUB_OFFLINE": "1",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-rs"]
    done = subprocess.run(
        [*command, "tests/integrations/test_trl.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "skipped" not in done.stdout
