"""Installs the released vLLM without its GPU packages, with stand-ins for what needs a GPU.

The folder `build/vllm` (in .gitignore) is made once from the package index: the Python files of the
vLLM wheel that requirements/vllm.txt names, and the few packages that they import and this project
lacks. Only subprocesses see it, by PYTHONPATH.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import zipfile
from pathlib import Path

from tools.sglang_env import ROOT, UnavailableError, pip_install, run_with
from tools.stand_ins import StandInFinder

FOLDER = ROOT / "build" / "vllm"
PINNED = ROOT / "requirements" / "vllm.txt"
NEEDS_GPU = (
    "xgrammar",
    *(f"vllm.{name}" for name in ("_C", "_custom_ops", "compilation", "config", "distributed")),
    *(f"vllm.{name}" for name in ("entrypoints", "inputs", "lora", "model_executor", "multimodal")),
    *(f"vllm.{name}" for name in ("platforms", "reasoning", "renderers", "tokenizers")),
    *(f"vllm.{name}" for name in ("tool_parsers", "tracing")),
    *(f"vllm.v1.{name}" for name in ("attention", "engine", "metrics", "spec_decode")),
    *(f"vllm.v1.{name}" for name in ("structured_output", "worker.encoder_cudagraph")),
    *(f"vllm.v1.worker.{name}" for name in ("gpu.attn_utils", "gpu.mm", "utils")),
)
"""Kernels, networks, processes, and what only they use."""

REAL = ("vllm.model_executor.models.registry", "vllm.model_executor.models.config")
"""Modules below them that are loaded all the same."""


def prepare() -> Path:
    """The folder, made if it does not exist. Raises `UnavailableError`."""
    if not FOLDER.is_dir():
        FOLDER.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=FOLDER.parent))
        try:
            vllm, *imports = (line for line in PINNED.read_text().split() if "==" in line)
            pip_install(fresh, "--no-deps", *imports)
            _python_files(vllm, fresh)
            fresh.rename(FOLDER)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    _declare_plugin()
    return FOLDER


def _python_files(requirement: str, folder: Path) -> None:
    """The Python files and the metadata of a wheel; its kernels fill hundreds of megabytes."""
    with tempfile.TemporaryDirectory() as wheels:
        pip_install(Path(wheels), "--no-deps", requirement, verb="download")
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            names = [n for n in archive.namelist() if n.endswith(".py") or ".dist-info/" in n]
            archive.extractall(folder, names)


def _declare_plugin() -> None:
    """The metadata of this package, as `pip install creditdecoding` writes it."""
    metadata = FOLDER / "creditdecoding-0.dist-info"
    metadata.mkdir(exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: creditdecoding\nVersion: 0\n")
    head = '[project.entry-points."vllm.general_plugins"]\n'
    body = (ROOT / "pyproject.toml").read_text().split(head)[1].split("\n[")[0]
    entry_points = "[vllm.general_plugins]\n" + body.replace('"', "")
    (metadata / "entry_points.txt").write_text(entry_points)


def run(module: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """`python -m module` with vLLM on its path. Raises `UnavailableError`."""
    return run_with([prepare(), ROOT], module, *arguments, timeout=timeout)


def stand_in() -> None:
    """Install the stand-ins."""
    StandInFinder(FOLDER, NEEDS_GPU, REAL).install()


__all__ = ["FOLDER", "UnavailableError", "prepare", "run", "stand_in"]
