"""Drives vLLM's ModelState and sampler interfaces with our rules and a scripted model, and compares
every decision with our loop.

Run by tests/integrations/test_vllm.py in a process that has vLLM's Python files on its path; prints
one JSON object. What vLLM's scheduler and model runner do with what the sampler returns (prompts
read in pieces, canvases as draft tokens, positions taken back, slots used again, requests that end,
are preempted and mixed anew each pass) is done here.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import _credit, create, names
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import SpecialTokens, new_request
from creditdecoding.integrations.blocks import check_decoder
from creditdecoding.ops import vocab_stats
from creditdecoding.trace import StepEvent
from tests.helpers.device_waits import DeviceWaits
from tests.helpers.released_package import ReleasedPackage
from tests.helpers.sglang_drive import DELETE, END, MASK, SPLIT, VOCAB, model_config, script
from tools import vllm_env

CPU = torch.device("cpu")
SLOTS, LONGEST = 6, 120
Commits = list[tuple[int, dict[int, int]]]
WATCH = DeviceWaits()
"""Sees where the sampler would make the host wait for a device."""

CONFIG = SimpleNamespace()
"""The checkpoint's config, filled in by `main`."""


@dataclass
class Sequence:
    """A request as vLLM's scheduler and runner keep it."""

    who: int
    prompt: list[int]
    new_tokens: int
    params: Any
    slot: int | None = None
    output: list[int] = field(default_factory=list)
    computed: int = 0
    prefill: int = 0
    commits: Commits = field(default_factory=list)
    open_from: int = 0

    @property
    def req_id(self) -> str:
        return f"r{self.who}"

    @property
    def text(self) -> list[int]:
        return self.prompt + self.output

    @property
    def is_finished(self) -> bool:
        return len(self.output) >= self.new_tokens


def state_of(vllm: Any, rule: Any, length: int) -> Any:
    """A model state as vLLM makes it."""
    model = SimpleNamespace(
        hf_config=SimpleNamespace(mask_token_id=MASK, split_token_id=SPLIT),
        architecture="SDARForCausalLM",
        model=CONFIG.model_path,
        revision=None,
        dtype=torch.float32,
        max_model_len=LONGEST,
        get_inputs_embeds_size=lambda: 1,
    )
    config = SimpleNamespace(
        model_config=model,
        scheduler_config=SimpleNamespace(max_num_seqs=SLOTS, max_num_batched_tokens=512),
        diffusion_config=SimpleNamespace(canvas_length=length),
        additional_config={"creditdecoding": rule},
    )
    return vllm.BlockDiffusionState(config, SimpleNamespace(), None, CPU)


class Runner:
    """In place of vLLM's scheduler and model runner, for one model state."""

    def __init__(self, vllm: Any, state: Any, length: int) -> None:
        self.vllm, self.state, self.length = vllm, state, length
        self.req_states = SimpleNamespace(
            draft_tokens=torch.zeros(SLOTS, length, dtype=torch.int64), device=CPU
        )
        noted = SimpleNamespace(
            add_request=lambda *_: None,
            apply_staged_writes=lambda: None,
        )
        base = SimpleNamespace(sampling_states=noted, req_states=self.req_states)
        self.sampler, rejection = state.custom_sampler(base)
        assert rejection is None and state.num_new_sampled_tokens_per_step == 0
        self.free = list(range(SLOTS))

    def admit(self, request: Sequence) -> None:
        """As `add_requests`: a new request, or one that goes on after it was preempted."""
        request.slot, request.computed = self.free.pop(), 0
        request.prefill = len(request.text)
        self.req_states.draft_tokens[request.slot] = 0
        data = self.vllm.NewRequestData(
            req_id=request.req_id,
            prompt_token_ids=request.prompt,
            mm_features=[],
            sampling_params=request.params,
            pooling_params=None,
            block_ids=([1],),
            num_computed_tokens=0,
            lora_request=None,
            prefill_token_ids=request.text,
        )
        self.state.add_request(request.slot, data)
        self.sampler.add_request(request.slot, request.params)
        self.sampler.apply_staged_writes()

    def leave(self, request: Sequence) -> None:
        """As `finish_requests`, for requests that end, are aborted or preempted."""
        self.state.remove_request(request.req_id)
        self.state.remove_request(request.req_id)
        self.free.insert(0, request.slot)
        request.slot = None

    def run_pass(self, requests: list[Sequence], dice: random.Random) -> None:
        """One pass over these requests, as `execute_model` and `sample_tokens`."""
        queries, canvases = [], []
        for request in requests:
            left = request.prefill - request.computed
            room = LONGEST - request.computed
            canvases.append(0 if left > 0 else min(self.length, room))
            queries.append(dice.randint(1, left) if left > 0 else canvases[-1])
        batch = self.batch_of(requests, queries, canvases)
        before = [self.canvas(request, width) for request, width in zip(requests, canvases)]
        parts = [self.read(request, canvas) for request, canvas in zip(requests, before) if canvas]
        logits = torch.cat(parts) if parts else torch.zeros(0, VOCAB)
        on_device = WATCH.from_device(lambda: logits)
        with WATCH:
            answer = self.sampler(on_device(), batch)
        assert isinstance(answer, self.vllm.SamplerOutput) and answer.logprobs_tensors is None
        counts, rejected = answer.num_sampled.tolist(), answer.num_rejected.tolist()
        for row, request in enumerate(requests):
            emitted = answer.sampled_token_ids[row, : counts[row]].tolist()
            self.note(request, before[row], emitted)
            request.computed += queries[row] - rejected[row]
            request.output += emitted
            assert request.computed == min(request.computed, len(request.text))

    def canvas(self, request: Sequence, width: int) -> list[int]:
        return self.req_states.draft_tokens[request.slot, :width].tolist()

    def read(self, request: Sequence, canvas: list[int]) -> torch.Tensor:
        """The scripted model's logits of a canvas."""
        assert MASK not in request.output and min(canvas) >= 0
        start = len(request.text)
        position = torch.arange(start, start + len(canvas))
        return script(request.who, request.text + canvas, start, position)

    def note(self, request: Sequence, before: list[int], emitted: list[int]) -> None:
        """What the pass wrote; a canvas that is emitted was not changed by its pass."""
        start = len(request.text)
        if emitted:
            assert emitted == before and MASK not in emitted
            assert set(self.canvas(request, len(before))) == {MASK}
            self.check_memory(request)
            request.open_from = len(request.commits)
            return
        after = self.canvas(request, len(before))
        moved = [i for i, (old, new) in enumerate(zip(before, after)) if old != new]
        if moved:
            request.commits.append((start, {start + i: after[i] for i in moved}))

    def check_memory(self, request: Sequence) -> None:
        """Memory that grows by slots is bounded, though no block ever tells the host its end."""
        state = self.state.canvases._canvases[request.slot].block.decoder_state
        assert state.get("slot_ids", torch.zeros(1, 1, 0)).shape[2] <= self.length

    def batch_of(self, requests: list[Sequence], queries: list[int], canvases: list[int]) -> Any:
        """vLLM's InputBatch, as `prepare_inputs` fills it."""
        count = len(requests)
        starts = np.concatenate(([0], np.cumsum(queries))).astype(np.int32)
        logits = np.concatenate(([0], np.cumsum(canvases))).astype(np.int32)
        computed = np.array([r.computed for r in requests], np.int32)
        prefill = np.array([r.prefill for r in requests], np.int32)
        positions = [torch.arange(r.computed, r.computed + q) for r, q in zip(requests, queries)]
        read = [torch.arange(starts[i + 1] - w, starts[i + 1]) for i, w in enumerate(canvases)]
        slots = np.array([r.slot for r in requests], np.intp)
        self.last = self.vllm.InputBatch(
            req_ids=[r.req_id for r in requests],
            num_reqs=count,
            num_reqs_after_padding=count,
            idx_mapping=torch.from_numpy(slots),
            idx_mapping_np=slots,
            expanded_idx_mapping=torch.zeros(0),
            expanded_local_pos=torch.zeros(0),
            num_scheduled_tokens=np.array(queries, np.int32),
            num_tokens=sum(queries),
            num_tokens_after_padding=sum(queries) + 3,
            num_draft_tokens=sum(canvases),
            num_draft_tokens_per_req=np.array(canvases, np.int32),
            query_start_loc=torch.from_numpy(starts),
            query_start_loc_np=starts,
            seq_lens=torch.from_numpy(computed + np.array(queries, np.int32)),
            seq_lens_cpu_upper_bound=torch.zeros(count),
            dcp_local_seq_lens=None,
            num_computed_tokens_np=computed,
            prefill_len_np=prefill,
            num_computed_prefill_tokens_np=np.minimum(computed, prefill),
            is_prefilling_np=computed < prefill,
            has_prefill=bool((computed < prefill).any()),
            decode_graph_eligible=False,
            input_ids=torch.zeros(sum(queries) + 3, dtype=torch.int32),
            positions=torch.cat([*positions, torch.zeros(3, dtype=torch.long)]),
            is_padding=torch.zeros(0, dtype=torch.bool),
            logits_indices=torch.cat(read),
            cu_num_logits=torch.from_numpy(logits),
            cu_num_logits_np=logits,
            has_structured_output_reqs=False,
            prompt_lens=None,
        )
        return self.last


def drive(runner: Runner, requests: list[Sequence], dice: random.Random, abort: set[str]) -> None:
    """Passes over a mix of requests that is new each time; some end early, some are preempted."""
    waiting, alive = list(requests), []
    while waiting or alive:
        while waiting and runner.free and (not alive or dice.random() < 0.5):
            request = waiting.pop()
            runner.admit(request)
            alive.append(request)
        runner.run_pass(dice.sample(alive, dice.randint(1, len(alive))), dice)
        for request in list(alive):
            is_aborted = request.req_id in abort and dice.random() < 0.1
            is_preempted = not request.is_finished and dice.random() < 0.03
            if request.is_finished or is_aborted or is_preempted:
                runner.leave(request)
                alive.remove(request)
            if is_preempted and not is_aborted:
                del request.commits[request.open_from :]
                waiting.append(request)


def some_requests(vllm: Any, dice: random.Random, length: int) -> list[Sequence]:
    """1 to 9 requests, more than there are slots at times; some reach the longest sequence."""
    ways = ({"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 5})
    ways += ({"temperature": 1.3, "top_p": 0.8}, {"temperature": 0.9, "top_k": 8, "top_p": 0.9})
    alike = dice.choice((None, ways[0], dice.choice(ways)))
    requests: dict[int, Sequence] = {}
    count = dice.choice((1, 2, 4, 9))
    while len(requests) < count:
        head = [dice.randrange(4, VOCAB) for _ in range(3)]
        who = head[0] + VOCAB * (head[1] + VOCAB * head[2])
        tail = [dice.randrange(4, VOCAB) for _ in range(dice.randrange(2 * length))]
        params = vllm.SamplingParams(
            **(alike or dice.choice(ways)), seed=dice.choice((7, 123)), max_tokens=64
        )
        new_tokens = dice.randint(1, 3) * length
        if dice.random() < 0.2:
            tail += [dice.randrange(4, VOCAB) for _ in range(LONGEST - 8 - len(tail) - length)]
            new_tokens = LONGEST
        prompt = head + tail
        requests[who] = Sequence(who, prompt, min(new_tokens, LONGEST - len(prompt)), params)
    return list(requests.values())


def ours(rule: Any, requests: list[Sequence], length: int) -> dict[int, Commits]:
    """What our loop commits, request by request; blocks begin after the prompt.

    A pass of vLLM computes one block, so rules that would look at the next one do not.
    """
    if capabilities_of(rule).looks_ahead:
        rule = replace(rule, ahead=False)
    words = SpecialTokens(MASK, (END,), VOCAB, lambda ids: " ".join(map(str, ids)), (DELETE, SPLIT))
    prompts = {request.who: len(request.prompt) for request in requests}

    def model(tokens: torch.Tensor, read: Any, allowed: Any = None) -> torch.Tensor:
        rows, columns = read
        parts = []
        for row in rows.unique().tolist():
            own = columns[rows == row]
            text = tokens[row].tolist()
            who = text[0] + VOCAB * (text[1] + VOCAB * text[2])
            first = prompts[who] + (int(own.min()) - prompts[who]) // length * length
            end = min(first + length, LONGEST)
            parts.append(script(who, text[:end], first, own))
        return torch.cat(parts)

    rows = [
        new_request(
            i,
            request.prompt,
            GenerationConfig(
                decoder=rule,
                gen_length=request.new_tokens,
                block_length=length,
                temperature=request.params.temperature,
                top_k=request.params.top_k if request.params.top_k > 0 else None,
                top_p=request.params.top_p if request.params.top_p < 1 else None,
                seed=request.params.seed,
                early_stop=False,
            ),
            words,
            LONGEST,
        )
        for i, request in enumerate(requests)
    ]
    commits_of: dict[int, Commits] = {request.who: [] for request in requests}
    for event in denoise(model, rows, words, CPU, len(rows)):
        if isinstance(event, StepEvent):
            wrote = {p: t for p, t, c in zip(event.positions, event.tokens, event.committed) if c}
            request = requests[event.row]
            if wrote:
                prompt = len(request.prompt)
                start = prompt + (min(wrote) - prompt) // length * length
                commits_of[request.who].append((start, wrote))
    return commits_of


def scenario(vllm: Any, name: str, dice: random.Random) -> tuple[int, int, int, int]:
    """One random case: steps of requests compared, steps that differ, control tokens written, and
    how often the host would have waited.
    """
    length, rule = dice.choice((4, 8, 16)), create(name)
    requests = some_requests(vllm, dice, length)
    expected = ours(rule, requests, length)
    aborted = {request.req_id for request in requests if dice.random() < 0.2}
    state = state_of(vllm, name, length)
    WATCH.waits.clear()
    drive(Runner(vllm, state, length), requests, dice, aborted)
    assert not state.canvases._canvases and not state.canvases._slot_of
    steps = differing = 0
    for request in requests:
        want = expected[request.who]
        if request.req_id in aborted:
            want = want[: len(request.commits)]
        steps += max(len(want), len(request.commits))
        differing += abs(len(want) - len(request.commits))
        differing += sum(a != b for a, b in zip(want, request.commits))
    control = sum(request.output.count(i) for request in requests for i in (DELETE, SPLIT))
    return steps, differing, control, len(WATCH.waits)


def visible(vllm: Any) -> bool:
    """Whether the pass attends block-causally: each position of a prompt sees the
    end of its own block, and nothing after it. The released function must take what it is given.
    """
    length, attention = 4, {}
    state = state_of(vllm, "credit", length)
    vllm.own.build_attn_metadata = lambda **named: attention.update(named) or {}
    released = ReleasedPackage(vllm_env.FOLDER, "vllm")
    signature = released.signature("vllm.v1.worker.gpu.attn_utils.build_attn_metadata")
    runner = Runner(vllm, state, length)
    requests = [Sequence(0, list(range(10)), 8, vllm.SamplingParams()) for _ in range(2)]
    requests[1].who = 1
    for request in requests:
        runner.admit(request)
    requests[1].computed = 10
    batch = runner.batch_of(requests, [10, 4], [0, 4])
    state.prepare_attn(batch, "NONE", (torch.arange(12).view(2, 6),), torch.zeros(14), [], None)
    signature.bind(**attention)
    pieces = list(
        zip(attention["query_start_loc_gpu"].diff().tolist(), attention["seq_lens"].tolist())
    )
    tables = attention["block_tables"][0].tolist()
    return (
        attention["causal"] is False
        and pieces == [(4, 4), (4, 8), (2, 10), (4, 14)]
        and [table[0] for table in tables] == [0, 0, 0, 6]
        and attention["num_reqs"] == 4
        and attention["max_query_len"] == 4
    )


def launches(vllm: Any) -> dict[str, str]:
    """What each launch and request is answered."""

    def launch(
        length: int = 4096,
        batch: int = 8192,
        seqs: int = 128,
        canvas: int | None = None,
        is_sharded: bool | None = None,
        **more: Any,
    ) -> str:
        config = SimpleNamespace(
            model_config=SimpleNamespace(
                architecture="SDARForCausalLM", hf_config=SimpleNamespace(), max_model_len=length
            ),
            scheduler_config=SimpleNamespace(max_num_batched_tokens=batch, max_num_seqs=seqs),
            diffusion_config=None if canvas is None else SimpleNamespace(canvas_length=canvas),
            attention_config=SimpleNamespace(use_non_causal=False),
            cache_config=SimpleNamespace(enable_prefix_caching=True),
            parallel_config=SimpleNamespace(enable_batch_sharded_sampling=is_sharded),
            additional_config=more,
        )
        try:
            vllm.BlockDiffusionLaunch.verify_and_update_model_config(config.model_config)
            vllm.BlockDiffusionLaunch.verify_and_update_config(config)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        assert not config.scheduler_config.enable_chunked_prefill
        assert config.attention_config.use_non_causal
        return f"canvas {config.diffusion_config.canvas_length}"

    def request(later: dict[str, Any] | None = None, **params: Any) -> str:
        extra = params.pop("extra_args", None)
        made = vllm.SamplingParams(extra_args=extra, **params)
        try:
            vllm.validate_request(made, canvas_length=4, vocab_size=VOCAB, **later or {})
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "fine"

    return {
        "fine": launch(),
        "canvas": launch(canvas=8),
        "prompt": launch(batch=2048),
        "canvases": launch(seqs=4096),
        "sharded": launch(is_sharded=True),
        "rule": launch(creditdecoding="kredit"),
        "knob": launch(creditdecoding={"name": "credit", "treshold": 0.9}),
        "unable": launch(creditdecoding="wino"),
        "request": request(temperature=0.3, top_k=4, top_p=0.9, seed=3),
        "request of a later vLLM": request({"async_scheduling": True}, temperature=0.3),
        "penalty": request(repetition_penalty=1.2, min_p=0.1),
        "logprobs": request(logprobs=0),
        "extra": request(extra_args={"diffusion_read_only": 1}),
    }


def unable() -> set[str]:
    """Rules that vLLM cannot run; their launches say so."""
    refused = set()
    for name in names():
        try:
            check_decoder(create(name), name)
        except Exception:
            refused.add(name)
    return refused


def interfaces() -> Any:
    """What of vLLM and of our plug-in is driven, after vLLM has loaded its plug-ins."""
    import vllm.model_executor.models as networks  # noqa: PLC0415
    import vllm.plugins  # noqa: PLC0415
    from vllm.model_executor.models.registry import ModelRegistry  # noqa: PLC0415

    networks.ModelRegistry = ModelRegistry
    vllm.plugins.load_general_plugins()
    from vllm.sampling_params import SamplingParams  # noqa: PLC0415
    from vllm.v1.core.sched.output import NewRequestData  # noqa: PLC0415
    from vllm.v1.worker.gpu.input_batch import InputBatch  # noqa: PLC0415
    from vllm.v1.worker.gpu.model_states.interface import ModelState  # noqa: PLC0415
    from vllm.v1.worker.gpu.sample.output import SamplerOutput  # noqa: PLC0415

    from creditdecoding.integrations.vllm import launch, model_state, models  # noqa: PLC0415

    launch.DiffusionConfig = SimpleNamespace
    state = models.SdarForBlockDiffusion.get_model_state_cls()
    assert issubclass(state, ModelState) and not state.__abstractmethods__
    return SimpleNamespace(
        SamplingParams=SamplingParams,
        NewRequestData=NewRequestData,
        InputBatch=InputBatch,
        SamplerOutput=SamplerOutput,
        BlockDiffusionState=state,
        BlockDiffusionLaunch=launch.BlockDiffusionLaunch,
        validate_request=launch.validate_request,
        own=model_state,
    )


def main(scenarios: int) -> None:
    """Everything, that many scenarios a rule."""
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    folder = tempfile.TemporaryDirectory()
    vars(CONFIG).update(vars(model_config(Path(folder.name))))
    vllm_env.stand_in()
    for module in (_credit, vocab_stats):  # as on a device
        module.is_host = lambda device: False
    from importlib.metadata import version  # noqa: PLC0415

    vllm = interfaces()
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP  # noqa: PLC0415
    from vllm.model_executor.models.registry import ModelRegistry  # noqa: PLC0415

    from creditdecoding.integrations.vllm.served import FAMILIES  # noqa: PLC0415

    dice, refused = random.Random(11), unable()
    rules = sorted(set(names()) - refused)
    cases = {rule: [scenario(vllm, rule, dice) for _ in range(scenarios)] for rule in rules}
    every = [case for of_rule in cases.values() for case in of_rule]
    report = {
        "version": version("vllm"),
        "rules": len(rules),
        "models": [a for a in FAMILIES if a in ModelRegistry.models and a in MODELS_CONFIG_MAP],
        "scenarios": len(every),
        "steps": sum(case[0] for case in every),
        "differing": sum(case[1] for case in every),
        "control_written": sum(case[2] for case in every),
        "waits": {
            rule: sum(case[3] for case in of)
            for rule, of in cases.items()
            if any(case[3] for case in of)
        },
        "culprits": [rule for rule, of in cases.items() if any(case[1] for case in of)],
        "block_causal": visible(vllm),
        "launches": launches(vllm),
        "unable": sorted(refused),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(int(sys.argv[1]))
