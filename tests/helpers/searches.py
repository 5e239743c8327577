"""Problems of searches, and a value model that knows their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.lm import LM
from creditdecoding.pav.problems import Problem, make_problem
from creditdecoding.pav.steps import PartialAnswer
from creditdecoding.pav.verifier.packing import prefix_chains
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import distinct_items

(FAMILY,) = load_tasks("arithmetic")
ITEMS = distinct_items(FAMILY, "dev", 0, 3)
HOT = GenerationConfig(decoder="threshold:threshold=0.4", temperature=1.5, gen_length=96)


def problems(lm: LM, seed: int = 0, config: GenerationConfig = HOT) -> list[Problem]:
    generation = dataclasses.replace(config, seed=seed)
    return [make_problem(lm, FAMILY, number, item, generation) for number, item in enumerate(ITEMS)]


class Exact:
    """Knows the answers: 0.9 for the beginning of one, more the further it is, 0.1 for everything
    else.
    """

    def __init__(self, lm: LM) -> None:
        self.lm, self.sequences = lm, 0
        self.answers = {tuple(lm.encode(item.prompt)): item.answer for item in ITEMS}

    def q(self, states: Sequence[PartialAnswer]) -> Tensor:
        self.sequences += 2 * len(prefix_chains(states))
        texts = [
            (self.lm.vocab.decode(state.written), self.answers[state.prompt], state.done)
            for state in states
        ]
        return torch.tensor(
            [
                0.9 if (whole == text if done else whole.startswith(text)) else 0.1
                for text, whole, done in texts
            ]
        )
