"""Process rewards as trl and verl call them: text in, a reward for each step at the policy's tokens.

The shapes are those that trl 1.16.0's `GRPOTrainer` and verl 0.9.1's `DataProto` pass; with trl
itself test_trl.py runs.
"""

from __future__ import annotations

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from creditdecoding import load
from creditdecoding.errors import OptionError
from creditdecoding.integrations.process_reward import ProcessReward, ScoredSteps
from creditdecoding.integrations.verl import StepRewardManager, compute_score, step_advantages
from creditdecoding.pav.rl.rewards import rewards
from creditdecoding.pav.steps import PartialAnswer, step_ends
from creditdecoding.pav.verifier.model import Verifier

QUESTION = "Tom has 6 apples. Tom finds 5 more. How many apples does Tom have now?"
RIGHT = "Tom has 6 apples. Finding 5 more: 6+5=11. So Tom has 11 apples. Answer: 11"
UNICODE = "Zoë 🙂. naïve, 漢字. x"
END = 256


class ByteTokenizer:
    """A policy's tokenizer that has nothing in common with the verifier's: a token is a byte, or
    several by chance; `END` is special.
    """

    def __init__(self, longest: int = 1) -> None:
        self.longest = longest
        self.pieces: list[bytes] = [bytes([byte]) for byte in range(256)] + [b""]

    def encode(self, text: str) -> list[int]:
        rng = random.Random(0)
        left, ids = text.encode(), []
        while left:
            size = rng.randint(1, self.longest)
            self.pieces.append(left[:size])
            ids.append(len(self.pieces) - 1)
            left = left[size:]
        return [*ids, END]

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        assert skip_special_tokens
        return b"".join(self.pieces[i] for i in ids).decode("utf-8", errors="replace")


def close(left: torch.Tensor, right: torch.Tensor) -> None:
    """Equal but for what a row shares its pass with."""
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def reward() -> ProcessReward:
    """The embedded verifier, with every default."""
    return ProcessReward()


def test_steps_are_scored_as_the_verifier_scores_its_own_answers(reward: ProcessReward) -> None:
    lm = load("pocket")
    ids = tuple(lm.tokenizer.encode(RIGHT))
    ends = [*step_ends(ids, ".", lm.vocab.decode), len(ids)]
    whole = PartialAnswer(tuple(lm.encode(QUESTION)), ids, tuple(ends), True, "stop")
    (scored,) = reward.score([QUESTION], [RIGHT])
    q = Verifier.load("pocket", lm).q(whole.prefixes)
    close(scored.q, q)
    close(scored.rewards, rewards("effective", q, 3.0, 4.0))
    assert [RIGHT[:end] for end in scored.ends] == [lm.vocab.decode(ids[:end]) for end in ends]


@pytest.mark.parametrize("longest", [1, 3, 7])
@pytest.mark.parametrize("text", [RIGHT, UNICODE, "no delimiter", ". . .", "", "a. \n\n. b..."])
def test_a_step_ends_at_the_policys_token_that_completes_its_text(
    text: str, longest: int, reward: ProcessReward
) -> None:
    policy = ByteTokenizer(longest)
    ids = policy.encode(text)
    (scored,) = reward.score([QUESTION], [text])
    last = scored.last_tokens(ids, policy.decode)
    assert last[-1] == len(ids) - 1 and scored.ends[-1] == len(text)
    for token, end in zip(last[:-1], scored.ends):
        assert policy.decode(ids[: token + 1]).startswith(text[:end])
        assert not policy.decode(ids[:token]).startswith(text[:end])
    at_ends = scored.at_step_ends(ids, policy.decode)
    close(at_ends.sum(), scored.rewards.sum())
    assert set(at_ends.nonzero()[:, 0].tolist()) <= set(last)
    by_token = scored.per_token(ids, policy.decode)
    assert len(by_token) == len(ids) and by_token[-1] == scored.rewards[bisect_first(last)]


def bisect_first(last: list[int]) -> int:
    """The step that owns the last token: the first that ends there."""
    return last.index(last[-1])


def test_steps_of_a_verifiers_tokens(reward: ProcessReward) -> None:
    by_size = ProcessReward(reward.verifier, reward.lm, delimiter="8 tokens")
    (scored,) = by_size.score([QUESTION], [RIGHT])
    lengths = [
        len(reward.lm.encode_text(RIGHT[start:end]))
        for start, end in zip((0, *scored.ends), scored.ends)
    ]
    assert lengths[:-1] == [8] * (len(lengths) - 1)


def test_trl_gets_a_number_for_each_completion(reward: ProcessReward) -> None:
    """As `GRPOTrainer._calculate_rewards` calls it: prompts repeated, columns as lists."""
    logged: dict[str, list[object]] = {}
    texts = [RIGHT, "Answer: 12"]
    columns = {
        "completion_ids": [[5, 6], [7]],
        "gold": ["11", "11"],
        "trainer_state": SimpleNamespace(global_step=0),
        "log_extra": lambda name, values: logged.update({name: values}),
        "log_metric": lambda name, value: logged.update({name: [value]}),
    }
    plain = reward(prompts=[QUESTION] * 2, completions=texts, **columns)
    assert [type(value) for value in plain] == [float, float]
    first = reward.score([QUESTION], [RIGHT])[0]
    assert plain[0] == pytest.approx(float(first.q[-1] + 3 * first.advantages.sum()))
    assert logged["step_rewards"][0] == pytest.approx(first.rewards.tolist())
    assert logged["process_reward/steps"] == [2.5]
    chat = reward(
        prompts=[[{"role": "user", "content": QUESTION}]] * 2,
        completions=[[{"role": "assistant", "content": text}] for text in texts],
    )
    assert chat == pytest.approx(plain) and reward.__name__ == "process_reward"


def test_the_verdict_is_the_last_q(reward: ProcessReward) -> None:
    def verdict(prompts: list[str], completions: list[str], gold: list[str], **_: object) -> list:
        return [text.endswith(answer) for text, answer in zip(completions, gold)] + [None]

    judged = ProcessReward(reward.verifier, reward.lm, verdict, question="asked", reduce="mean")
    prompts, texts = ["a policy's own prompt"] * 3, [RIGHT, "Answer: 12", "Answer: 12"]
    columns = {"gold": ["11", "11"], "asked": [QUESTION] * 3}
    right, wrong, unknown = judged.score_columns(prompts, texts, columns)
    assert (right.q[-1], wrong.q[-1]) == (1, 0)
    close(unknown.q, reward.score([QUESTION], texts[2:])[0].q)
    assert judged(prompts, texts, **columns)[0] == pytest.approx(float(right.rewards.mean()))
    close(right.rewards, rewards("effective", right.q, 3.0, 4.0))


def test_steps_beyond_the_verifiers_context_add_nothing(reward: ProcessReward) -> None:
    (scored,) = reward.score([QUESTION], ["Tom has 6 apples. " * 199 + "The end."])
    beyond = scored.advantages[-100:]
    assert len(scored.ends) == 200 and not beyond.any() and scored.advantages[:20].any()
    with pytest.raises(OptionError, match="longer than the verifier's context"):
        reward.score([QUESTION * 100], [RIGHT])


def test_what_cannot_be_scored_is_refused(reward: ProcessReward) -> None:
    tool_call = [{"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"}]
    with pytest.raises(OptionError, match="one assistant message"):
        reward.score([QUESTION], [tool_call])
    with pytest.raises(OptionError, match="not those of its text"):
        reward.score([QUESTION], [RIGHT])[0].last_tokens([65, 66], ByteTokenizer().decode)
    with pytest.raises(OptionError, match="unknown option"):
        ProcessReward(reward.verifier, reward.lm, gamma=1)
    with pytest.raises(OptionError, match="lack the column"):
        ProcessReward(reward.verifier, reward.lm, question="asked")([QUESTION], [RIGHT])
    with pytest.raises(OptionError, match="neither a text nor a list of messages"):
        reward.score([QUESTION], [None])  # type: ignore[list-item]


def test_lists_of_unlike_length_and_verdicts_that_are_no_numbers(reward: ProcessReward) -> None:
    with pytest.raises(OptionError, match="not as many prompts as completions; got 1; allowed: 2"):
        reward.score([QUESTION], [RIGHT, RIGHT])
    with pytest.raises(OptionError, match="not as many verdicts as completions"):
        reward.score([QUESTION] * 2, [RIGHT, RIGHT], [1.0])
    with pytest.raises(OptionError, match="a verdict is no number; got 'yes'"):
        reward.score([QUESTION], [RIGHT], ["yes"])  # type: ignore[list-item]


def verl_batch(texts: list[str], policy: ByteTokenizer) -> SimpleNamespace:
    """Responses padded on the right behind prompts, as in a `DataProto`."""
    rows = [policy.encode(text) for text in texts]
    width = max(map(len, rows)) + 2
    responses = torch.tensor([row + [END] * (width - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    prompts = torch.ones(len(rows), 4, dtype=torch.long)
    columns = {
        "data_source": ["arithmetic"] * len(rows),
        "reward_model": [{"ground_truth": "11"}] * len(rows),
        "extra_info": [{"question": QUESTION}] * len(rows),
    }
    return SimpleNamespace(
        batch={"responses": responses, "attention_mask": torch.cat((prompts, seen), dim=1)},
        non_tensor_batch={k: np.array(v, dtype=object) for k, v in columns.items()},
    )


def ends_with_truth(source: str, text: str, truth: str, info: object) -> float:
    return float(text.endswith(truth))


def test_verl_gets_each_steps_reward_at_its_last_token(reward: ProcessReward) -> None:
    policy = ByteTokenizer(3)
    texts = [RIGHT, UNICODE]
    data = verl_batch(texts, policy)
    manager = StepRewardManager(policy, 0, ends_with_truth)
    result = manager(data, return_dict=True)
    tensor = result["reward_tensor"]
    assert tensor.shape == data.batch["responses"].shape
    close(tensor, manager(data))
    assert result["reward_extra_info"] == {"outcome": [1.0, 0.0], "steps": [4, 3]}
    for row, scored in enumerate(reward.score([QUESTION] * 2, texts, [1.0, 0.0])):
        length = int(data.batch["attention_mask"][row, 4:].sum())
        ids = data.batch["responses"][row, :length].tolist()
        own = scored.at_step_ends(ids, policy.decode)
        close(tensor[row, :length], own)
        assert not tensor[row, length:].any()


def test_verl_gets_a_number_for_a_response(reward: ProcessReward) -> None:
    info = {"question": QUESTION}
    result = compute_score("arithmetic", RIGHT, "11", info, outcome=ends_with_truth, alpha=2.0)
    (scored,) = reward.score([QUESTION], [RIGHT], [1.0])
    assert result["score"] == pytest.approx(1 + 2 * float(scored.advantages.sum()))
    assert (result["outcome"], result["steps"]) == (1.0, 4.0)
    with pytest.raises(OptionError, match="lacks the question"):
        compute_score("arithmetic", RIGHT, "11", {"prompt": QUESTION})


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ("right", "a verdict is no number; got 'right'"),
        ({"score": "right"}, "a verdict is no number; got 'right'"),
        ({"reward": 1.0}, "an outcome without a score; got ['reward']"),
    ],
)
def test_an_outcome_that_is_no_number_is_refused(
    reward: ProcessReward, result: object, words: str
) -> None:
    info = {"question": QUESTION}
    with pytest.raises(OptionError, match=re.escape(words)):
        compute_score("arithmetic", RIGHT, "11", info, outcome=lambda *_: result)
    policy = ByteTokenizer(3)
    manager = StepRewardManager(policy, compute_score=lambda *_: result)
    with pytest.raises(OptionError, match=re.escape(words)):
        manager(verl_batch([RIGHT], policy))


BY_NAME = f"{__name__}:ends_with_truth"


def test_verl_may_name_the_outcome_function(reward: ProcessReward) -> None:
    """As a YAML file can."""
    info = {"question": QUESTION}
    result = compute_score("arithmetic", UNICODE, "11", info, outcome=BY_NAME)
    assert result == compute_score("arithmetic", UNICODE, "11", info, outcome=ends_with_truth)
    assert result["outcome"] == 0.0
    policy = ByteTokenizer(3)
    data = verl_batch([RIGHT, UNICODE], policy)
    manager = StepRewardManager(policy, compute_score=BY_NAME)
    assert manager(data, return_dict=True)["reward_extra_info"]["outcome"] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        ("is_right", "the outcome is not named as a function; got 'is_right'"),
        ("no_such_module:is_right", "No module named 'no_such_module'"),
        (f"{__name__}:is_right", "has no attribute 'is_right'"),
        (f"{__name__}:RIGHT", "the outcome cannot be called"),
    ],
)
def test_an_outcome_that_cannot_be_loaded_is_refused_in_one_line(outcome: str, words: str) -> None:
    with pytest.raises(OptionError) as caught:
        compute_score("arithmetic", RIGHT, "11", {"question": QUESTION}, outcome=outcome)
    message = str(caught.value)
    assert words in message and repr(outcome) in message and "allowed: module:function" in message
    assert "\n" not in message
    with pytest.raises(OptionError, match="the outcome "):
        StepRewardManager(ByteTokenizer(), compute_score=outcome)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"delimiter": [".", "!"]}, "delimiter has the wrong type; got ['.', '!']; allowed: text"),
        ({"verifier": ["pocket"]}, "verifier is not one checkpoint; got ['pocket']"),
        ({"model": {"name": "pocket"}}, "model is not one checkpoint"),
    ],
)
def test_an_option_of_several_values_is_refused_in_one_line(
    options: dict[str, object], words: str
) -> None:
    with pytest.raises(OptionError) as caught:
        compute_score("arithmetic", RIGHT, "11", {"question": QUESTION}, **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_batch_has_no_rewards(reward: ProcessReward) -> None:
    def verdict(completions: list[str], **columns: object) -> list[float]:
        return [float(len(completions[0]))] * len(completions)

    logged: list[str] = []
    log = lambda name, value: logged.append(name)  # noqa: E731
    judged = ProcessReward(reward.verifier, reward.lm, verdict)
    assert reward.score([], []) == judged.score_columns([], [], {}) == []
    assert judged(prompts=[], completions=[], log_extra=log, log_metric=log) == [] == logged
    none = {"data_source": [], "reward_model": [], "extra_info": []}
    rows = torch.zeros(0, 4, dtype=torch.long)
    data = SimpleNamespace(
        batch={"responses": rows, "attention_mask": torch.cat((rows, rows), 1)},
        non_tensor_batch={name: np.array(column, dtype=object) for name, column in none.items()},
    )
    manager = StepRewardManager(ByteTokenizer(), compute_score=ends_with_truth)
    assert manager(data).shape == (0, 4)
    for prompts, completions in (([QUESTION], []), ([], [RIGHT])):
        with pytest.raises(OptionError, match="not as many prompts as completions"):
            reward(prompts=prompts, completions=completions)


def test_a_token_gets_the_reward_of_its_own_step_alone() -> None:
    rewards_at_ends = torch.tensor([[0, 0, 2.0, 0, -1, 0], [0, 3.0, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]])
    advantages, returns = step_advantages(rewards_at_ends, mask, index=["a", "a"])
    own = torch.tensor([[2.0, 2, 2, -1, -1, 0], [3, 3, 0, 0, 0, 0]])
    assert torch.equal(returns, own)
    torch.testing.assert_close(advantages, (own - own.sum() / 7) * mask)
    apart, _ = step_advantages(rewards_at_ends, mask, index=["a", "b"])
    assert not apart[1].any()


def test_a_step_inside_a_token_of_another() -> None:
    steps = ScoredSteps(
        "a.b.", (2, 4), *(torch.tensor(row) for row in ([0.1] * 3, [1.0, 2.0], [0.0, 0.0]))
    )
    decode = lambda ids: "a.b."[: 4 * len(ids)]  # noqa: E731
    assert steps.last_tokens([0], decode) == [0, 0]
    assert steps.at_step_ends([0], decode).tolist() == [3.0]
    assert steps.per_token([0], decode).tolist() == [1.0]
