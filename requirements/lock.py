"""Write the lock files core.txt and dev.txt from the ranges in pyproject.toml (`make lock`).

One file holds for Python 3.10 to 3.13 on Linux and macOS: uv resolves for all of them and marks the
lines that hold for some only. torch and its CUDA libraries are left out: the Makefile installs the
build that TORCH names. core.txt is what the package and `credit pull` need, dev.txt adds what its
tests need, and sglang.txt is SGLang with the few packages that its scheduler imports, for
tools/sglang_env.py. vllm.txt, for tools/vllm_env.py, is vLLM and what its Python files import
beyond this project, without dependencies.

`--lowest FILE` writes instead the lowest versions that the ranges allow, torch included, for the
Python that runs this (`make test-lowest`).
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent
# What a torch build brings by itself, and what differs between builds.
WITH_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
# True on every machine that the lock is for ([tool.uv] in pyproject.toml), so it says nothing.
SUPPORTED = (
    "((platform_machine == 'arm64' and sys_platform == 'darwin')"
    " or (platform_machine == 'aarch64' and sys_platform == 'linux')"
    " or (platform_machine == 'x86_64' and sys_platform == 'linux'))"
)
SGLANG = "sglang>=0.5.21,<0.6 ; sys_platform == 'linux'"  # it has no wheels for macOS
SGLANG_IMPORTS = (
    "aiohttp",
    "ipython",
    "msgspec",
    "orjson",
    "psutil",
    "pybase64",
    "pyzmq",
    "setproctitle",
)
VLLM = "vllm>=0.33,<0.34"
VLLM_IMPORTS = (
    "cachetools",
    "cbor2",
    "cloudpickle",
    "msgspec",
    "openai-harmony",
    "py-cpuinfo",
    "uvloop",
)


def compiled(
    uv: str, arguments: list[str], source: str = "pyproject.toml", text: str = ""
) -> list[str]:
    """The lines that `uv pip compile` prints for a file of the project, or for `text` as source
    `-`.
    """
    command = [uv, "pip", "compile", source, *arguments]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(done.returncode)
    return done.stdout.splitlines()


def universal(
    uv: str, options: list[str], pins: list[str], source: str = "pyproject.toml", text: str = ""
) -> list[str]:
    """One resolution for all supported machines under the lines `pins`, without torch."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pins) + "\n")
        constraints.flush()
        arguments = ["--universal", "--python-version", "3.10", "--constraints", constraints.name]
        lines = compiled(uv, [*arguments, *options], source, text)
    return [line for line in lines if not WITH_TORCH.match(line)]


def sglang(uv: str, pins: list[str]) -> list[str]:
    """SGLang without its dependencies, and the packages its scheduler imports with theirs."""
    alone = universal(uv, ["--no-deps"], [], "-", SGLANG)
    imports = universal(uv, [], pins, "-", "\n".join(SGLANG_IMPORTS))
    return [*alone, *imports]


def vllm(uv: str) -> list[str]:
    """vLLM, then the packages that its Python files import, all for Linux."""
    arguments = ["--no-deps", "--python-platform", "linux", "--python-version", "3.11"]
    imports = compiled(uv, arguments, "-", "\n".join(VLLM_IMPORTS))
    return [*compiled(uv, arguments, "-", VLLM), *imports]


def lowest(uv: str) -> list[str]:
    """The lowest versions of the direct dependencies, the newest of all others, for this Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    arguments = ["--extra", "dev", "--resolution", "lowest-direct", "--python-version", version]
    return compiled(uv, arguments)


def readable(line: str) -> str:
    """A requirement line without the parts of its marker that hold on every supported machine."""
    requirement, _, marker = line.partition(" ; ")
    clauses = marker.replace(f" and {SUPPORTED}", "").split(" and ")
    clauses = [clause for clause in clauses if clause != "python_full_version < '3.14'"]
    return " ; ".join(filter(None, [requirement, " and ".join(clauses)]))


def write(name: str, lines: list[str]) -> None:
    """Write a lock file."""
    header = "# Made by `make lock` from pyproject.toml. torch is chosen by the Makefile.\n"
    text = "\n".join(readable(line) for line in lines)
    (FOLDER / name).write_text(f"{header}{text}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv program")
    parser.add_argument("--torch", default="torch", help="the torch that the lock must fit")
    parser.add_argument("--lowest", type=Path, help="write the lowest versions to this file")
    chosen = parser.parse_args()
    if chosen.lowest:
        chosen.lowest.write_text("\n".join(lowest(chosen.uv)) + "\n", encoding="utf-8")
        return
    dev = universal(chosen.uv, ["--extra", "dev"], [chosen.torch])
    core = universal(chosen.uv, [], [chosen.torch, *dev])
    write("dev.txt", dev)
    write("core.txt", core)
    write("sglang.txt", sglang(chosen.uv, dev))
    write("vllm.txt", vllm(chosen.uv))


if __name__ == "__main__":
    main()
