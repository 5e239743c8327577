"""trl's GRPO with rewards for steps, and for a masked diffusion model as the policy.

    StepGRPOTrainer(model="Qwen/...", reward_funcs=[correct], step_reward=ProcessReward(...), ...)
    DiffusionGRPOTrainer(load("pocket"), generation=GenerationConfig(...), reward_funcs=..., ...)

trl's `reward_funcs` give one number a completion, and GRPO gives all of its tokens the same
advantage. Here a token's advantage is that number plus alpha A^mu of the token's own step
(arXiv 2410.08146, Eq. 5, with the group's outcome in place of Q^pi). Both classes replace private
methods of `GRPOTrainer`, so the extra `trl` names the releases that they were run with.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel

from creditdecoding.checkpoint import resolve_checkpoint
from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import sample_seed
from creditdecoding.errors import MissingExtraError, OptionError
from creditdecoding.integrations.process_reward import Completion, ProcessReward
from creditdecoding.likelihood import replay
from creditdecoding.lm import LM
from creditdecoding.models.transformer import Transformer
from creditdecoding.pav.rl.logprobs import (
    LogprobTable,
    ScoredPass,
    batches,
    distributions,
    refuse_unscored,
    token_logprobs,
)
from creditdecoding.pav.rl.policy_weights import export
from creditdecoding.text.prompts import Prompt
from creditdecoding.trace import Trace

try:
    from trl import GRPOTrainer
except ImportError as error:
    raise MissingExtraError("trl", "trl") from error

Answer = tuple[tuple[int, ...], tuple[int, ...]]
"""The ids of a prompt and of its completion."""


class StepGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
    """trl's `GRPOTrainer` with an advantage for each step. Raises `CreditError`s.

    `step_reward` reads the prompts and completions; without one this is `GRPOTrainer`. Its alpha
    is not scaled as trl scales the outcome's advantage (`scale_rewards`).
    """

    def __init__(
        self, *args: Any, step_reward: ProcessReward | None = None, **options: Any
    ) -> None:
        self.step_reward = step_reward
        super().__init__(*args, **options)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.step_reward is not None:
            steps = self._step_advantages(self.step_reward, inputs, output)
            output["advantages"] = output["advantages"][:, None] + steps
        return output

    def _step_advantages(
        self, reward: ProcessReward, inputs: list[dict[str, Any]], output: dict[str, Any]
    ) -> Float[Tensor, "rows tokens"]:
        """alpha A^mu of each token's step; 0 on padding."""
        ids = _unpadded(output["completion_ids"], output["completion_mask"])
        decode = functools.partial(self.processing_class.decode, skip_special_tokens=True)
        columns = {name: [row[name] for row in inputs] for name in inputs[0]}
        prompts = columns.pop("prompt")
        completions = [_like(prompt, decode(one)) for prompt, one in zip(prompts, ids)]
        advantages = torch.zeros(output["completion_ids"].shape)
        for row, scored in enumerate(reward.score_columns(prompts, completions, columns)):
            values = scored.per_token(ids[row], decode, scored.advantages)
            advantages[row, : len(values)] = reward.config.alpha * values
        return advantages.to(output["advantages"])


class DiffusionGRPOTrainer(StepGRPOTrainer):
    """GRPO of a masked diffusion model: drawn by its decoder, scored on the decoder's own trace.

    A token's log-probability is that of the pass that wrote it, given the canvas before
    (`committed` of `pav/rl/logprobs.py`): with decoders that write some of their draws alone, its
    gradient is not exactly the score function. Completions of one text share the first of their
    traces. `generation` is how answers are drawn, and its temperature stands for trl's. One
    process, no KL term (`beta` 0), no gradient checkpointing. `checkpoint` is where `lm` was loaded
    from; `save_model` writes one like it. The verifier of `step_reward` must not be on the same
    `LM`, whose weights change.
    """

    def __init__(
        self,
        lm: LM,
        reward_funcs: Any,
        args: Any,
        train_dataset: Any,
        *,
        generation: GenerationConfig,
        checkpoint: str | Path = "pocket",
        **options: Any,
    ) -> None:
        refuse_unscored(lm, generation)
        self.lm = lm
        self.generation = generation
        self.checkpoint = checkpoint
        self._traces: dict[Answer, Trace] = {}
        super().__init__(
            DiffusionPolicy(lm),
            reward_funcs,
            _diffusion_args(args, generation),
            train_dataset,
            processing_class=copy.deepcopy(lm.tokenizer.to_transformers()),
            rollout_func=self._roll_out,
            **options,
        )

    def _roll_out(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """Completions of the prompts, as trl's `rollout_func` returns them."""
        seed = int(torch.randint(2**62, ()))
        requests = []
        for index, prompt in enumerate(prompts):
            config = replace(self.generation, seed=sample_seed(seed, index))
            requests.append(self.lm.new_request(self.lm.encode(prompt), config, index))
        if self.model.training:  # rows of an evaluation come between those of a training batch
            self._traces = {}
        completion_ids = []
        for request, completion in zip(requests, self.lm.collect(requests)):
            trace = completion.trace
            ids = list(trace.tokens)
            end = request.answer_start + len(ids)
            if trace.finish is not None and trace.finish.reason == "stop":
                ids.append(trace.written[end])
            completion_ids.append(ids)
            self._traces.setdefault((trace.prompt, tuple(ids)), trace)
        prompt_ids = [request.canvas[: request.answer_start].tolist() for request in requests]
        return {"prompt_ids": prompt_ids, "completion_ids": completion_ids, "logprobs": None}

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **unused: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """log p and entropy of each completion token [rows, tokens], from the traces."""
        rows = _answers(input_ids, attention_mask, logits_to_keep)
        passes = [one for row, answer in enumerate(rows) for one in self._passes(row, *answer)]
        starts = [len(prompt) for prompt, _ in rows]
        network = self.accelerator.unwrap_model(model).network
        logps = torch.zeros(len(input_ids), logits_to_keep, device=self.lm.device)
        entropies = torch.zeros_like(logps)
        for batch in batches(passes, batch_size or self.lm.batch_size):
            table = distributions(network, self.lm, batch, self.generation.temperature)
            index = _places(batch, starts)
            logps = logps.index_put(index, token_logprobs(table, batch).to(logps))
            entropies = entropies.index_put(index, _entropies(table).to(entropies))
        return logps, entropies if compute_entropy else None, None

    def _passes(
        self, row: int, prompt: tuple[int, ...], answer: tuple[int, ...]
    ) -> list[ScoredPass]:
        """The passes that wrote an answer, with the tokens that count; none of a masked answer."""
        if not answer:
            return []
        end = len(prompt) + len(answer)
        passes = []
        for query in replay(self.lm, self._traces[prompt, answer]):
            counted = (query.positions < end).nonzero()[:, 0].tolist()
            if counted:
                whole = ScoredPass(row, query, (0,) * len(query.positions))
                passes.append(whole.select(counted))
        return passes

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint that `load` reads."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        export(self.lm.model, resolve_checkpoint(str(self.checkpoint)), folder)


class DiffusionPolicy(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """The network of an `LM` as the model that trl trains; `network` is a `Denoiser`."""

    config_class = PretrainedConfig

    def __init__(self, lm: LM) -> None:
        super().__init__(PretrainedConfig(eos_token_id=list(lm.vocab.stop_ids)))
        self.network = _trainable(lm)

    def forward(self, *args: Any, **options: Any) -> Tensor:
        """The network's own forward pass."""
        logits: Tensor = self.network(*args, **options)
        return logits


def _trainable(lm: LM) -> Transformer:
    """The network of `lm`, ready to learn. Raises `OptionError` for other networks."""
    model = lm.model
    if not isinstance(model, Transformer):
        raise OptionError(
            "only a network of this package is trained",
            given=type(model).__name__,
            hint="Load a released checkpoint.",
        )
    model.attention_backend = "math" if lm.device.type == "cpu" else "sdpa"
    return model.requires_grad_(True)


def _diffusion_args(args: Any, generation: GenerationConfig) -> Any:
    """trl's settings, with those that follow from the policy. Raises `OptionError`."""
    refused: list[tuple[str, Callable[[Any], bool]]] = [
        ("beta", lambda value: value != 0.0),
        ("use_vllm", bool),
        ("world_size", lambda value: value > 1),
    ]
    for name, is_refused in refused:
        value = getattr(args, name, 0)
        if is_refused(value):
            raise OptionError(
                f"{name} is not for a diffusion policy",
                given=value,
                hint="One process without vLLM, and no KL term: leave it out.",
            )
    args = copy.copy(args)
    for name in ("gradient_checkpointing", "activation_checkpointing"):  # its name before and now
        if hasattr(args, name):
            setattr(args, name, False)
    args.temperature = generation.temperature
    args.max_completion_length = generation.gen_length
    return args


def _like(prompt: Prompt, text: str) -> Completion:
    """A completion in the form of its prompt, as trl passes it to reward functions."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _unpadded(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The ids of each row where the mask is set."""
    return [row[kept.bool()].tolist() for row, kept in zip(ids.cpu(), mask.cpu())]


def _answers(ids: Tensor, mask: Tensor, answer_width: int) -> list[Answer]:
    """Prompt and completion of each row of `ids`, without padding."""
    prompts = _unpadded(ids[:, :-answer_width], mask[:, :-answer_width])
    answers = _unpadded(ids[:, -answer_width:], mask[:, -answer_width:])
    return list(zip(map(tuple, prompts), map(tuple, answers)))


def _places(batch: Sequence[ScoredPass], starts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Row and completion token of each token that some passes wrote; answers begin at `starts`."""
    rows = [one.answer for one in batch for _ in one.positions]
    positions = [position for one in batch for position in one.positions]
    tokens = [position - starts[row] for row, position in zip(rows, positions)]
    return torch.tensor(rows), torch.tensor(tokens)


def _entropies(table: LogprobTable) -> Float[Tensor, " n"]:
    """The entropy in nats of what each counted token was drawn from."""
    logp = table.logp.detach()
    lines = -(logp.exp() * logp.clamp(min=-1e9)).sum(-1)
    return lines[table.line]
