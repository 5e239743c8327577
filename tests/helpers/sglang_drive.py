"""Drives the released SGLang's own loops with our algorithms and a scripted model, and compares
every decision with our loop.

Run by tests/integrations/test_sglang.py in a process that has SGLang on its path; prints one JSON
object. What SGLang's scheduler does with what `run`
returns (blocks that follow each other, requests that come, go and are mixed anew each round, state
kept with the request) is done here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, export_text
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_request
from creditdecoding.integrations.blocks import check_decoder, seed_from_name
from creditdecoding.integrations.sglang.plugin import (
    ALGORITHMS,
    algorithm_decoders,
    algorithm_name,
)
from creditdecoding.models.kv_cache import ModelGeometry
from creditdecoding.ops.noise import gumbel_noise, uniform_noise
from creditdecoding.trace import StepEvent
from creditdecoding.train.parallel import join_group
from tests.helpers.outside import HALF, write
from tools.sglang_env import stand_in

MASK, END, VOCAB = 3, 1, 61
SHARD = 40  # ids of a process, where two share the vocabulary
DELETE, SPLIT = 9, 11  # control tokens: one of the tokenizer's files, one of the config
CPU = torch.device("cpu")
Commits = list[tuple[int, dict[int, int]]]


CONFIG = SimpleNamespace()
"""The checkpoint's config, filled in by `main`."""


def favourites(who: int, position: torch.Tensor) -> torch.Tensor:
    """The ids [n] that the scripted model likes best at `position` [n]."""
    return (uniform_noise(torch.tensor(who), position) * VOCAB).long()


def model_config(folder: Path) -> Any:
    """SGLang's config of a checkpoint whose files name two control tokens."""
    words = {f"w{i}": i for i in range(VOCAB) if i not in (MASK, DELETE)}
    words |= {"<|mask|>": MASK, "<|delete|>": DELETE}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<|mask|>"}))
    hf_config = SimpleNamespace(split_token_id=SPLIT)
    return SimpleNamespace(model_path=str(folder), revision=None, hf_config=hf_config)


def script(who: int, seen: list[int], start: int, position: torch.Tensor) -> torch.Tensor:
    """Logits [n, VOCAB] at `position` [n]: a function of the request, the whole text up to the
    block's end, and the position.
    """
    total = sum((i + 1) * token for i, token in enumerate(seen)) % 1_000_003
    progress = 1 - seen[start:].count(MASK) / len(seen[start:])
    keys = (torch.tensor(who), position[:, None])
    favourite = favourites(who, position)[:, None]
    logits = 1.2 * gumbel_noise(*keys, torch.tensor(total), torch.arange(VOCAB)[None])
    return logits.scatter_add_(
        1, favourite, 1 + 6 * uniform_noise(*keys, torch.tensor(7)) + 4 * progress
    ).float()


@dataclass
class Request:
    """A request as SGLang's scheduler keeps it: text so far, the block under way, and the
    algorithm's state.
    """

    who: int
    prompt: list[int]
    blocks: int
    drawing: tuple[float, int, float]
    text: list[int] = field(default_factory=list)
    block: list[int] | None = None
    state: Any = None
    commits: Commits = field(default_factory=list)

    @property
    def rid(self) -> str:
        return f"r{self.who}"


class Runner:
    """In place of SGLang's model runner: the scripted model over the batch's blocks; may break the
    logits of a request.
    """

    sharded_passes = 0
    """Passes of all runners whose logits were a process's shard."""

    def __init__(
        self,
        requests: dict[str, Request],
        break_it: Callable[[str, torch.Tensor], None] | None = None,
    ) -> None:
        self.requests, self.break_it, self.passes = requests, break_it, 0
        self.model_config = CONFIG
        processor = SimpleNamespace(do_tensor_parallel_all_gather=dist.is_initialized())
        self.model = SimpleNamespace(logits_processor=processor)

    def forward(self, batch: Any, pp_proxy_tensors: Any = None) -> Any:
        self.passes += 1
        tokens = batch.input_ids.view(batch.batch_size, -1)
        assert int(tokens.min()) >= 0, "an id outside the vocabulary reached the model"
        parts = []
        for row, rid in enumerate(batch.rids):
            request, start = self.requests[rid], batch.extend_prefix_lens_cpu[row]
            logits = script(
                request.who,
                request.text[:start] + tokens[row].tolist(),
                start,
                batch.positions.view(tokens.shape)[row],
            )
            if self.break_it is not None:
                self.break_it(rid, logits)
            parts.append(logits)
        whole = torch.cat(parts)
        if dist.is_initialized() and not self.model.logits_processor.do_tensor_parallel_all_gather:
            padded = torch.nn.functional.pad(whole, (0, 2 * SHARD - VOCAB), value=99.0)
            Runner.sharded_passes += 1
            whole = padded[:, dist.get_rank() * SHARD :][:, :SHARD].clone()
        return SimpleNamespace(
            logits_output=SimpleNamespace(full_logits=whole), can_run_graph=False
        )


def batch_of(requests: list[Request], length: int) -> Any:
    """A ForwardBatch as SGLang fills it for one block of each request."""
    ids, starts = [], []
    for request in requests:
        start = len(request.text) // length * length
        if request.block is None:
            request.block = (request.text[start:] + [MASK] * length)[:length]
        ids += request.block
        starts.append(start)
    position = torch.tensor([start + i for start in starts for i in range(length)])
    literal = any(MASK in request.text for request in requests)
    in_prompt = (
        position.view(-1, length)
        < torch.tensor([len(request.text) for request in requests])[:, None]
    )
    drawings = [request.drawing for request in requests]
    top_k = [1 if t == 0 else k for t, k, _ in drawings]
    info = SimpleNamespace(
        temperatures=torch.tensor([[t or 1.0] for t, _, _ in drawings]),
        top_ks=torch.tensor(top_k, dtype=torch.int32),
        top_ps=torch.tensor([p for _, _, p in drawings]),
        is_all_greedy=all(k == 1 for k in top_k),
        sampling_seed=None,
        vocab_size=VOCAB,
    )
    return SimpleNamespace(
        batch_size=len(requests),
        input_ids=torch.tensor(ids),
        positions=position,
        rids=[request.rid for request in requests],
        extend_prefix_lens_cpu=starts,
        dllm_prompt_mask=in_prompt if literal else None,
        sampling_info=info,
    )


def watched(algorithm: Any, requests: dict[str, Request], length: int) -> None:
    """Note what each pass writes; it must write in place and leave what was given alone."""
    step = algorithm.fdfo_batched_step

    def noting(batch: Any, logits: Any, blocks: Any) -> None:
        before, pointer = batch.input_ids.clone().view(-1, length), batch.input_ids.data_ptr()
        step(batch, logits, blocks)
        after = batch.input_ids.view(-1, length)
        assert batch.input_ids.data_ptr() == pointer and len(blocks.done) == batch.batch_size
        for row, rid in enumerate(batch.rids):
            request, start = requests[rid], batch.extend_prefix_lens_cpu[row]
            count = len(request.text) - start
            if count > 0:
                assert after[row, :count].tolist() == request.text[start:], (
                    "a given position was written"
                )
            moved = (before[row] != after[row]).nonzero()[:, 0].tolist()
            if moved:
                request.commits.append((start, {start + i: int(after[row, i]) for i in moved}))

    algorithm.fdfo_batched_step = noting


PASSES = 3
"""Passes of a round of several."""


def run_rounds(algorithm: Any, runner: Runner, batch: Any, carried: list[Any]) -> Any:
    """A round of several passes, as SGLang's pull request 33190 drives the batched hooks."""
    states = own_or_fresh(algorithm, batch, carried)
    blocks = algorithm.fdfo_batched_begin(batch, states)
    for i in range(PASSES):
        if i and algorithm.fdfo_batched_all_finished(blocks):
            break
        out = runner.forward(batch).logits_output
        algorithm.fdfo_batched_step(batch, out.full_logits, blocks)
    return fdfo_answer(batch, algorithm.fdfo_batched_end(blocks, states), states)


def run_on_device(algorithm: Any, runner: Runner, batch: Any, carried: list[Any]) -> Any:
    """A pass whose `step` answers with a tensor, as in 40756, and is given what the logits
    processor returned, as in later revisions.
    """
    states = own_or_fresh(algorithm, batch, carried)
    done = algorithm.step(batch, runner.forward(batch).logits_output, states)
    assert isinstance(done, torch.Tensor) and done.dtype == torch.bool
    return fdfo_answer(batch, done.tolist(), states)


def own_or_fresh(algorithm: Any, batch: Any, carried: list[Any]) -> list[Any]:
    """The states of a round: what requests carry, else new ones."""
    fresh = algorithm.init_step_state(batch)
    return [new if old is None else old for old, new in zip(carried, fresh)]


def fdfo_answer(batch: Any, done: list[bool], states: list[Any]) -> Any:
    """What SGLang's `run` returns for a round."""
    ids = batch.input_ids.view(batch.batch_size, -1)
    kept = [None if ready else state for ready, state in zip(done, states)]
    return None, ids.tolist(), [ids.shape[1] * ready for ready in done], kept, False


LOOPS: dict[str, Any] = {"rounds": run_rounds, "device": run_on_device}
"""Of open pull requests, in place of SGLang's own loop."""

MODES = ("sync", "fdfo", *LOOPS)


@contextlib.contextmanager
def installed_as(mode: str, algorithm: Any) -> Iterator[None]:
    """As in an SGLang that has the loop of the mode, and the hooks for it."""
    own: Any = sys.modules["creditdecoding.integrations.sglang.algorithm"]
    released = own.HOOKS
    if mode in LOOPS:
        algorithm._run_fdfo = functools.partial(LOOPS[mode], algorithm)
        own.HOOKS = own.SglangHooks(mode == "rounds", mode == "device")
    yield
    own.HOOKS = released


def prefill(algorithm: Any, runner: Runner, request: Request, length: int) -> None:
    """The whole blocks of a prompt, which SGLang runs for their keys and values alone: nothing may
    be written.
    """
    for start in range(0, len(request.prompt) - length + 1, length):
        request.text, request.block = request.prompt[:start], request.prompt[start : start + length]
        batch = batch_of([request], length)
        batch.dllm_prompt_mask = (
            torch.ones(1, length, dtype=torch.bool) if MASK in request.block else None
        )
        ids, accepted = algorithm.run(runner, batch, [None])[1:3]
        assert (ids, accepted) == (([request.block], [length]) if algorithm.fdfo else ([], None))
    request.text, request.block = list(request.prompt), None


def drive_sync(algorithm: Any, runner: Runner, requests: list[Request], length: int) -> None:
    """Whole blocks, as `--no-dllm-fdfo` schedules them."""
    for request in requests:
        prefill(algorithm, runner, request, length)
    alive = [request for request in requests if request.blocks]
    while alive:
        batch = batch_of(alive, length)
        starts = [len(request.text) % length for request in alive]
        ids = algorithm.run(runner, batch)[1]
        for request, start, new in zip(alive, starts, ids):
            assert len(new) == length - start
            request.text, request.block, request.blocks = (
                request.text + new.tolist(),
                None,
                request.blocks - 1,
            )
        alive = [request for request in alive if request.blocks]


def drive_fdfo(
    algorithm: Any,
    runner: Runner,
    requests: list[Request],
    length: int,
    dice: random.Random,
    abort: set[str],
) -> None:
    """A round over a mix of requests that is new each round; some are aborted on the way,
    others come later.

    What an aborted request leaves behind is handed to one whose block begins, as by a scheduler
    that mixes them up: it must not matter.
    """
    waiting, alive, left = list(requests), [], None
    for request in requests:
        prefill(algorithm, runner, request, length)
    while waiting or alive:
        while waiting and (not alive or dice.random() < 0.6):
            alive.append(waiting.pop())
        advanced = dice.sample(alive, dice.randint(1, len(alive)))
        batch = batch_of(advanced, length)
        _, ids, accepted, states, _ = algorithm.run(
            runner, batch, [request.state or left for request in advanced]
        )
        for request, new, count, state in zip(advanced, ids, accepted, states):
            request.block, request.state = new, state
            if count:
                assert state is None and count == length
                start = len(request.text) // length * length
                request.text = request.text[:start] + new
                request.block, request.blocks = None, request.blocks - 1
            if request.rid in abort and dice.random() < 0.2:
                request.blocks, left = 0, state
        alive = [request for request in alive if request.blocks]


def ours(decoder: Any, requests: list[Request], length: int) -> dict[int, Commits]:
    """What our loop commits, request by request."""
    words = SpecialTokens(MASK, (END,), VOCAB, lambda ids: " ".join(map(str, ids)), (DELETE, SPLIT))

    def model(
        tokens: torch.Tensor, read: tuple[torch.Tensor, torch.Tensor], allowed: Any = None
    ) -> torch.Tensor:
        rows, columns = read
        parts = []
        for row in rows.unique().tolist():
            row_columns = columns[rows == row]
            start = int(row_columns.min()) // length * length
            seen = tokens[row, : start + length].tolist()
            parts.append(
                script(seen[0] + VOCAB * (seen[1] + VOCAB * seen[2]), seen, start, row_columns)
            )
        return torch.cat(parts)

    rows = []
    for i, request in enumerate(requests):
        temperature, top_k, top_p = request.drawing
        kept = GenerationConfig(
            decoder=decoder,
            gen_length=request.blocks * length - len(request.prompt) % length,
            cache="none",
            temperature=temperature,
            top_k=top_k if temperature and top_k < VOCAB else None,
            top_p=top_p if temperature and top_p < 1 else None,
            seed=seed_from_name(request.rid),
            early_stop=False,
        )
        rows.append(
            new_request(i, request.prompt, kept, words, 10_000, ModelGeometry(causal_block=length))
        )
    commits_of: dict[int, Commits] = {request.who: [] for request in requests}
    for event in denoise(model, rows, words, CPU, len(rows)):
        if isinstance(event, StepEvent):
            commits = {
                position: token
                for position, token, wrote in zip(event.positions, event.tokens, event.committed)
                if wrote
            }
            if commits:
                commits_of[requests[event.row].who].append(
                    (event.positions[0] // length * length, commits)
                )
    return commits_of


def some_requests(
    dice: random.Random, length: int, count: int | None = None, odd: int = 5
) -> list[Request]:
    """1 to 7 requests; prompts end anywhere in a block, some hold the id `odd`; all drawn alike, or
    each in its own way.
    """
    ways = (
        (0.0, VOCAB, 1.0),
        (0.7, 1 << 30, 1.0),
        (1.0, 5, 1.0),
        (1.3, 1 << 30, 0.8),
        (0.9, 8, 0.9),
    )
    count = count or dice.choice((1, 2, 4, 7))
    alike = dice.choice((None, None, ways[0], dice.choice(ways)))
    requests: dict[int, Request] = {}
    while len(requests) < count:
        head = [dice.randrange(4, VOCAB) for _ in range(3)]
        who = head[0] + VOCAB * (head[1] + VOCAB * head[2])
        tail = [
            dice.choice((odd, 5, 6, 7, 8)) if dice.random() < 0.3 else dice.randrange(4, VOCAB)
            for _ in range(dice.randrange(2 * length))
        ]
        drawing = alike or dice.choice(ways)
        requests[who] = Request(who, head + tail, dice.randint(1, 3), drawing)
    return list(requests.values())


def made(sglang: Any, name: str, fdfo: bool, length: int, text: str) -> Any:
    """An algorithm as SGLang's worker makes it, from server arguments that name a YAML file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "credit.yaml"
        file.write_text(text)
        arguments = SimpleNamespace(
            dllm_algorithm=name,
            dllm_algorithm_config=str(file),
            dllm_fdfo=fdfo,
            model_path="SDARForCausalLM",
            revision=None,
            max_running_requests=8,
        )
        config = sglang.DllmConfig.from_server_args(arguments)
        assert config.block_size == length and config.mask_id != MASK
        config.mask_id = MASK
        return sglang.get_algorithm(config)


def control_counts(requests: list[Request]) -> tuple[int, int]:
    """How many committed tokens are control tokens, and how many positions would have liked one."""
    written = liked = 0
    for request in requests:
        for _, commits in request.commits:
            written += sum(token in (DELETE, SPLIT) for token in commits.values())
            likes = favourites(request.who, torch.tensor([*commits]))
            liked += sum(token in (DELETE, SPLIT) for token in likes.tolist())
    return written, liked


def scenario(sglang: Any, name: str, mode: str, dice: random.Random) -> tuple[int, int, int, int]:
    """One random case: how many steps of requests were compared, how many of them differ, and
    `control_counts`.
    """
    length, decoder, fdfo = dice.choice((4, 8, 16)), create(name), mode != "sync"
    tells = hasattr(
        sglang.base.DllmAlgorithm, "_prompt_mask"
    )  # mask tokens in prompts from masks to write
    requests = some_requests(dice, length, odd=MASK if tells else 5)
    text = export_text(decoder, "sglang", length)
    if dist.is_initialized():
        text += "vocab_parallel: true\n"
    algorithm = made(sglang, algorithm_name(name), fdfo, length, text)
    expected = ours(decoder, requests, length)
    aborted = {request.rid for request in requests if fdfo and dice.random() < 0.25}
    known = {request.rid: request for request in requests}
    watched(algorithm, known, length)
    if fdfo:
        with installed_as(mode, algorithm):
            drive_fdfo(algorithm, Runner(known), requests, length, dice, aborted)
    else:
        drive_sync(algorithm, Runner(known), requests, length)
    steps = differing = 0
    for request in requests:
        want = expected[request.who][: len(request.commits) if request.rid in aborted else None]
        steps += max(len(want), len(request.commits))
        differing += sum(a != b for a, b in zip(want, request.commits)) + abs(
            len(want) - len(request.commits)
        )
    return steps, differing, *control_counts(requests)


def broken(sglang: Any, mode: str) -> dict[str, Any]:
    """One of three requests gets NaN from its third pass on; then a batch gets logits of a wrong
    shape.
    """
    length, dice, fdfo = 8, random.Random(5), mode != "sync"
    outcome: dict[str, Any] = {}
    for kind in ("none", "nan"):
        requests = [
            replace(request, drawing=(0.0, VOCAB, 1.0))
            for request in some_requests(random.Random(31), length, 3)
        ]
        victim, passes = requests[1].rid, []

        def poison(
            rid: str,
            logits: torch.Tensor,
            kind: str = kind,
            victim: str = victim,
            passes: list[int] = passes,
        ) -> None:
            passes.append(rid == victim)
            if kind == "nan" and rid == victim and sum(passes) > 2:
                logits[-1, 7] = torch.nan

        for request in requests:
            request.blocks = 1
        algorithm = made(sglang, "Fixed", fdfo, length, f"name: fixed\nblock_size: {length}\n")
        runner = Runner({request.rid: request for request in requests}, poison)
        if fdfo:
            with installed_as(mode, algorithm):
                drive_fdfo(algorithm, runner, requests, length, dice, set())
        else:
            drive_sync(algorithm, runner, requests, length)
        outcome[kind] = [request.text for request in requests]
    outcome["victim"], outcome["others"] = (
        outcome["nan"].pop(1),
        outcome["none"].pop(1) is not None and outcome["nan"] == outcome["none"],
    )
    requests = some_requests(random.Random(31), length, 3)
    algorithm = made(sglang, "CreditDecoding", fdfo, length, f"block_size: {length}\n")
    for request in requests:
        request.text = request.prompt
    answers = []
    for shape in ((2, VOCAB), (len(requests) * length, VOCAB - 1), None):
        batch = batch_of(requests, length)
        logits = None if shape is None else torch.zeros(shape)
        forward = SimpleNamespace(
            logits_output=SimpleNamespace(full_logits=logits), can_run_graph=False
        )
        out = algorithm.run(
            SimpleNamespace(forward=lambda *_, forward=forward, **__: forward, model_config=CONFIG),
            batch,
            [None] * len(requests),
        )
        answers.append([-1 in list(map(int, ids)) for ids in out[1]])
    outcome["shapes"] = all(map(all, answers))
    del outcome["none"], outcome["nan"]
    return outcome


def refusals(sglang: Any) -> dict[str, str]:
    """What each bad configuration and request is answered."""

    def launch(name: str, model: str, text: str) -> str:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            file.write(text)
            file.flush()
            arguments = SimpleNamespace(
                dllm_algorithm=name,
                dllm_algorithm_config=file.name,
                dllm_fdfo=True,
                revision=None,
                max_running_requests=1,
            )
            arguments.model_path = model
            try:
                sglang.get_algorithm_cls(name).configure_server_args(arguments)
            except Exception as error:
                return f"{type(error).__name__}: {error}"
        return "fine"

    decoder_file = write(Path(tempfile.mkdtemp()), "half.py", HALF)
    cls = sglang.get_algorithm_cls("CreditDecoding")
    plain = dict.fromkeys(("logit_bias", "json_schema", "regex", "ebnf", "structural_tag"), None)
    sampling = SimpleNamespace(
        min_p=0.0,
        frequency_penalty=0.0,
        presence_penalty=0.0,
        repetition_penalty=1.0,
        min_new_tokens=0,
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        **plain,
    )
    request = SimpleNamespace(
        sampling_params=sampling,
        return_logprob=False,
        custom_logit_processor=None,
        origin_input_ids=[1],
        dllm_config=None,
    )
    schema = SimpleNamespace(
        **{
            **vars(request),
            "sampling_params": SimpleNamespace(
                **{**vars(sampling), "json_schema": "{}", "min_p": 0.1}
            ),
        }
    )
    return {
        "fine": launch("CreditDecoding", "LLaDA2MoeModelLM", "threshold: 0.95\nblock_size: 32\n"),
        "knob": launch("CreditDecoding", "LLaDA2MoeModelLM", "treshold: 0.95\n"),
        "value": launch("CreditDecoding", "LLaDA2MoeModelLM", "threshold: high\n"),
        "other": launch("CreditDecoding", "LLaDA2MoeModelLM", "name: frechet\n"),
        "block": launch("CreditDecoding", "LLaDA2MoeModelLM", "block_size: 16\n"),
        "declared": launch("CreditDecoding", "SDARForCausalLM:8", "block_size: 16\n"),
        "undeclared": launch("CreditDecoding", "SDARForCausalLM", "block_size: 16\n"),
        "shadows": launch("Wino", "LLaDA2MoeModelLM", ""),
        "file": launch("DecoderFile", "LLaDA2MoeModelLM", f"name: {decoder_file}\n"),
        "no_file": launch("DecoderFile", "LLaDA2MoeModelLM", "threshold: 0.8\n"),
        "model": launch("CreditDecoding", "DiffusionGemmaForBlockDiffusion", ""),
        "request": cls.validate_request(request) or "fine",
        "schema": cls.validate_request(schema) or "fine",
    }


def unable() -> set[str]:
    """Decoders that SGLang cannot run; their algorithms say so."""
    refused = set()
    for name in algorithm_decoders().values():
        try:
            check_decoder(create(name), name)
        except Exception:
            refused.add(name)
    return refused


def main_of_two(scenarios: int, rank: int, store: str) -> None:
    """The scenarios of one loop as one of two processes that share the vocabulary."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    join_group(rank, 2, Path(store))
    folder = tempfile.TemporaryDirectory()
    vars(CONFIG).update(vars(model_config(Path(folder.name))))
    stand_in()
    from sglang.srt.plugins import load_plugins  # noqa: PLC0415

    load_plugins()
    import sglang.srt.dllm.algorithm as registry  # noqa: PLC0415
    from sglang.srt.runtime_context import get_parallel  # noqa: PLC0415

    processes = SimpleNamespace(device_group=dist.group.WORLD)
    get_parallel().override_permanently(tp_group=processes)
    dice = random.Random(11)
    names = sorted(set(algorithm_decoders().values()) - unable())
    cases = [scenario(registry, name, "fdfo", dice) for name in names for _ in range(scenarios)]
    steps, differing, _, _ = map(sum, zip(*cases))
    counts = {"scenarios": len(cases), "steps": steps, "differing": differing}
    print(json.dumps({**counts, "sharded_passes": Runner.sharded_passes}))


def main(scenarios: int) -> None:
    """Everything, `each` scenarios a decoder and mode."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    folder = tempfile.TemporaryDirectory()
    vars(CONFIG).update(vars(model_config(Path(folder.name))))
    stand_in()
    began = time.perf_counter()
    from sglang.srt.plugins import load_plugins  # noqa: PLC0415

    load_plugins()
    lazy = ALGORITHMS not in sys.modules
    import sglang.srt.dllm.algorithm as registry  # noqa: PLC0415
    import sglang.version  # noqa: PLC0415
    from sglang.srt.dllm.algorithm.base import DllmAlgorithm  # noqa: PLC0415

    ready = time.perf_counter() - began
    own_steps = [
        name
        for name in algorithm_decoders()
        if issubclass(registry.algo_name_to_cls[name], DllmAlgorithm)
    ]
    names, dice = sorted(set(algorithm_decoders().values()) - unable()), random.Random(11)
    results = {
        (name, mode): [scenario(registry, name, mode, dice) for _ in range(scenarios)]
        for name in names
        for mode in MODES
    }
    every = [case for cases in results.values() for case in cases]
    report = {
        "version": sglang.version.__version__,
        "lazy": lazy,
        "hooks": str(sys.modules["creditdecoding.integrations.sglang.algorithm"].HOOKS),
        "algorithms": len(own_steps),
        "kept": all(
            name in registry.algo_name_to_cls for name in ("LowConfidence", "JointThreshold")
        ),
        "scenarios": len(every),
        "steps": sum(case[0] for case in every),
        "differing": sum(case[1] for case in every),
        "control_written": sum(case[2] for case in every),
        "control_liked": sum(case[3] for case in every),
        "culprits": sorted(
            f"{name} {mode}"
            for (name, mode), cases in results.items()
            if any(case[1] for case in cases)
        ),
        "broken": {mode: broken(registry, mode) for mode in MODES},
        "refusals": refusals(registry),
        "unable": sorted(unable()),
        "seconds": [round(ready, 1), round(time.perf_counter() - began - ready, 1)],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main_of_two(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        main(int(sys.argv[1]))
