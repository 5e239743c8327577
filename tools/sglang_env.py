"""Installs the released SGLang without its GPU packages, with stand-ins for what needs a GPU.

The folder `build/sglang` (in .gitignore) is made once from the package index, with the versions of
requirements/sglang.txt: the sglang wheel without its dependencies, and the few packages that its
own modules import and this project lacks. Only subprocesses see it, by PYTHONPATH. The test and the
benchmark use it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tools.stand_ins import StandInFinder, StandInModule

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "sglang" / f"python{sys.version_info.major}.{sys.version_info.minor}"
PINNED = ROOT / "requirements" / "sglang.txt"
NEEDS_GPU = (
    "triton",
    "sgl_kernel",
    "flashinfer",
    "sglang.kernels",
    "sglang.srt.configs",
    "sglang.srt.layers",
    "sglang.srt.model_executor",
)


class UnavailableError(Exception):
    """An engine cannot be installed here; the text says why."""


def prepare() -> Path:
    """The folder, made if it does not exist. Raises `UnavailableError`."""
    if not (FOLDER / "sglang").is_dir():
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=FOLDER.parent))
        try:
            pip_install(fresh, "--no-deps", "--requirement", str(PINNED))
            if not (fresh / "sglang").is_dir():
                raise UnavailableError(f"SGLang has no wheel for this platform ({sys.platform})")
            if not FOLDER.exists():
                fresh.rename(FOLDER)
        except OSError:
            if not (FOLDER / "sglang").is_dir():  # else another process was faster
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    metadata = FOLDER / "creditdecoding-0.dist-info"  # as `pip install creditdecoding` writes it
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: creditdecoding\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(_entry_points())
    return FOLDER


def _entry_points() -> str:
    """The plug-in's entry point as pyproject.toml declares it."""
    head = '[project.entry-points."sglang.srt.plugins"]\n'
    body = (ROOT / "pyproject.toml").read_text().split(head)[1].split("\n[")[0]
    return "[sglang.srt.plugins]\n" + body.replace('"', "")


def pip_install(folder: Path, *arguments: str, verb: str = "install") -> None:
    """Install, or download, into a folder. Raises `UnavailableError`."""
    options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "--retries", "1"]
    target = "--target" if verb == "install" else "--dest"
    command = [sys.executable, "-m", "pip", verb, *options, target, str(folder)]
    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnavailableError("the package index does not answer") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1] if errors else "pip failed"
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise UnavailableError(f"{reason} (Python {version})")


def other_release(release: str) -> Path:
    """A folder with that SGLang alone, to be put before the prepared one. Raises
    `UnavailableError`.
    """
    folder = FOLDER.with_name(f"{FOLDER.name}-sglang{release}")
    if not folder.is_dir():
        fresh = Path(tempfile.mkdtemp(dir=FOLDER.parent))
        try:
            pip_install(fresh, "--no-deps", f"sglang=={release}")
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def run(
    module: str, *arguments: str, timeout: float = 600, release: str | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m module` with SGLang on its path: the locked release, or another one. Raises
    `UnavailableError`.
    """
    folders = [prepare(), ROOT]
    if release is not None:
        folders.insert(0, other_release(release))
    return run_with(folders, module, *arguments, timeout=timeout)


def run_with(
    folders: Sequence[Path], module: str, *arguments: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """`python -m module` with these folders on its path, the first of them before all others.

    It runs in the first folder, because Python looks for packages where it runs before that.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folders[0],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


class ModelConfig:
    """Replaces the class that reads config.json, whose module imports GPU kernels.

    The path is the architecture.
    """

    @staticmethod
    def from_server_args(server_args: Any, model_path: str, **options: Any) -> Any:
        name, _, size = model_path.partition(":")
        return SimpleNamespace(
            hf_config=SimpleNamespace(architectures=[name], block_size=int(size) if size else None)
        )


def stand_in() -> None:
    """Install the stand-ins."""
    StandInFinder(FOLDER, NEEDS_GPU).install()
    module = StandInModule("sglang.srt.configs.model_config")
    vars(module)["ModelConfig"] = ModelConfig
    sys.modules[module.__name__] = module
