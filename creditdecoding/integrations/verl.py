"""verl's reward function, reward manager and advantage estimator, with rewards for steps.

    reward.custom_reward_function.path=pkg://creditdecoding.integrations.verl
    reward.custom_reward_function.name=compute_score          # one number a response
    StepRewardManager(tokenizer, num_examine=0)(data)         # a tensor [rows, response_length]

verl itself is not imported: `data` is a `DataProto` or anything with its `batch` and
`non_tensor_batch`. In verl 0.9 the workers that score while answers are drawn pass one number on,
and put it at the last token; a tensor with a number for each step needs a manager that is called
with the whole batch, and an estimator that does not add up what comes later (`step_advantages`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.errors import OptionError
from creditdecoding.integrations.process_reward import (
    ProcessReward,
    ProcessRewardConfig,
    ScoredSteps,
)
from creditdecoding.options import from_mapping
from creditdecoding.plugins import load_function
from creditdecoding.text.prompts import Prompt

ONE_AT_A_TIME = threading.Lock()
"""verl scores the responses of a batch in several threads."""
Score = Callable[..., Any]
"""verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`."""


def process_reward(**options: Any) -> ProcessReward:
    """The `ProcessReward` with these options, loaded once in a worker. Raises `OptionError`."""
    sources = {name: options[name] for name in ("verifier", "model") if name in options}
    for name, value in sources.items():
        if not isinstance(value, Hashable):
            raise OptionError(
                f"{name} is not one checkpoint",
                given=value,
                allowed="a name or a folder",
                hint="Give one text.",
            )
    from_mapping(ProcessRewardConfig, {k: v for k, v in options.items() if k not in sources})
    return _loaded(**options)


@functools.lru_cache(maxsize=4)
def _loaded(**options: Any) -> ProcessReward:
    return ProcessReward(**options)


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    outcome: Score | str | None = None,
    **options: Any,
) -> dict[str, float]:
    """verl's reward function: the `score` of a response, and its number of steps.

    The question is `extra_info["question"]`, or the entry that the option `question` names.
    `outcome` is a function like this one that knows whether the response is right, or a text
    `module:function` that names it; `options` are those of `ProcessReward` (`reward_kwargs` in
    verl's configuration, as `outcome` is). Raises `OptionError`.
    """
    verdicts = None
    if outcome is not None:
        score = _function(outcome)
        verdicts = [_verdict(score(data_source, solution_str, ground_truth, extra_info))]
    with ONE_AT_A_TIME:
        reward = process_reward(**options)
        question = _question(reward, extra_info or {})
        (scored,) = reward.score([question], [solution_str], verdicts)
    return {
        "score": reward.total(scored),
        "outcome": float(scored.q[-1]),
        "steps": float(len(scored.ends)),
    }


class StepRewardManager:
    """A reward manager as verl calls it: `manager(data, return_dict=False)`.

    `compute_score` is verl's outcome function, or a text `module:function` that names it; without
    one the verifier's Q of the whole response stands for the outcome. `options` are those of
    `ProcessReward`. Raises `OptionError`.
    """

    def __init__(
        self,
        tokenizer: Any,
        num_examine: int = 0,
        compute_score: Score | str | None = None,
        reward_fn_key: str = "data_source",
        **options: Any,
    ) -> None:
        self.tokenizer = tokenizer
        self.num_examine = num_examine
        self.compute_score = None if compute_score is None else _function(compute_score)
        self.reward_fn_key = reward_fn_key
        self.reward = process_reward(**options)

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """Each step's reward at its last token, 0 elsewhere [rows, response_length]; with
        `return_dict`, under `reward_tensor` and with `reward_extra_info`.
        """
        responses = data.batch["responses"]
        width = responses.shape[1]
        ids = [
            row[kept.bool()].tolist()
            for row, kept in zip(responses, data.batch["attention_mask"][:, -width:])
        ]
        scored = self._score(data.non_tensor_batch, [self._decode(one) for one in ids])
        rewards = torch.zeros(responses.shape, dtype=torch.float32)
        for row, (one, steps) in enumerate(zip(ids, scored)):
            rewards[row, : len(one)] = steps.at_step_ends(one, self._decode)
        rewards = rewards.to(responses.device)
        if not return_dict:
            return rewards
        outcomes = [float(steps.q[-1]) for steps in scored]
        counts = [len(steps.ends) for steps in scored]
        return {
            "reward_tensor": rewards,
            "reward_extra_info": {"outcome": outcomes, "steps": counts},
        }

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _score(self, columns: Mapping[str, Any], texts: Sequence[str]) -> list[ScoredSteps]:
        infos = columns.get("extra_info", [{}] * len(texts))
        questions = [
            columns["raw_prompt"][row]
            if "raw_prompt" in columns and self.reward.config.question is None
            else _question(self.reward, info or {})
            for row, info in enumerate(infos)
        ]
        verdicts = None
        if self.compute_score is not None:
            verdicts = [
                _verdict(self.compute_score(source, text, truth["ground_truth"], info))
                for source, text, truth, info in zip(
                    columns[self.reward_fn_key], texts, columns["reward_model"], infos
                )
            ]
        return self.reward.score([_prompt(one) for one in questions], texts, verdicts)


def step_advantages(
    token_level_rewards: Float[Tensor, "rows tokens"],
    response_mask: Float[Tensor, "rows tokens"],
    index: Sequence[Any] | None = None,
    **unused: Any,
) -> tuple[Float[Tensor, "rows tokens"], Float[Tensor, "rows tokens"]]:
    """Advantages and returns for `verl.trainer.ppo.core_algos.register_adv_est`.

    Each token gets the reward of its own step, the next one that is not 0, and nothing of later
    steps: summed over what follows, A^mu would leave a mere baseline (arXiv 2410.08146, Eq. 5).
    The mean over the tokens of a prompt's responses (`index`) is taken off, or over the batch's.
    """
    mask = response_mask.to(token_level_rewards)
    returns = torch.zeros_like(token_level_rewards)
    later = torch.zeros_like(token_level_rewards[:, 0])
    for token in reversed(range(token_level_rewards.shape[1])):
        here = token_level_rewards[:, token]
        later = torch.where(here != 0, here, later)
        returns[:, token] = later
    returns = returns * mask
    groups = [0] * len(mask) if index is None else list(index)
    advantages = torch.zeros_like(returns)
    for group in set(groups):
        rows = torch.tensor([row for row, one in enumerate(groups) if one == group])
        mean = returns[rows].sum() / mask[rows].sum().clamp(min=1)
        advantages[rows] = (returns[rows] - mean) * mask[rows]
    return advantages, returns


def _function(score: Score | str) -> Score:
    return load_function(score, "outcome") if isinstance(score, str) else score


def _question(reward: ProcessReward, extra_info: Mapping[str, Any]) -> Prompt:
    name = reward.config.question or "question"
    if name not in extra_info:
        raise OptionError(
            "extra_info lacks the question",
            given=name,
            allowed=", ".join(sorted(map(str, extra_info))) or "none",
            hint="Put it there when the data are made, or name its entry: question=...",
        )
    question: Prompt = extra_info[name]
    return question


def _prompt(prompt: Any) -> Prompt:
    """A prompt of a verl batch: a text, or messages, which may be in a numpy array."""
    return prompt if isinstance(prompt, str) else list(prompt)


def _verdict(result: Any) -> Any:
    """A score, or that of a dictionary. Raises `OptionError`."""
    if not isinstance(result, Mapping):
        return result
    if "score" not in result:
        raise OptionError(
            "an outcome without a score",
            given=sorted(map(str, result)),
            allowed="a number, or a dictionary with the entry score",
            hint="Let the outcome function return one of these.",
        )
    return result["score"]
