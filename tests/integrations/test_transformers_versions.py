"""The tests of transformers' `generate`, under the releases of transformers that the package names
and that changed what functions are handed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RELEASES = ("5.0.0", "5.20.0", "5.24.0")
TESTS = ("tests/integrations/test_transformers.py", "tests/integrations/test_external_model.py")


def installed(release: str) -> Path:
    """A folder with that release and what it needs but torch; made once."""
    folder = (
        ROOT
        / "build"
        / "transformers"
        / f"{release}-python{sys.version_info.major}.{sys.version_info.minor}"
    )
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}-{os.getpid()}")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--target",
            str(fresh),
            f"transformers=={release}",
        ]
        subprocess.run(command, check=True)
        fresh.rename(folder)
    return folder


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("release", RELEASES)
def test_the_same_holds_under_other_releases(release: str) -> None:
    paths = [str(installed(release)), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    imported = subprocess.run(
        [sys.executable, "-c", "import transformers; print(transformers.__version__)"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert imported.stdout.strip() == release
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
