"""SGLang's plug-in: every decision of the released SGLang's loops against our loop, refusals, and
the file that describes a decoder.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import _credit, create, describe, export_text, load, names, resolve
from creditdecoding.decoders.base import Capabilities, capabilities_of
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.integrations.blocks import (
    BlockRound,
    ReservedIds,
    SamplingParams,
    check_decoder,
    new_blocks,
    seed_from_name,
)
from creditdecoding.integrations.sglang import plugin as sglang_plugin
from creditdecoding.integrations.sglang.plugin import (
    algorithm_decoders,
    algorithm_name,
)
from creditdecoding.integrations.sglang.sharding import leave_vocabulary_sharded
from creditdecoding.lm import load as load_lm
from tests.helpers.meta_device import META, HostCopies
from tests.helpers.released_package import lacks_of_sglang
from tools import sglang_env

SCENARIOS = 2  # a decoder and loop
CPU = torch.device("cpu")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("release", [None, sglang_plugin.OLDEST], ids=["locked", "oldest"])
def test_the_released_sglang_decides_as_our_loop(
    release: str | None,
    record_property: Callable[[str, object], None],
) -> None:
    """Its two loops, and those of two open pull requests with the hooks for them."""
    try:
        done = sglang_env.run("tests.helpers.sglang_drive", str(SCENARIOS), release=release)
    except sglang_env.UnavailableError as error:
        pytest.skip(f"SGLang cannot be had here: {error}")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    line = (
        f"{report['version']}, {report['algorithms']} algorithms registered, "
        f"{report['scenarios']} random scenarios over {' '.join(report['broken'])}"
    )
    record_property(
        "SGLang", f"{line} ({report['steps']} steps), {report['differing']} differing decisions"
    )
    assert report["version"] == (release or report["version"])
    assert report["differing"] == 0, report["culprits"]
    assert report["control_written"] == 0 and report["control_liked"] > 20
    assert (
        report["scenarios"] == 4 * SCENARIOS * (len(names()) - len(report["unable"]))
        and report["steps"] > 5 * report["scenarios"]
    )
    assert report["algorithms"] == len(algorithm_decoders()) and report["kept"] and report["lazy"]
    assert report["hooks"] == "SglangHooks(batched=False, done_on_device=False)"
    for mode in ("sync", "fdfo", "rounds", "device"):
        broken = report["broken"][mode]
        assert (
            broken["others"]
            and broken["shapes"]
            and -1 in broken["victim"]
            and broken["victim"][0] >= 0
        ), mode
    refusals = report["refusals"]
    assert (
        refusals["fine"]
        == refusals["undeclared"]
        == refusals["request"]
        == refusals["file"]
        == "fine"
    )
    for kind, word in (
        ("knob", "treshold"),
        ("value", "high"),
        ("other", "frechet"),
        ("block", "allowed: 32"),
        ("declared", "allowed: 8"),
        ("shadows", "wino"),
        ("no_file", "names no Python file"),
    ):
        assert refusals[kind].startswith("OptionError") and word in refusals[kind], kind
    assert (
        "json_schema" in refusals["schema"]
        and "min_p" in refusals["schema"]
        and refusals["model"] != "fine"
    )


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("release", [None, sglang_plugin.OLDEST], ids=["locked", "oldest"])
def test_the_released_sglang_has_what_the_plugin_uses(release: str | None) -> None:
    """Also in modules that have stand-ins when decisions are compared."""
    try:
        folder = sglang_env.prepare() if release is None else sglang_env.other_release(release)
    except sglang_env.UnavailableError as error:
        pytest.skip(f"SGLang cannot be had here: {error}")
    assert lacks_of_sglang(folder) == []


@pytest.mark.network
@pytest.mark.slow
def test_two_processes_that_share_the_vocabulary_decide_as_our_loop(tmp_path: Path) -> None:
    """Through SGLang's loop, without its gather of the logits."""

    def one(rank: int) -> Any:
        arguments = (str(SCENARIOS), str(rank), str(tmp_path / "store"))
        return sglang_env.run("tests.helpers.sglang_drive", *arguments)

    try:
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(one, (0, 1)))
    except sglang_env.UnavailableError as error:
        pytest.skip(f"SGLang cannot be had here: {error}")
    for done in both:
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads(done.stdout.splitlines()[-1])
        assert report["differing"] == 0 and report["steps"] > 5 * report["scenarios"]
        assert report["sharded_passes"] > report["scenarios"]


def test_every_decoder_is_an_algorithm() -> None:
    assert set(algorithm_decoders().values()) == set(names())
    assert {algorithm_decoders()[name] for name in ("CreditDecoding", "Credit")} == {"credit"}
    assert (
        algorithm_decoders()["CreditAdaptive"] == "credit_adaptive"
        and algorithm_decoders()["EntropyBounded"] == "entropy"
    )
    assert algorithm_name("credit") == "CreditDecoding" and algorithm_name("frechet") == "Frechet"


def test_the_range_is_the_one_of_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        f"sglang>={sglang_plugin.OLDEST},<{sglang_plugin.BELOW}"
        in (sglang_env.ROOT / "pyproject.toml").read_text()
    )
    monkeypatch.setitem(sys.modules, "sglang", None)
    with pytest.raises(MissingExtraError):
        __import__("creditdecoding.integrations.sglang.algorithm")


def test_a_rule_that_needs_more_than_logits_is_refused_by_name() -> None:
    @dataclass(frozen=True)
    class Shadowy:
        capabilities = Capabilities(leave_one_out=True)

        def init(self, rows: int, length: int, vocab: int, device: torch.device) -> dict[str, Any]:
            return {}

        def step(self, prediction: Any, block: Any, state: Any) -> Any: ...

    with pytest.raises(
        OptionError, match=r"shadowy cannot run in this engine: it needs leave-one-out columns"
    ):
        check_decoder(Shadowy(), "shadowy")
    assert check_decoder(create("edit"), "edit") == create("edit")


def model_runner(captured: list[int] | None = None, **flags: bool) -> SimpleNamespace:
    """Of SGLang's model runner what `vocab_parallel` needs, with graphs of these batch sizes."""
    processor = SimpleNamespace(**{"do_tensor_parallel_all_gather": True, **flags})
    sizes = {} if captured is None else {"decode_cuda_graph_capture_bs": captured}
    return SimpleNamespace(
        model=SimpleNamespace(logits_processor=processor),
        **sizes,
    )


@pytest.mark.parametrize("captured", [None, []])
def test_logits_stay_sharded_without_a_warning(
    captured: list[int] | None, caplog: pytest.LogCaptureFixture
) -> None:
    runner = model_runner(captured)
    assert leave_vocabulary_sharded(runner)
    assert not runner.model.logits_processor.do_tensor_parallel_all_gather
    assert not caplog.records


def test_graphs_that_collect_the_logits_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    runner = model_runner([1, 2, 8])
    assert leave_vocabulary_sharded(runner)
    assert not runner.model.logits_processor.do_tensor_parallel_all_gather
    (warning,) = caplog.messages
    assert "vocab_parallel: no effect in passes of up to 8 requests" in warning
    assert "--cuda-graph-backend-decode=disabled" in warning


@pytest.mark.parametrize("other", ["do_tensor_parallel_all_gather_dp_attn", "use_attn_tp_group"])
def test_logits_that_another_group_collects_stay_collected(
    other: str, caplog: pytest.LogCaptureFixture
) -> None:
    runner = model_runner([8], **{other: True})
    assert not leave_vocabulary_sharded(runner)
    assert runner.model.logits_processor.do_tensor_parallel_all_gather
    assert caplog.messages == [
        "vocab_parallel: the logits are not collected over tp_size; no effect"
    ]


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a device: copies of values to the host, and shapes
    that depend on values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        self.count += by_mask or name in (
            "_local_scalar_dense",
            "is_nonzero",
            "item",
            "nonzero",
            "masked_select",
            "equal",
            "unique",
        )
        return func(*args, **(kwargs or {}))


RULES = [
    *(name for name in names() if not capabilities_of(create(name)).leave_one_out),
    "fixed:order=random",
]
DRAWINGS = {
    "greedy": SamplingParams(),
    "drawn": SamplingParams(1.0),
    "top-k and top-p": SamplingParams(0.8, 5, 0.9),
}


def steps_of(
    rule: str, drawn: SamplingParams, device: torch.device
) -> Iterator[tuple[BlockRound, torch.Tensor]]:
    """Some steps of three blocks, and which blocks each leaves done."""
    tokens = torch.full((3, 8), 2, device=device)
    in_prompt = torch.zeros(3, 8, dtype=torch.bool, device=device)
    blocks = new_blocks(~in_prompt, in_prompt, ["a", "b", "c"], [drawn] * 3, [1, 2, 3])
    positions = torch.arange(8, device=device).expand(3, -1)
    for seed in range(3):
        torch.manual_seed(seed)
        logits = torch.randn(24, 40, device=device)
        batch = BlockRound(resolve(rule), ReservedIds(2, (5,)), blocks)
        done = batch.step(logits, tokens, positions)
        blocks = batch.states()
        yield batch, done


def waits_of(rule: str, drawn: SamplingParams) -> int:
    """How often the host waits in these steps and in their `read`."""
    with Waits() as waits:
        for batch, _ in steps_of(rule, drawn, CPU):
            done, failed = batch.read()
    assert not any(done + failed)
    return waits.count


@pytest.mark.parametrize("drawn", DRAWINGS.values(), ids=DRAWINGS)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_waits_once(
    rule: str, drawn: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the list of finished blocks and for nothing else; off the CPU the slots of credit grow
    unasked.
    """
    plain, lists = torch.Tensor.tolist, []
    monkeypatch.setattr(
        torch.Tensor, "tolist", lambda tensor: lists.append(tensor.shape) or plain(tensor)
    )
    monkeypatch.setattr(_credit, "_must_grow", lambda slots, missing: True)
    assert waits_of(rule, drawn) == 0 and lists == [(2, 3)] * 3


def test_the_count_of_waits_sees_one() -> None:
    """On the CPU, where asking is free, `credit` asks once a step whether its slots must grow."""
    assert waits_of("credit", SamplingParams()) == 3


@pytest.mark.parametrize("drawn", DRAWINGS.values(), ids=DRAWINGS)
@pytest.mark.parametrize("rule", RULES)
def test_a_step_needs_no_value_of_the_device(rule: str, drawn: SamplingParams) -> None:
    """Where tensors have no values, whatever must know one raises; `restart` is vLLM's."""
    with HostCopies() as watch:
        for batch, done in steps_of(rule, drawn, META):
            assert done.device == META
            batch.restart()
            with pytest.raises(NotImplementedError):
                batch.read()
    assert not watch.waits


def test_one_file_describes_a_decoder_everywhere(tmp_path: Path) -> None:
    lm, prompt = load_lm("pocket"), "Solve 2x+3=9 for x."
    for name in names():
        knob = next((k for k in describe(name)["knobs"] if k["name"] == "threshold"), None)
        decoder = create(name, **({"threshold": 0.83} if knob else {}))
        for format, file in (("sglang", "a.yaml"), ("json", "a.json")):
            (tmp_path / file).write_text(export_text(decoder, format, 16))
            assert load(str(tmp_path / file)) == (decoder, 16)
        assert resolve(export_text(decoder, "text").strip()) == decoder
    file = tmp_path / "credit.yaml"
    file.write_text("name: credit\nthreshold: 99e-2\nblock_size: 16\n")
    assert load(f"{file}:alpha=0.3") == (create("credit", threshold=0.99, alpha=0.3), 16)
    row = lm.new_requests([prompt], GenerationConfig(decoder=str(file)))[0]
    assert row.decoder == create("credit", threshold=0.99) and row.config.block_length == 16
    assert (
        lm.new_requests([prompt], GenerationConfig(decoder=str(file), block_length=8))[
            0
        ].config.block_length
        == 8
    )
    with pytest.raises(OptionError, match="unknown decoder"):
        resolve(str(file))  # what a network client names is never read from disk


BAD = {
    "name: credit\ntreshold: 0.9\n": "allowed: alpha, beta, gamma, threshold",
    "name: kredit\n": "Did you mean 'credit'",
    "threshold: 0.9\n": "without a name",
    "name: credit\nthreshold: 2.5\n": "threshold",
    "name: credit\nblock_size: 0\n": "block_size",
    "name: credit\nblock_size: true\n": "block_size",
    "- credit\n": "no mapping",
    "": "no mapping",
    "name: [credit\n": "not YAML",
    "1: 2\n": "no mapping",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(OptionError) as caught:
        load(str(tmp_path / "d.yaml"))
    assert BAD[text] in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(OptionError, match="cannot be read"):
        load("nowhere.yaml")


def test_seeds_are_stable() -> None:
    assert (
        seed_from_name("a") == seed_from_name("a") != seed_from_name("b")
        and 0 <= seed_from_name("a") < 2**62
    )
