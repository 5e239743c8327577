"""The answer that a search finds for a prompt: what `LM.search` returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoding.request import sample_seed
from creditdecoding.lm import LM
from creditdecoding.options import StrPath, from_mapping
from creditdecoding.pav.problems import Problem, answer_extractor
from creditdecoding.pav.sampler import Sampler
from creditdecoding.pav.search.methods import search
from creditdecoding.pav.search.options import SearchConfig
from creditdecoding.pav.search.result import SearchResult
from creditdecoding.pav.steps import parse_delimiter
from creditdecoding.pav.verifier.model import Verifier
from creditdecoding.text.prompts import Prompt, parse_prompts
from creditdecoding.trace_svg import html_card, shorten
from creditdecoding.wording import count

TEMPERATURE = 1.0
"""The temperature of draws where none is given: at 0 all candidates would be alike."""


@dataclass(frozen=True, repr=False)
class SearchAnswer:
    """The answer that a search chose.

    `q` is the verifier's probability that it is right, None without one. `candidates` are the
    texts of all finished answers. `result` has every candidate by round, and the cost.
    """

    text: str
    q: float | None
    candidates: tuple[str, ...]
    result: SearchResult

    @property
    def sequences(self) -> int:
        """Sequence-forwards of model and verifier together."""
        return self.result.spent.sequences

    @property
    def summary(self) -> str:
        """Quality and cost in a line."""
        q = "" if self.q is None else f"Q {self.q:.2f}, "
        answers = count(len(self.candidates), "answer")
        return f"{q}of {answers}, {count(self.sequences, 'sequence-forward')}"

    def __repr__(self) -> str:
        return f"<SearchAnswer {shorten(self.text, 60)!r}: {self.summary}>"

    def _repr_html_(self) -> str:
        return html_card(self.summary, "", self.text)


def search_prompts(
    lm: LM,
    prompt: Any,
    verifier: StrPath | None,
    delimiter: str,
    raw: bool,
    options: Mapping[str, Any],
) -> SearchAnswer | list[SearchAnswer]:
    """Search for the answer to one prompt, or to several. `options` are fields of `SearchConfig`
    and `GenerationConfig`. Raises `CreditError`s.
    """
    prompts, single = parse_prompts(prompt)
    own = {field.name for field in dataclasses.fields(SearchConfig)}
    config = SearchConfig(**{name: value for name, value in options.items() if name in own})
    rest = {name: value for name, value in options.items() if name not in own}
    generation = from_mapping(GenerationConfig, {"temperature": TEMPERATURE, **lm.defaults, **rest})
    sampler = Sampler(lm, generation, share=True)
    value_model = None if verifier is None else Verifier.load(Path(verifier), lm)
    problems = [_problem(lm, text, delimiter, raw, generation, i) for i, text in enumerate(prompts)]
    results = dict(search(config, problems, sampler, value_model))
    answers = [_answer(results[index], sampler) for index in range(len(problems))]
    return answers[0] if single else answers


def _problem(
    lm: LM, prompt: Prompt, delimiter: str, raw: bool, generation: GenerationConfig, index: int
) -> Problem:
    return Problem(
        prompt=tuple(lm.encode(prompt, raw)),
        delimiter=parse_delimiter(delimiter),
        seed=sample_seed(generation.seed, index),
        extract_answer=answer_extractor(None, lm, generation),
    )


def _answer(result: SearchResult, sampler: Sampler) -> SearchAnswer:
    candidates = tuple(sampler.text(candidate.state) for candidate in result.finished)
    return SearchAnswer(sampler.text(result.answer.state), result.answer.q, candidates, result)
