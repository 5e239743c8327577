"""Further steps from the states that answers went through, for a verifier to judge beside the ones
taken: a policy gradient with less noise.

In a state C steps are drawn alike, one of them being the one that the answer took, and each is
weighed by its reward less the mean reward of the
others, over C. That is the gradient of the expected reward as well, its noise being that of C
draws. Whatever depends on the state alone, a
baseline for one, cancels. A verifier's word on a step does not ask how the answer goes on, so this
costs steps and not answers; an outcome is
known of the step alone that was taken.
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
    """A draw of the step number `step`, from 0, of the answer number `answer`, beside the one that
    the answer took.
    """

    answer: int
    step: int
    drawn: Rollout

    @property
    def as_one_step(self) -> Rollout:
        """The draw as an answer of one step, for its log-probability: what it was begun with was
        not drawn.
        """
        return replace(self.drawn, state=replace(self.drawn.state, ends=self.drawn.state.ends[-1:]))


def sample_steps(
    answers: Sequence[Rollout],
    marks: Sequence[Delimiter],
    count: int,
    sampler: Sampler,
    seeds: Iterator[int],
) -> list[StepSample]:
    """`count` more draws of each step of each answer, whose steps end as `marks` say, in the order
    of answers, steps and draws.

    An answer's state has its end token in a step (`with_end`), and so have those that are drawn.
    """
    places = [
        (answer, step)
        for answer, one in enumerate(answers)
        for step in range(one.state.depth)
        for _ in range(count)
    ]
    asks = [
        RolloutRequest(answers[answer].state.prefix(step), marks[answer], next(seeds), 1)
        for answer, step in places
    ]
    found = dict(sampler.draw(asks))
    decode = sampler.lm.vocab.decode
    ends = [
        with_end(found[i].state, marks[answer], decode).prefix(step + 1)
        for i, (answer, step) in enumerate(places)
    ]
    return [
        StepSample(answer, step, replace(found[i], state=ends[i]))
        for i, (answer, step) in enumerate(places)
    ]


def sides(
    answers: Sequence[PartialAnswer], others: Sequence[StepSample]
) -> tuple[list[PartialAnswer], list[list[PartialAnswer]]]:
    """The states before all steps of all answers, in order, and for each those behind it: the one
    that was taken, then the other draws'.
    """
    before = [state for one in answers for state in one.prefixes[:-1]]
    behind = [[state] for one in answers for state in one.prefixes[1:]]
    first = [0]
    for one in answers:
        first.append(first[-1] + one.depth)
    for branch in others:
        behind[first[branch.answer] + branch.step].append(branch.drawn.state)
    return before, behind


def leave_one_out_weights(
    rewards: Float[Tensor, "states candidates"],
) -> Float[Tensor, "states candidates"]:
    """Each reward less the mean of the others' of its state."""
    count = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * (count / (count - 1))


def split_weights(
    weights: Float[Tensor, "states candidates"], depths: Sequence[int]
) -> list[Float[Tensor, " steps"]]:
    """Weights by lesson: of the answers, which have so many steps, then of each other draw alone,
    in the order of `branches`.
    """
    return [*weights[:, 0].split(list(depths)), *weights[:, 1:].reshape(-1, 1)]
