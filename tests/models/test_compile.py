"""`EngineConfig.compile`: the same answers through torch.compile, on a CPU.

In a process of its own: the shape checks that the other tests run under cannot be traced.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools.make_checkpoint import make

pytestmark = pytest.mark.slow

compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))),
    reason="torch.compile needs a C++ compiler",
)

COMPARE = """
import sys
import torch
from torch._dynamo.utils import counters
from creditdecoding import load

torch.set_num_threads(1)
plain, compiled = load(sys.argv[1]), load(sys.argv[1], compile=True)
prompts = ["ab cd ef", "a longer question that fills more of the row"]
# This cache has passes over whole rows, and narrow ones.
options = dict(decoder="credit", gen_length=12, block_length=6, cache="dual", early_stop=False)
theirs = plain.generate(prompts, **options)
assert not counters["stats"]["unique_graphs"]
ours = compiled.generate(prompts, **options)
assert counters["stats"]["unique_graphs"], "nothing was compiled"
for a, b in zip(ours, theirs):
    assert [s.committed for s in a.trace.steps] == [s.committed for s in b.trace.steps]
    assert a.trace.tokens == b.trace.tokens
    for x, y in zip(a.trace.steps, b.trace.steps):
        assert max(abs(p - q) for p, q in zip(x.confidence, y.confidence)) < 1e-4
print("same")
"""


@compiler
def test_compiled_layers_give_the_same_answers(tmp_path: Path) -> None:
    make("llada", tmp_path, n_layers=1)
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "same"
