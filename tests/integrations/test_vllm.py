"""vLLM's plug-in: every decision of a sampler behind vLLM's own interfaces against our loop, launches
and requests that are refused, and the blocks of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from creditdecoding.decoders import create, names
from creditdecoding.errors import OptionError
from creditdecoding.integrations.vllm import plugin
from creditdecoding.integrations.vllm.served import FAMILIES, served_rule
from creditdecoding.integrations.vllm.spans import block_spans
from creditdecoding.models.families import llada2, sdar
from tests.helpers.released_package import lacks_of_vllm
from tools import vllm_env

SCENARIOS = 2  # a rule
REFUSED = {
    "canvas": "allowed: 4",
    "prompt": "--max-num-batched-tokens 4096",
    "canvases": "--max-num-batched-tokens 16384",
    "sharded": "--enable-batch-sharded-sampling",
    "rule": "Did you mean 'credit'",
    "knob": "Did you mean 'threshold'",
    "unable": "wino cannot run",
    "penalty": "min_p, repetition_penalty",
    "logprobs": "logprobs",
    "extra": "diffusion_read_only",
}


@pytest.mark.network
@pytest.mark.slow
def test_the_released_vllm_decides_as_our_loop(
    record_property: Callable[[str, object], None],
) -> None:
    try:
        done = vllm_env.run("tests.helpers.vllm_drive", str(SCENARIOS))
    except vllm_env.UnavailableError as error:
        pytest.skip(f"vLLM cannot be had here: {error}")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    line = f"{report['version']}, {report['rules']} rules for {len(report['models'])} architectures"
    record_property(
        "vLLM",
        f"{line}, {report['scenarios']} random scenarios ({report['steps']} steps), "
        f"{report['differing']} differing decisions",
    )
    assert report["differing"] == 0, report["culprits"]
    assert report["control_written"] == 0 and not report["waits"]
    assert report["scenarios"] == SCENARIOS * (len(names()) - len(report["unable"]))
    assert report["steps"] > 5 * report["scenarios"]
    assert report["models"] == [*FAMILIES]
    assert report["block_causal"]
    assert report["launches"]["fine"] == "canvas 4" and report["launches"]["request"] == "fine"
    assert report["launches"]["request of a later vLLM"] == "fine"
    for kind, words in REFUSED.items():
        assert words in report["launches"][kind], kind


@pytest.mark.network
@pytest.mark.slow
def test_the_released_vllm_has_what_the_plugin_uses() -> None:
    """Names, arguments, attributes and replaced methods, also of modules that have stand-ins when
    decisions are compared.
    """
    try:
        folder = vllm_env.prepare()
    except vllm_env.UnavailableError as error:
        pytest.skip(f"vLLM cannot be had here: {error}")
    assert lacks_of_vllm(folder) == []


def test_the_range_is_the_one_of_the_extra() -> None:
    extra = f"vllm>={plugin.OLDEST},<{plugin.BELOW}"
    assert extra in (vllm_env.ROOT / "pyproject.toml").read_text()
    assert f"vllm=={plugin.OLDEST}" in vllm_env.PINNED.read_text()


def test_families_are_those_of_the_package() -> None:
    assert set(FAMILIES) == {*sdar.ARCHITECTURES, *llada2.ARCHITECTURES}
    assert FAMILIES["SDARForCausalLM"].block_length == sdar.BLOCK
    assert FAMILIES["LLaDA2MoeModelLM"].block_length == llada2.BLOCK


def test_settings_for_other_blocks_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rule.yaml"
    launch = SimpleNamespace(
        diffusion_config=SimpleNamespace(canvas_length=4),
        additional_config={"creditdecoding": str(file)},
    )
    file.write_text("name: fixed\nblock_size: 4\n")
    assert served_rule(launch) == create("fixed")
    file.write_text("name: fixed\nblock_size: 16\n")
    with pytest.raises(OptionError, match="got 'block_size=16'; allowed: 4"):
        served_rule(launch)


@pytest.mark.parametrize(
    ("first", "length", "prompt"), [(0, 10, 10), (0, 3, 9), (4, 5, 9), (0, 19, 10), (8, 1, 30)]
)
def test_pieces_of_a_prompt_see_what_block_causal_attention_sees(
    first: int, length: int, prompt: int
) -> None:
    """Blocks from 0, and again from the end of the prompt, as after a request was preempted."""
    width = 4
    spans = block_spans([first, 0], [length, width], [prompt, 7], width, [False, True])
    seen = {}
    for row, begin, end, behind in zip(spans.rows, spans.starts, spans.starts[1:], spans.behind):
        if row == 0:
            for query in range(begin, end):
                seen[first + query] = first + length - behind
    block = [p // width if p < prompt else 1000 + (p - prompt) // width for p in range(99)]
    for position, end in seen.items():
        own = [p for p in range(first + length) if block[p] == block[position]]
        assert end == own[-1] + 1
    assert sorted(seen) == list(range(first, first + length))
    assert int(spans.starts[-1]) == length + width and spans.rows.tolist().count(1) == 1
    assert spans.longest == max(np.diff(spans.starts)) <= width
