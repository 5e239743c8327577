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


def in_a_process(code: str, *arguments: str) -> str:
    """What Python code prints; it must end with status 0."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


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
    printed = in_a_process(COMPARE, str(tmp_path))
    assert printed.strip() == "same"


TRAFFIC = """
import random
import sys
import torch
from torch._dynamo.utils import counters
from creditdecoding.config import MoEConfig
from creditdecoding.decoding.cache_policy import supported_policies
from tests.helpers.tiny_networks import KINDS, network, rows_of, traces

torch.set_num_threads(1)
KINDS["experts"] = {"causal_block": 8, "moe": MoEConfig(8, 2, 16, dense_layers=1)}
pads_passes = sys.argv[1] == "--cuda-graphs"
for kind in ("full", "experts"):
    plain, compiled = network(kind), network(kind)
    compiled.compile_layers(not pads_passes, pads_passes, backend="eager")
    random.seed(0)
    lengths = random.sample(range(1, 90), 10)  # of prompts
    batches = [lengths[:1], lengths[1:2], lengths[2:6]]
    before = counters["stats"]["unique_graphs"]
    for cache in supported_policies(plain.geometry):
        options = dict(decoder="threshold:threshold=0.6", cache=cache, block_length=8)
        for batch in batches:
            options["gen_length"] = random.randrange(9, 20)
            prompts = [[random.randrange(38) for _ in range(length)] for length in batch]
            theirs = traces(plain, rows_of(plain, prompts, **options))
            ours = traces(compiled, rows_of(compiled, prompts, **options))
            assert [trace.tokens for trace in ours] == [trace.tokens for trace in theirs], cache
    assert not counters["recompile_limit"] and not counters["graph_break"], dict(counters)
    print(counters["stats"]["unique_graphs"] - before)
"""


@pytest.mark.parametrize(
    ("option", "most_graphs"), [("--compile", (39, 22)), ("--cuda-graphs", (33, 21))]
)
def test_a_traffic_of_unlike_lengths_stays_compiled_under_every_cache(
    option: str, most_graphs: tuple[int, int]
) -> None:
    """As the options compile: the same answers, and few graphs, without and with experts. The
    tracer does not need the compiler.
    """
    printed = in_a_process(TRAFFIC, option)
    for line, most in zip(printed.splitlines(), most_graphs, strict=True):
        assert 0 < int(line) <= most


RECORDED = """
import torch
from tests.helpers.tiny_networks import network, rows_of, traces

torch.set_num_threads(1)
plain, recorded = network("full"), network("full")
recorded.compile_layers(dynamic=False, pads_passes=True)
prompts = ([1, 2, 3], [4] * 20)
for cache in ("none", "dual"):
    options = dict(decoder="credit", cache=cache, block_length=8, gen_length=12)
    theirs = traces(plain, rows_of(plain, prompts, **options))
    ours = traces(recorded, rows_of(recorded, prompts, **options))
    assert [trace.tokens for trace in ours] == [trace.tokens for trace in theirs], cache
print("same")
"""


@compiler
def test_layers_in_the_mode_of_cuda_graphs_give_the_same_answers() -> None:
    """As `--cuda-graphs` compiles them: one graph for each bucket, static caches."""
    printed = in_a_process(RECORDED)
    assert printed.strip() == "same"
