"""Process rewards for RL tools: text in, a reward for each step out, at the policy's own tokens.

    reward = ProcessReward(verifier="pocket", model="pocket", delimiter=".")
    GRPOTrainer(..., reward_funcs=[reward])          # trl: one number a completion
    scored = reward.score(prompts, completions)      # the steps of each completion
    scored[0].at_step_ends(ids, tokenizer.decode)    # [tokens]: zero but at the end of each step

Policy and verifier share nothing but the text. The verifier's tokenizer reads it and cuts it into
steps; a step is known by the characters where it ends, and these are found again in the policy's
tokens. `integrations/trl.py` and `integrations/verl.py` pass the rewards on, step by step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from creditdecoding.errors import OptionError
from creditdecoding.lm import LM, load
from creditdecoding.options import check_fields, from_mapping, option
from creditdecoding.pav.rl.options import ARMS
from creditdecoding.pav.rl.rewards import rewards
from creditdecoding.pav.steps import Decode, PartialAnswer, complete, parse_delimiter
from creditdecoding.pav.verifier.model import Verifier, advantage
from creditdecoding.text.prompts import Prompt
from creditdecoding.text.tokenizer import Tokenizer

HALF_A_LETTER = "\ufffd"
"""What decoding shows for the first bytes of a letter whose other bytes are in the next token."""
Completion = str | Sequence[Mapping[str, Any]]
"""A text, or a conversation of one assistant message, as trl passes them."""
Verdict = Callable[..., Sequence[float | bool | None]]


@dataclass(frozen=True)
class ProcessRewardConfig:
    """What a step is and what it earns."""

    delimiter: str = option(
        ".", "What ends a step: a text, or a size such as '8 tokens' of the verifier's tokenizer."
    )
    arm: str = option("effective", "Reward of a step.", choices=ARMS)
    alpha: float = option(3.0, "Weight of the prover's advantage.", ge=0.0, le=1000.0)
    k: float = option(4.0, "The prover is best-of-K of the verifier's Q.", ge=1.0, le=1000.0)
    reduce: str = option(
        "sum",
        "One number for a completion: its verdict + alpha times the sum of its steps' advantages, "
        "or the mean or the least reward of its steps.",
        choices=("sum", "mean", "min"),
    )
    question: str | None = option(
        None, "The column that holds the question, where the prompt holds more than that."
    )

    def __post_init__(self) -> None:
        check_fields(self)
        parse_delimiter(self.delimiter)


@dataclass(frozen=True)
class ScoredSteps:
    """The steps of one completion.

    `ends` [steps]: characters of `text` after which each step ends. `q` [steps + 1]: Q^pi of the
    states, from the bare prompt on, the last one the verdict if it is known. `rewards` and
    `advantages` (A^mu, without alpha) [steps].
    """

    text: str
    ends: tuple[int, ...]
    q: Float[Tensor, " states"]
    rewards: Float[Tensor, " steps"]
    advantages: Float[Tensor, " steps"]

    def last_tokens(self, ids: Sequence[int], decode: Decode) -> list[int]:
        """The index in the policy's `ids` of the last token of each step.

        A token that holds the end of a step and the start of the next belongs to the first of them.
        Tokens after the text, such as the end token, belong to the last step. `decode` is the
        policy's, without special tokens. Raises `OptionError` if `ids` are of another text.
        """
        if not ids:
            return []
        start = decode(ids).find(self.text)
        if start < 0:
            raise OptionError(
                "the completion's tokens are not those of its text",
                given=decode(ids),
                allowed=self.text,
                hint="Give the ids of the completion and the tokenizer that wrote them.",
            )

        def written(count: int) -> int:
            return len(decode(ids[:count]).rstrip(HALF_A_LETTER))

        counts = range(len(ids) + 1)
        inner = [bisect_left(counts, start + end, key=written) - 1 for end in self.ends[:-1]]
        return [*inner, len(ids) - 1]

    def at_step_ends(
        self, ids: Sequence[int], decode: Decode, values: Tensor | None = None
    ) -> Float[Tensor, " tokens"]:
        """Each step's reward (or entry of `values`) at its last token, zero at all others.

        Steps that end in the same token are added.
        """
        values = self.rewards if values is None else values
        last = torch.tensor(self.last_tokens(ids, decode), dtype=torch.long)
        return torch.zeros(len(ids)).index_add(0, last, values[: len(last)])

    def per_token(
        self, ids: Sequence[int], decode: Decode, values: Tensor | None = None
    ) -> Float[Tensor, " tokens"]:
        """Each step's reward (or entry of `values`) at all of its tokens."""
        values = self.rewards if values is None else values
        last = self.last_tokens(ids, decode)
        return values[[bisect_left(last, token) for token in range(len(ids))]]


class ProcessReward:
    """A verifier as a reward function.

    `verdict` is the outcome reward, called as the tool calls reward functions (trl:
    `verdict(prompts=..., completions=..., **columns)`), where it is known; otherwise the verifier's
    Q of the whole completion stands for it. `options` are fields of `ProcessRewardConfig`.
    """

    __name__ = "process_reward"

    def __init__(
        self,
        verifier: Verifier | Path | str = "pocket",
        model: LM | str = "pocket",
        verdict: Verdict | None = None,
        **options: Any,
    ) -> None:
        self.config = from_mapping(ProcessRewardConfig, options)
        self.delimiter = parse_delimiter(self.config.delimiter)
        self.lm = load(model) if isinstance(model, str) else model
        if not isinstance(verifier, Verifier):
            verifier = Verifier.load(verifier, self.lm)
        self.verifier = verifier
        self.verdict = verdict

    def __call__(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], **columns: Any
    ) -> list[float]:
        """A reward for each completion, as trl's `reward_funcs` are called.

        `columns` are the other columns of the data, and trl's `completion_ids`, `trainer_state`,
        `log_extra` and `log_metric`; the steps' rewards are logged by the last two.
        """
        scored = self.score_columns(prompts, completions, columns)
        if not scored:
            return []
        if (log_extra := columns.get("log_extra")) is not None:
            log_extra("step_rewards", [one.rewards.tolist() for one in scored])
        if (log_metric := columns.get("log_metric")) is not None:
            log_metric("process_reward/steps", sum(len(one.ends) for one in scored) / len(scored))
        return [self.total(one) for one in scored]

    def score_columns(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        columns: Mapping[str, Any],
    ) -> list[ScoredSteps]:
        """`score` with the verdicts of `verdict` and the questions of the column `question`."""
        if len(prompts) == len(completions) == 0:
            return []
        verdicts = None
        if self.verdict is not None:
            verdicts = self.verdict(prompts=prompts, completions=completions, **columns)
        return self.score(self._questions(prompts, columns), completions, verdicts)

    def _questions(self, prompts: Sequence[Prompt], columns: Mapping[str, Any]) -> Sequence[Prompt]:
        name = self.config.question
        if name is None:
            return prompts
        if name not in columns:
            raise OptionError(
                "the data lack the column of the question",
                given=name,
                allowed=", ".join(sorted(columns)) or "none",
                hint="Change the option question.",
            )
        questions: Sequence[Prompt] = columns[name]
        return questions

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        verdicts: Sequence[float | bool | None] | None = None,
    ) -> list[ScoredSteps]:
        """The steps of each completion, all in shared passes of the verifier.

        A prompt is the question: a text, or a conversation. Steps that end beyond the verifier's
        context add nothing: they keep the Q of the last one that fits. Raises `OptionError` for
        an empty prompt and one that does not fit, and for lists of unlike length.
        """
        _check_as_many("prompts", prompts, completions)
        _check_as_many("verdicts", completions if verdicts is None else verdicts, completions)
        texts = [completion_text(completion) for completion in completions]
        answers = [self._answer(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
        if not answers:
            return []
        chains = [self._that_fit(answer) for answer in answers]
        values = self.verifier.q([state for chain in chains for state in chain])
        by_answer = values.split([len(chain) for chain in chains])
        verdicts = [None] * len(answers) if verdicts is None else verdicts
        return [self._scored(*row) for row in zip(texts, answers, by_answer, verdicts, strict=True)]

    def total(self, scored: ScoredSteps) -> float:
        """The one number of a completion (the option `reduce`)."""
        if self.config.reduce == "mean":
            return float(scored.rewards.mean())
        if self.config.reduce == "min":
            return float(scored.rewards.min())
        alpha = self.config.alpha if self.config.arm == "effective" else 0.0
        return float(scored.q[-1] + alpha * scored.advantages.sum())

    def _answer(self, prompt: Prompt, text: str) -> PartialAnswer:
        """The completion as the verifier reads it."""
        ids = self.lm.encode_text(text) if text else []
        root = PartialAnswer(tuple(self.lm.encode(prompt)))
        return complete(root, ids, "stop", self.delimiter, self.lm.vocab.decode)

    def _that_fit(self, answer: PartialAnswer) -> list[PartialAnswer]:
        """The states of an answer that the verifier can read."""
        suffix = self.verifier.suffix
        room = self.lm.max_length
        states = [
            state
            for state in answer.prefixes
            if state.length + len(suffix.suffix_ids(state)) <= room
        ]
        if not states:
            raise OptionError(
                "a prompt longer than the verifier's context",
                given=len(answer.prompt),
                allowed=room,
                hint="Leave it out of the data.",
            )
        return states

    def _scored(
        self, text: str, answer: PartialAnswer, q: Tensor, verdict: float | bool | None
    ) -> ScoredSteps:
        q = torch.cat((q, q[-1:].expand(answer.depth + 1 - len(q))))
        if verdict is not None:
            q[-1] = _number(verdict)
        characters = token_ends(self.lm.tokenizer, text, answer.written)
        return ScoredSteps(
            text=text,
            ends=tuple(characters[end] for end in answer.ends),
            q=q,
            rewards=rewards(self.config.arm, q, self.config.alpha, self.config.k),
            advantages=advantage(q[:-1], q[1:], self.config.k),
        )


def _check_as_many(what: str, values: Sequence[Any], completions: Sequence[Any]) -> None:
    """Raise `OptionError` if there is not one value for each completion."""
    if len(values) != len(completions):
        raise OptionError(
            f"not as many {what} as completions",
            given=len(values),
            allowed=len(completions),
            hint="Give one for each completion.",
        )


def _number(verdict: Any) -> float:
    """A verdict as a number. Raises `OptionError`."""
    try:
        return float(verdict)
    except (TypeError, ValueError) as error:
        raise OptionError(
            "a verdict is no number",
            given=verdict,
            allowed="a number, True, False, or None where it is not known",
            hint="Let the outcome reward return one of these for each completion.",
        ) from error


def completion_text(completion: Completion) -> str:
    """The text of a completion.

    Raises `OptionError` for a conversation that is not one assistant message of text.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, (list, tuple)):
        raise OptionError(
            "a completion is neither a text nor a list of messages",
            given=completion,
            hint="Score what the policy wrote.",
        )
    roles = [message.get("role") for message in completion]
    content = completion[0].get("content") if roles == ["assistant"] else None
    if not isinstance(content, str):
        raise OptionError(
            "a process reward reads completions of one assistant message of text",
            given=roles,
            hint="Score conversations with tools turn by turn.",
        )
    return content


def token_ends(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[int]:
    """Characters of `text` before the first of `ids`, and up to the end of each of them.

    From the tokenizer's offsets, also where it changes the text; where it has none for these ids,
    from what they decode to.
    """
    core = getattr(tokenizer.backend, "backend_tokenizer", None)
    if text and core is not None:
        encoding = core.encode(text, add_special_tokens=False)
        if encoding.ids == list(ids):
            return [0, *(end for _, end in encoding.offsets)]
    counts = range(len(ids) + 1)
    return [len(tokenizer.decode(ids[:count]).rstrip(HALF_A_LETTER)) for count in counts]
