"""The Triton kernel against the plain version: on a GPU, and by Triton's interpreter on a CPU.

Both in a process of its own, without the checks of shapes that tests/conftest.py puts around every
function: Triton reads the source of a kernel.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from creditdecoding.ops.head_logits import HeadLogits

ROOT = Path(__file__).parents[2]
RELEASE = "3.7.1"
DEVICE = os.environ.get("KERNEL_DEVICE")
KERNEL: Any = importlib.import_module("creditdecoding.ops.head_kernel") if DEVICE else None
inside = pytest.mark.skipif(not DEVICE, reason="runs in a process of its own")
linux = pytest.mark.skipif(sys.platform != "linux", reason="Triton has wheels for Linux alone")


def installed() -> Path:
    """A folder with Triton alone, 200 MB of download; made once."""
    folder = ROOT / "build" / "triton" / RELEASE
    if not folder.is_dir():
        fresh = folder.with_name(f"{folder.name}-{os.getpid()}")
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
        subprocess.run([*command, "--target", str(fresh), f"triton=={RELEASE}"], check=True)
        fresh.rename(folder)
    return folder


def run_python(*arguments: str, **variables: str) -> str:
    """What Python prints in an environment with these variables."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def run_inside(device: str, **variables: str) -> None:
    """Run the tests of this file that need the kernel."""
    options = ("-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--noconftest", "-rs")
    selection = ("-m", "not network and not gpu", "tests/ops/test_head_kernel.py")
    printed = run_python(*options, *selection, KERNEL_DEVICE=device, **variables)
    assert "passed" in printed and "skipped" not in printed


def path_with_triton() -> str:
    return os.pathsep.join([str(installed()), str(ROOT)])


@pytest.mark.network
@pytest.mark.slow
@linux
def test_the_kernel_by_tritons_interpreter() -> None:
    run_inside("cpu", TRITON_INTERPRET="1", PYTHONPATH=path_with_triton())


@pytest.mark.gpu
@pytest.mark.slow
def test_the_kernel_on_a_gpu() -> None:
    run_inside("cuda")


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from creditdecoding.ops.head_kernel import _mass_kernel

pointers = {"id_kinds": "*i8", "stop_lines": "*i8", "out_ids": "*i32"}
pointers |= {"out_tops": "*fp32", "out_rests": "*fp32"}
numbers = ["lines", "vocab", "size", "hidden_stride", "weight_stride", "tiles"]
constants = {"block_lines": 128, "tile_ids": 128, "depth": 64, "wide": False}
weights = {"hidden": "*bf16", "weight": "*bf16"}
kinds = weights | pointers | dict.fromkeys(numbers, "i32") | dict.fromkeys(constants, "constexpr")
aligned = {(i,): [["tt.divisibility", 16]] for i in (0, 1, 9, 10, 11)}
for capability, limit in ((80, 163), (90, 227)):
    source = ASTSource(_mass_kernel, kinds, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    kernel = compile(source, target=target, options={"num_warps": 8})
    assert kernel.metadata.shared <= limit * 1024
    assert ("wgmma" if capability == 90 else "mma.sync") in kernel.asm["ptx"]
"""


@pytest.mark.network
@pytest.mark.slow
@linux
def test_the_kernel_compiles_for_gpus_that_are_not_here() -> None:
    """For A100 and H100: tensor cores are used, and its tiles fit into shared memory."""
    run_python("-c", COMPILE, PYTHONPATH=path_with_triton())


SHAPES = [(1, 16, 40), (5, 300, 40), (130, 1_000, 64)]
"""Lines, ids, width: one tile, parts of tiles, several blocks of lines."""


@inside
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_kernel_equals_the_plain_version(
    dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    """Whole numbers, whose sums are exact in any order: the same ids, also of equals."""
    lines, ids, width = shape
    source = torch.Generator().manual_seed(lines)
    hidden = torch.randint(-2, 3, (lines, width), generator=source).to(DEVICE, dtype) / 4
    weight = torch.randint(-2, 3, (ids, width), generator=source).to(DEVICE, dtype) / 4
    weight[ids // 2] = weight[ids - 1] = weight[4] = hidden[0] * 2  # three best ids of line 0
    some = torch.arange(lines, device=DEVICE) % 2 == 1
    for logits in (
        HeadLogits(hidden, weight, banned=(3,), stop_ids=(4, 9), no_stop=some, suppressed=~some),
        HeadLogits(hidden, weight, stop_ids=(4, 9)),
    ):
        mass, plain = KERNEL.head_mass(logits), logits.tiled_mass()
        assert torch.equal(mass[0], plain[0])
        assert torch.equal(mass[1], plain[1])
        torch.testing.assert_close(mass[2], plain[2], rtol=1e-5, atol=1e-12)


@inside
def test_the_kernel_rounds_as_the_head_does() -> None:
    source = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(n, 96, generator=source).to(DEVICE, torch.bfloat16) for n in (20, 500)
    )
    mass, plain = (
        of(HeadLogits(hidden, weight)) for of in (KERNEL.head_mass, HeadLogits.tiled_mass)
    )
    assert (mass[0] == plain[0]).float().mean() >= 0.9
    torch.testing.assert_close(mass[1], plain[1], rtol=2**-7, atol=0.0)


@inside
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_the_kernel_shows_what_is_no_number(bad: float) -> None:
    weight = torch.ones(200, 16, device=DEVICE)
    weight[150] = bad
    _, top, rest = KERNEL.head_mass(HeadLogits(torch.ones(2, 16, device=DEVICE), weight))
    assert not torch.isfinite(top + rest).any()


@inside
def test_the_kernel_gives_no_mass_to_a_line_without_ids() -> None:
    ones = torch.ones(2, 16, device=DEVICE)
    assert KERNEL.head_mass(HeadLogits(ones, ones, banned=(0, 1)))[2].isnan().all()
