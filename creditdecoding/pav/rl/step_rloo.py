"""Further draws of the steps of answers, for a verifier to compare: a gradient with less noise.

In a state C steps are drawn, one of them being the one the answer took. Each is weighted by its
reward minus the mean reward of the others (RLOO), over C. That is the gradient of the expected
reward with the noise of C draws; whatever depends on the state alone, such as a baseline, cancels.
The verifier does not ask how the answer continues, so this costs steps and not answers; an outcome
is known only for the step that was taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from creditdecoding.pav.rl.logprobs import with_end
from creditdecoding.pav.sampler import Rollout, RolloutRequest, Sampler
from creditdecoding.pav.steps import Delimiter, PartialAnswer


@dataclass(frozen=True)
class StepSample:
    """Another draw of step number `step`, from 0, of answer number `answer`."""

    answer: int
    step: int
    rollout: Rollout

    @property
    def as_one_step(self) -> Rollout:
        """The draw as an answer of one step, for its log-probability: its prefix was not drawn."""
        state = self.rollout.state
        one_step = replace(state, ends=(state.ends[-1],))
        return replace(self.rollout, state=one_step)


def sample_steps(
    answers: Sequence[Rollout],
    delimiters: Sequence[Delimiter],
    count: int,
    sampler: Sampler,
    seeds: Iterator[int],
) -> list[StepSample]:
    """`count` more draws of each step of each answer, in the order of answers, steps and draws.

    End tokens belong to a step (`with_end`) in the answers and in the draws.
    """
    steps = [
        (answer, step)
        for answer, rollout in enumerate(answers)
        for step in range(rollout.state.depth)
        for _ in range(count)
    ]
    requests = [
        RolloutRequest(answers[answer].state.prefix(step), delimiters[answer], next(seeds), 1)
        for answer, step in steps
    ]
    rollouts = dict(sampler.draw(requests))
    decode = sampler.lm.vocab.decode
    samples = []
    for index, (answer, step) in enumerate(steps):
        rollout = rollouts[index]
        state = with_end(rollout.state, delimiters[answer], decode).prefix(step + 1)
        samples.append(StepSample(answer, step, replace(rollout, state=state)))
    return samples


def successors(
    answers: Sequence[PartialAnswer], samples: Sequence[StepSample]
) -> tuple[list[PartialAnswer], list[list[PartialAnswer]]]:
    """The states before all steps, in order, and for each its successors: the one that was taken
    first, then those of the other draws.
    """
    before = [state for answer in answers for state in answer.prefixes[:-1]]
    after = [[state] for answer in answers for state in answer.prefixes[1:]]
    first_step = [0]
    for answer in answers:
        first_step.append(first_step[-1] + answer.depth)
    for sample in samples:
        after[first_step[sample.answer] + sample.step].append(sample.rollout.state)
    return before, after


def leave_one_out_weights(
    rewards: Float[Tensor, "states candidates"],
) -> Float[Tensor, "states candidates"]:
    """Each reward minus the mean of the others of its state."""
    count = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (count / (count - 1))


def split_weights(
    weights: Float[Tensor, "states candidates"], depths: Sequence[int]
) -> list[Float[Tensor, " steps"]]:
    """Weights by rollout: those of the answers, which have `depths` steps, then of each sample."""
    return [*weights[:, 0].split(list(depths)), *weights[:, 1:].reshape(-1, 1)]
