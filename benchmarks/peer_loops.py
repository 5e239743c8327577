"""The loops of LLaDA, Fast-dLLM and dInfer that `make bench-peers` runs, and what of ours does the
same.

A loop is imported from its file in the checkout. Modules that such a file imports and its loops
never use (networks, vllm, what transformers 5 no longer has) are not needed: empty ones stand in.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from benchmarks.peer_network import PeerNetwork

GEN_LENGTH, BLOCK_LENGTH, THRESHOLD = 64, 32, 0.9
FAST_DLLM_LOOPS = {
    "none": "generate",
    "prefix": "generate_with_prefix_cache",
    "dual": "generate_with_dual_cache",
}
"""Our cache -> Fast-dLLM's function."""
UNROLLS = (4, 1)
"""Passes that dInfer runs before it looks whether a block is done: 4 as shipped."""
COMPILERS = ("g++", "c++", "clang++")
NEVER_USED = {
    "model": (),
    "model.modeling_llada": ("LLaDAModelLM",),
    "transformers.models.layoutlmv2": (),
    "transformers.models.layoutlmv2.modeling_layoutlmv2": ("relative_position_bucket",),
}
"""Modules, and the names in them, that loops import and do not use."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the vocabulary that a loop is told."""

    mask: int
    stop: int


@dataclass(frozen=True)
class Rival:
    """A peer's loop, and the decoder and cache of ours that do the same.

    `early_stop`: it ends after a block with an end token. `has_flat_cache`: see `PeerNetwork`.
    """

    name: str
    generate: Callable[[PeerNetwork, Tensor], Tensor]
    decoder: str
    cache: str = "none"
    early_stop: bool = False
    has_flat_cache: bool = False


@dataclass(frozen=True)
class Peer:
    """A repository: `files`, one of which a checkout holds, and the loops in that file."""

    title: str
    repository: str
    files: tuple[str, ...]
    rivals: Callable[[Path, SpecialIds], Iterator[Rival]]

    def find(self, folder: Path) -> Path:
        """The file of the loops in a checkout."""
        for name in self.files:
            if (path := folder / name).is_file():
                return path
        raise SystemExit(
            f"error: {folder} holds no {self.title}: there is no {' or '.join(self.files)} in it."
            f" Name the folder of a checkout of {self.repository}, or a git URL."
        )


LOOP_LENGTHS = {"steps": GEN_LENGTH, "gen_length": GEN_LENGTH, "block_length": BLOCK_LENGTH}
"""How long the answers of LLaDA's and Fast-dLLM's loops are."""


def llada_rivals(path: Path, ids: SpecialIds) -> Iterator[Rival]:
    """LLaDA: one token a step."""
    loop = member(load_file(path, "llada_generate"), "generate", path)
    yield Rival("LLaDA fixed", partial(llada_answer, loop, ids.mask), "fixed")


def llada_answer(loop: Any, mask_id: int, network: PeerNetwork, prompt: Tensor) -> Tensor:
    """Prompt and answer, [1, length]."""
    answer: Tensor = loop(network, prompt, mask_id=mask_id, **LOOP_LENGTHS)
    return answer


def fast_dllm_rivals(path: Path, ids: SpecialIds) -> Iterator[Rival]:
    """Fast-dLLM's three loops: one token a step, and by threshold."""
    module = load_file(path, "fast_dllm_generate")
    rules = {"fixed": None, f"threshold:threshold={THRESHOLD}": THRESHOLD}
    for cache, function in FAST_DLLM_LOOPS.items():
        loop = member(module, function, path)
        for decoder, threshold in rules.items():
            yield Rival(
                row_name("Fast-dLLM", decoder, cache),
                partial(fast_dllm_answer, loop, threshold, ids.mask),
                decoder,
                cache,
            )


def fast_dllm_answer(
    loop: Any, threshold: float | None, mask_id: int, network: PeerNetwork, prompt: Tensor
) -> Tensor:
    """Prompt and answer, [1, length]; the loop returns its own count of passes beside them."""
    answer: Tensor = loop(network, prompt, mask_id=mask_id, threshold=threshold, **LOOP_LENGTHS)[0]
    return answer


def dinfer_rivals(path: Path, ids: SpecialIds) -> Iterator[Rival]:
    """dInfer's loop with three decoders, each cache, as shipped and without unrolling."""
    check_compiler()
    dinfer = import_dinfer(path)
    decoders = dinfer_decoders(dinfer, path, ids)
    for decoder, cache, unroll in itertools.product(decoders, FAST_DLLM_LOOPS, UNROLLS):
        runner = partial(dinfer_runner, dinfer, decoders[decoder], cache, unroll)
        yield Rival(
            f"{row_name('dInfer', decoder, cache)}, unroll {unroll}",
            partial(dinfer_answer, runner),
            decoder,
            cache,
            early_stop=True,
            has_flat_cache=True,
        )


def check_compiler() -> None:
    """dInfer's rules are wrapped in torch.compile."""
    if not compiles() or any(shutil.which(name) for name in COMPILERS):
        return
    raise SystemExit(
        f"error: dInfer compiles its rules, and no C++ compiler was found ({', '.join(COMPILERS)})."
        " Install one, or run the rules uncompiled: TORCHDYNAMO_DISABLE=1 make bench-peers ..."
    )


def compiles() -> bool:
    """Whether torch.compile does anything."""
    return os.environ.get("TORCHDYNAMO_DISABLE") != "1"


def dinfer_decoders(
    dinfer: ModuleType, path: Path, ids: SpecialIds
) -> dict[str, Callable[[], Any]]:
    """Our decoder -> what makes dInfer's, with our constants."""
    common = {
        "threshold": THRESHOLD,
        "temperature": 0.0,
        "mask_id": ids.mask,
        "eos_id": ids.stop,
    }
    credit = {"credit_alpha": 0.65, "decay_beta": 0.7, "boost_gamma": 0.2}
    classes: dict[str, tuple[str, dict[str, float]]] = {
        "threshold": ("ThresholdParallelDecoder", {}),
        "credit": ("CreditThresholdParallelDecoder", credit),
        "hierarchy": ("HierarchyDecoder", {"low_threshold": 0.4}),
    }
    return {
        f"{name}:threshold={THRESHOLD}": partial(member(dinfer, kind, path), **common, **own)
        for name, (kind, own) in classes.items()
    }


def dinfer_runner(
    dinfer: ModuleType,
    decoder: Callable[[], Any],
    cache: str,
    unroll: int,
    network: PeerNetwork,
) -> Any:
    """dInfer's loop; a decoder keeps state, so each answer has its own."""
    return dinfer.BlockWiseDiffusionLLM(
        network,
        decoder(),
        dinfer.BlockIteratorFactory(),
        cache_factory=None if cache == "none" else dinfer.KVCacheFactory(cache),
        early_stop=True,
        maximum_unroll=unroll,
    )


def dinfer_answer(
    runner: Callable[[PeerNetwork], Any], network: PeerNetwork, prompt: Tensor
) -> Tensor:
    """Prompt and answer without end tokens, [1, length]."""
    answer: Tensor = runner(network).generate(
        prompt, gen_length=GEN_LENGTH, block_length=BLOCK_LENGTH
    )
    return answer


def row_name(peer: str, decoder: str, cache: str) -> str:
    """A row of the table: the decoder without its knobs, and the cache if there is one."""
    rule = decoder.partition(":")[0]
    return f"{peer} {rule}" if cache == "none" else f"{peer} {rule}, {cache}"


PEERS = {
    "llada": Peer("LLaDA", "github.com/ML-GSAI/LLaDA", ("generate.py",), llada_rivals),
    "fast_dllm": Peer(
        "Fast-dLLM",
        "github.com/NVlabs/Fast-dLLM",
        ("v1/llada/generate.py", "llada/generate.py"),
        fast_dllm_rivals,
    ),
    "dinfer": Peer(
        "dInfer",
        "github.com/inclusionAI/dInfer",
        ("python/dinfer/decoding/__init__.py",),
        dinfer_rivals,
    ),
}


def load_file(path: Path, name: str) -> ModuleType:
    """A Python file as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with importing(path), standing_in():
        spec.loader.exec_module(module)
    return module


def import_dinfer(path: Path) -> ModuleType:
    """`dinfer.decoding`, whose __init__ is `path`, without dinfer's own __init__, which imports
    vllm.

    The package stays in `sys.modules`: torch.compile looks functions up there.
    """
    package = ModuleType("dinfer")
    package.__path__ = [str(path.parent.parent)]
    sys.modules["dinfer"] = package
    with importing(path), standing_in():
        module = importlib.import_module("dinfer.decoding")
    for name in ("BlockWiseDiffusionLLM", "BlockIteratorFactory", "KVCacheFactory"):
        member(module, name, path)
    return module


@contextmanager
def standing_in() -> Iterator[None]:
    """Modules of `NEVER_USED` are empty ones; what was there comes back."""
    before = {name: sys.modules.get(name) for name in NEVER_USED}
    for name, members in NEVER_USED.items():
        sys.modules[name] = module = ModuleType(name)
        vars(module).update(dict.fromkeys(members))
    try:
        yield
    finally:
        for name, module_before in before.items():
            del sys.modules[name]
            if module_before is not None:
                sys.modules[name] = module_before


@contextmanager
def importing(path: Path) -> Iterator[None]:
    """Says in one line what a peer's code lacks."""
    try:
        yield
    except ImportError as error:
        raise SystemExit(
            f"error: {path} cannot be imported: {error}. Install what that checkout needs."
        ) from error


def member(module: ModuleType, name: str, path: Path) -> Any:
    """A function or class of a peer's module."""
    if hasattr(module, name):
        return getattr(module, name)
    raise SystemExit(
        f"error: {path} has no {name}, which this comparison runs."
        " Check out a commit that has it, or leave this peer out."
    )
