"""Fine-tuning and policy gradient of many runs side by side: what a step is rewarded with, and the
loop.

REINFORCE without a baseline: the gradient of a sequence is the sum over its tokens of grad log
pi(token | prefix) times a reward, which is, by arm
    outcome      r, the reward of the sequence: an unbiased estimate of Q^pi from one sample
    q            the mean reward of rollouts of the policy from the prefix that ends with the token
    effective    r + alpha A^mu of that token alone, the paper's Eq. 5 with Q^pi from one sample
    effective-q  the same with Q^pi from rollouts
    telescoped   r + alpha times the sum of A^mu from that token on: r less V^mu of the prefix, so r
    again under a baseline
A^mu is the rise of V^mu from prefix to prefix (values.py), exact or estimated. Tokens behind an end
token do not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.didactic.options import PROVED, Cell, DidacticConfig
from experiments.didactic.policy import Made, Tokens, Weights
from experiments.didactic.task import Task, played
from experiments.didactic.values import Values, along, exact

_LOOKS, _SURE = 256, 4096
"""Prefixes drawn for the chance of success: at each look, and again where a run seems to be solved.
"""
_ADAM, _SGD = 1e-3, 1.0
"""Learning rates."""
Rewards = Float[Tensor, "runs rows length"]


@dataclass(frozen=True)
class Evaluation:
    """What is known of a run after some updates: its chance of success; whether it ended, and how
    many sequences it has drawn.
    """

    seed: int
    iteration: int
    success: float
    sequences: int
    done: bool


class Noise:
    """Random numbers of several runs, a generator each, so that no run's numbers depend on the
    others.
    """

    def __init__(self, seeds: Sequence[int], stream: int) -> None:
        self.sources = [torch.Generator().manual_seed(seed + stream * 2**40) for seed in seeds]

    def uniform(self, rows: int, length: int) -> Float[Tensor, "runs rows length"]:
        """Numbers in [0, 1)."""
        return torch.stack([torch.rand(rows, length, generator=source) for source in self.sources])

    def shares(
        self, chances: Float[Tensor, " runs *rest"], count: int
    ) -> Float[Tensor, " runs *rest"]:
        """The share of `count` independent trials that succeed, each with the given chance."""
        many = torch.full(chances.shape[1:], float(count), dtype=chances.dtype)
        return (
            torch.stack(
                [
                    torch.binomial(many, part, generator=source)
                    for part, source in zip(chances, self.sources)
                ]
            )
            / count
        )

    def keep(self, runs: Sequence[int]) -> None:
        """Let go of all but these."""
        self.sources = [self.sources[run] for run in runs]


def fine_tuned(made: Made, config: DidacticConfig, weights: Weights, noise: Noise) -> Weights:
    """Weights after Adam (learning rate 1e-3) on fresh batches of the `sft_strength` policy's
    sequences: maximum likelihood of the tokens written.
    """
    policy = made.task.prover(config.sft_strength).float()
    weights = [part.clone().requires_grad_() for part in weights]
    optimizer = torch.optim.Adam(weights, _ADAM, fused=True)
    for _ in range(config.sft_iterations):
        tokens = played(made.task, policy, noise.uniform(config.batch, made.task.length))
        step(made, weights, optimizer, tokens, torch.ones(tokens.shape))
    return [part.detach() for part in weights]


def step(
    made: Made, weights: Weights, optimizer: torch.optim.Optimizer, tokens: Tokens, rewards: Rewards
) -> None:
    """One update of every run by the gradient of its batch's mean over sequences of sum over tokens
    of reward times log-probability.
    """
    written = made.task.walk(tokens)[1]
    gain = (made.log_probs(weights, tokens) * rewards * written).sum(2).mean(1).sum()
    optimizer.zero_grad()
    (-gain).backward()
    optimizer.step()


def rises(
    values: Values,
    states: Int[Tensor, "runs rows length+1"],
    noise: Noise | None = None,
    rollouts: int = 0,
) -> Rewards:
    """A^mu of every token: exactly, or with every prefix's V^mu the share of successes among
    `rollouts` completions.
    """
    heights = along(values, states)
    if noise is not None and rollouts:
        heights = noise.shares(heights, rollouts)
    return heights.diff(dim=2).float()


def rewards_of(
    arm: str,
    reward: Float[Tensor, "runs rows"],
    q: Rewards | None,
    advantages: Rewards | None,
    alpha: float,
) -> Rewards:
    """What each token is rewarded with; `q` for arms that estimate it by rollouts, `advantages` for
    those with a prover.
    """
    base = q if q is not None else reward[..., None]
    if advantages is None:
        return base
    if arm == "telescoped":
        advantages = advantages.flip(2).cumsum(2).flip(2)
    return base + alpha * advantages


def q_by_rollouts(
    made: Made, weights: Weights, tokens: Tokens, count: int, noise: Noise
) -> tuple[Rewards, Int[Tensor, " runs"]]:
    """Q^pi of every token from `count` completions by the policy, and how many each run drew; none
    where the reward is certain already.
    """
    task, (runs, rows, length) = made.task, tokens.shape
    states, drew = task.walk(tokens)[0], torch.zeros(runs, dtype=torch.long)
    has_won = (states[..., 1:] == task.won).float()
    for size in range(1, length):
        state = states[..., size]
        open_ = (state < task.won) & (task.won - state <= length - size)
        most, fresh = int(open_.sum(1).max()), noise.uniform(rows * count, length)
        if not most:
            continue
        places = open_.long().sort(dim=1, descending=True, stable=True).indices[:, :most]
        prefixes = (
            tokens[..., :size]
            .gather(1, places[..., None].expand(-1, -1, size))
            .repeat_interleave(count, 1)
        )
        ends = task.walk(made.draw(weights, fresh[:, : most * count], prefixes))[0][..., -1]
        share = (ends == task.won).float().unflatten(1, (most, count)).mean(2)
        known = open_.gather(1, places)
        has_won[..., size - 1].scatter_(
            1, places, torch.where(known, share, has_won[..., size - 1].gather(1, places))
        )
        drew += known.sum(1) * count
    return has_won, drew


def learn(cell: Cell, seeds: Sequence[int], config: DidacticConfig) -> Iterator[Evaluation]:
    """Looks at every run of an arm and a prover, at update 0 and every `every` ones; a run that is
    solved is looked at no more.
    """
    (arm, strength), made = cell, Made(Task())
    values = (
        exact(made.task, made.task.prover(strength))
        if strength is not None and arm in PROVED
        else None
    )
    noise, left = Noise(seeds, 1), list(seeds)
    with torch.no_grad():
        weights = made.init(seeds)
    weights = [part.requires_grad_() for part in fine_tuned(made, config, weights, noise)]
    optimizer = _optimizer(weights, config)
    drew = torch.zeros(len(seeds), dtype=torch.long)
    for iteration in range(config.iterations + 1):
        if iteration % config.every == 0 or iteration == config.iterations:
            chances = _chances(made, weights, left, iteration, config.solved)
            done = [chance >= config.solved or iteration == config.iterations for chance in chances]
            yield from (
                Evaluation(*values)
                for values in zip(left, [iteration] * len(left), chances, drew.tolist(), done)
            )
            stay = [run for run, over in enumerate(done) if not over]
            if not stay:
                return
            if len(stay) < len(left):
                weights, optimizer = _kept(weights, optimizer, stay, config)
                left, drew = [left[run] for run in stay], drew[stay]
                noise.keep(stay)
        with torch.no_grad():
            tokens = made.draw(weights, noise.uniform(config.batch, made.task.length))
            states = made.task.walk(tokens)[0]
            drew += config.batch
            q = None
            if arm in ("q", "effective-q"):
                q, more = q_by_rollouts(made, weights, tokens, config.q_rollouts, noise)
                drew += more
            advantages = (
                None if values is None else rises(values, states, noise, config.prover_rollouts)
            )
            rewards = rewards_of(
                arm, (states[..., -1] == made.task.won).float(), q, advantages, config.alpha
            )
        step(made, weights, optimizer, tokens, rewards)


@torch.no_grad()
def _chances(
    made: Made, weights: Weights, seeds: Sequence[int], iteration: int, solved: float
) -> list[float]:
    """Each run's chance of success; near `solved` and above, from many more prefixes."""
    chances = made.success(
        weights, Noise(seeds, 2 + iteration).uniform(_LOOKS, made.task.length)
    ).tolist()
    for run, chance in enumerate(chances):
        if chance >= solved:
            alone, noise = (
                [part[run : run + 1] for part in weights],
                Noise(seeds[run : run + 1], 2 + iteration),
            )
            chances[run] = made.success(alone, noise.uniform(_SURE, made.task.length)).item()
    return chances


def _optimizer(weights: Weights, config: DidacticConfig) -> torch.optim.Optimizer:
    """What follows the policy gradient."""
    if config.optimizer == "sgd":
        return torch.optim.SGD(weights, config.lr or _SGD, fused=True)
    return torch.optim.Adam(weights, config.lr or _ADAM, fused=True)


def _kept(
    weights: Weights, optimizer: torch.optim.Optimizer, runs: list[int], config: DidacticConfig
) -> tuple[Weights, torch.optim.Optimizer]:
    """Weights and the optimiser's state of some of the runs."""
    fresh = [part.detach()[runs].requires_grad_() for part in weights]
    other = _optimizer(fresh, config)
    for old, new in zip(weights, fresh):
        state = {name: value for name, value in optimizer.state[old].items() if value is not None}
        other.state[new] = {
            name: value[runs] if value.dim() else value for name, value in state.items()
        }
    return fresh, other
