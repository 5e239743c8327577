"""The prompts of an analysis, each with the traces of several decoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, load, settings
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.eval.evaluate import ScoredAnswer, answer_items
from creditdecoding.eval.saved_answers import SavedAnswers
from creditdecoding.eval.traces.commit_timing import check_trace
from creditdecoding.eval.traces.oracle import decode_with_oracle
from creditdecoding.eval.traces.side_by_side import padded_answers
from creditdecoding.lm import LM
from creditdecoding.tasks.base import Item, Task
from creditdecoding.trace import Event, Trace

STANDARD = "fixed"
"""Standard decoding, one token a pass: what every other decoder is compared with."""


@dataclass(frozen=True)
class PromptTraces:
    """One prompt with a trace by decoder.

    `right` says by decoder whether the answer is, where that is known; `reference` has the ids of
    the reference answer, `right_answers` those of all right ones, if they can be listed
    (`padded_answers`). Each of `end_ids` ends an answer.
    """

    traces: Mapping[str, Trace]
    right: Mapping[str, bool] = field(default_factory=dict)
    reference: tuple[int, ...] | None = None
    oracle: Trace | None = None
    right_answers: tuple[tuple[int, ...], ...] = ()
    end_ids: tuple[int, ...] = ()


def group_traces(named: Sequence[tuple[str, Trace]]) -> list[PromptTraces]:
    """Traces from (file name, trace), grouped by prompt.

    Raises `OptionError` if they cannot be compared.
    """
    if not named:
        raise OptionError(
            "no traces to analyse",
            hint="Give JSONL files made with: credit trace PROMPT --save FILE.jsonl",
        )
    groups: dict[tuple[int, ...], dict[str, Trace]] = {}
    for file, trace in named:
        check_trace(trace, file)
        name = decoder_spec(trace, file)
        group = groups.setdefault(trace.prompt, {})
        if name in group:
            what = f"two traces of {name} and the same prompt"
            raise OptionError(what, given=file, hint="Leave one out.")
        _check_same_options(trace, next(iter(group.values()), trace), file)
        group[name] = trace
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    for group in groups.values():
        missing = [name for name in names if name not in group]
        if missing:
            raise OptionError(
                "the decoders answered different prompts",
                given=f"a prompt without {missing[0]}",
                hint="Give a trace of every decoder for each prompt.",
            )
    return [PromptTraces({name: group[name] for name in names}) for group in groups.values()]


def _check_same_options(trace: Trace, other: Trace, file: str) -> None:
    """Refuse traces of one prompt that differ in more than the decoder. Raises `OptionError`."""
    keys = {*trace.settings, *other.settings} - {"decoder", "seed"}
    different = [key for key in sorted(keys) if trace.settings.get(key) != other.settings.get(key)]
    if different:
        raise OptionError(
            f"traces of one prompt differ in {', '.join(different)}",
            given=file,
            hint="Decode all with the same options.",
        )


def decoder_spec(trace: Trace, file: str) -> str:
    """The decoder of a trace as `NAME:knob=value,...`, without knobs that have their default.

    Raises `OptionError` if the trace does not name it.
    """
    decoder = trace.settings.get("decoder")
    if not isinstance(decoder, Mapping) or "name" not in decoder:
        raise OptionError(
            "the trace does not say which decoder made it",
            given=file,
            hint="Make it with: credit trace PROMPT --save FILE.jsonl",
        )
    defaults: Mapping[str, Any] = {}
    with suppress(CreditError):  # a decoder that is not of this package
        defaults = settings(create(decoder["name"]))
    knobs = ",".join(
        f"{knob}={value}"
        for knob, value in decoder.items()
        if knob != "name" and defaults.get(knob) != value
    )
    return f"{decoder['name']}:{knobs}" if knobs else str(decoder["name"])


def decoders_to_trace(specs: Sequence[str], config: GenerationConfig) -> list[str]:
    """Standard decoding and `specs`, without repeats.

    Raises `OptionError` for sampling and for rules that commit a token more than once.
    """
    if config.temperature != 0.0:
        raise OptionError(
            "sampled tokens have no candidate",
            given=f"--temperature {config.temperature}",
            hint="Analyse at temperature 0.",
        )
    for spec in specs:
        if capabilities_of(load(spec)[0]).can_revise:
            what = "a rule that overwrites or remasks tokens commits them more than once"
            raise OptionError(what, given=spec, hint="Leave it out of --decoders.")
    return list(dict.fromkeys((STANDARD, *specs)))


def decode_prompts(
    lm: LM,
    tasks: Sequence[Task],
    items: Sequence[Item],
    config: GenerationConfig,
    specs: Sequence[str],
    on_event: Callable[[Event], None] | None = None,
    saved: SavedAnswers | None = None,
) -> list[PromptTraces]:
    """Answer items with every decoder of `decoders_to_trace`, and with the oracle.

    `saved` has whole traces of an interrupted run, and gets those of this one.
    """
    answers = {}
    for spec in specs:
        options = replace(config, decoder=spec)
        setting = None if saved is None else saved.of_setting(spec)
        answers[spec] = answer_items(lm, tasks, items, options, on_event, saved=setting)
    by_name = {task.name: task for task in tasks}
    prompts = []
    for number, item in enumerate(items):
        prompts.append(
            PromptTraces(
                traces={spec: answers[spec][number].completion.trace for spec in specs},
                right=_verdicts({spec: answers[spec][number] for spec in specs}),
                reference=tuple(lm.tokenizer.encode(item.answer)) or None,
                right_answers=_right_answers(lm, by_name[item.task], item),
                end_ids=tuple(lm.vocab.stop_ids),
            )
        )
    return with_oracle(lm, prompts, on_event)


def _verdicts(answers: Mapping[str, ScoredAnswer]) -> dict[str, bool]:
    """Whether each answer is right; nothing for open text."""
    return {spec: answer.right for spec, answer in answers.items() if not answer.item.is_open}


def _right_answers(lm: LM, task: Task, item: Item) -> tuple[tuple[int, ...], ...]:
    """The ids of all right answers with their ends; none if they cannot be listed."""
    if task.right_answers is None:
        return ()
    answers = [lm.tokenizer.encode(text) for text in task.right_answers(item)]
    return padded_answers(answers)


def with_oracle(
    lm: LM, prompts: Sequence[PromptTraces], on_event: Callable[[Event], None] | None = None
) -> list[PromptTraces]:
    """The prompts, each with the oracle's trace to standard decoding's answer.

    Raises `OptionError` if that answer is missing.
    """
    traces = decode_with_oracle(lm, standard_traces(prompts), on_event)
    return [replace(prompt, oracle=trace) for prompt, trace in zip(prompts, traces)]


def standard_traces(prompts: Sequence[PromptTraces]) -> list[Trace]:
    """The traces of standard decoding. Raises `OptionError` if there are none."""
    if any(STANDARD not in prompt.traces for prompt in prompts):
        raise OptionError(
            "the oracle needs standard decoding's answer",
            hint="Add traces of --decoder fixed, or leave --model out.",
        )
    return [prompt.traces[STANDARD] for prompt in prompts]
