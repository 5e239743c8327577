"""The memory that a checkpoint needs, and what there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from creditdecoding.checkpoint import shards
from creditdecoding.config import EngineConfig
from creditdecoding.errors import CheckpointError
from creditdecoding.models import build_on_meta, load_model, memory
from tests.helpers.bad_checkpoints import one_line
from tools.make_checkpoint import make

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in three files."""
    return make("llada", tmp_path_factory.mktemp("memory"), shards=3, n_kv_heads=2)


def test_the_need_is_that_of_the_loaded_weights(tmp_path: Path) -> None:
    for family in ("llada", "llada2"):
        folder = make(family, tmp_path / family)
        for dtype in ("float32", "bfloat16"):
            model = load_model(folder, EngineConfig(device="cpu", dtype=dtype))
            loaded = sum(tensor.nbytes for tensor in model.state_dict().values())
            assert memory.weight_bytes(build_on_meta(folder)[0], getattr(torch, dtype)) == loaded


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_too_little_memory_is_refused_before_a_file_is_opened(
    dtype: str, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EngineConfig(device="cpu", dtype=dtype)
    count = sum(weight.numel() for weight in load_model(whole, engine).parameters())
    largest_file = max(path.stat().st_size for path in shards(whole))
    need = count * getattr(torch, dtype).itemsize + largest_file
    load_model(whole, engine, free=lambda device: need)
    load_model(whole, engine, free=lambda device: None)
    monkeypatch.setattr("creditdecoding.models.weights.safe_open", None)
    with pytest.raises(CheckpointError, match="not enough memory on cpu") as caught:
        load_model(whole, engine, free=lambda device: need - 1)
    message = one_line(caught.value)
    assert memory.format_bytes(need) in message and memory.format_bytes(need - 1) in message
    assert "int8" in message and "another device" in message


def test_another_device_needs_the_weights_and_the_host_one_file(whole: Path) -> None:
    model, files = build_on_meta(whole)[0], shards(whole)
    weights = memory.weight_bytes(model, torch.bfloat16)
    mapped = max(path.stat().st_size for path in files)

    def check(on_device: int, on_host: int) -> None:
        def free(device: torch.device) -> int:
            return on_host if device.type == "cpu" else on_device

        device = torch.device("meta")  # stands for a GPU
        memory.check_memory(model, files, device, torch.bfloat16, "none", free)

    check(weights, mapped)
    with pytest.raises(CheckpointError, match="on meta"):
        check(weights - 1, mapped)
    with pytest.raises(CheckpointError, match="on cpu"):
        check(weights, mapped - 1)


def test_what_the_host_has_is_the_least_of_system_and_control_groups(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"

    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert memory.host_free_bytes(proc, groups) is None
    write(proc / "meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n")
    assert memory.host_free_bytes(proc, groups) == 4000 * 1024
    write(proc / "self/cgroup", "0::/a/b\n")
    write(groups / "a/b/memory.max", "max\n")
    write(groups / "a/b/memory.current", "1000\n")
    assert memory.host_free_bytes(proc, groups) == 4000 * 1024
    for name, text in (
        ("max", "500000\n"),
        ("current", "450000\n"),
        ("stat", "anon 5\ninactive_file 30000\n"),
    ):
        write(groups / f"a/memory.{name}", text)
    assert memory.host_free_bytes(proc, groups) == 80000
    write(proc / "self/cgroup", "4:memory:/job\n0::/\n")
    write(groups / "memory/job/memory.limit_in_bytes", "70000")
    write(groups / "memory/job/memory.usage_in_bytes", "90000")
    assert memory.host_free_bytes(proc, groups) == 0
    write(groups / "memory/job/memory.limit_in_bytes", "9223372036854771712")
    assert memory.host_free_bytes(proc, groups) == 4000 * 1024


def test_this_machine_has_some_memory() -> None:
    free = memory.free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (3 * 2**40, "3.00 TiB")]
)
def test_bytes_are_shown_in_their_largest_unit(count: int, text: str) -> None:
    assert memory.format_bytes(count) == text
