"""What an analysis looks at: prompts, each with the traces of several decoders, and what the right
answer is where that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create, load, settings
from creditdecoding.decoders.base import capabilities_of
from creditdecoding.errors import CreditError, OptionError
from creditdecoding.eval.evaluate import evaluate
from creditdecoding.eval.traces.commit_timing import check_trace
from creditdecoding.eval.traces.oracle import decode_with_oracle
from creditdecoding.lm import LM
from creditdecoding.tasks.base import Split, Task
from creditdecoding.trace import Event, Trace

STANDARD = "fixed"
"""Standard decoding, one token a pass: what every other decoder is measured against."""


@dataclass(frozen=True)
class PromptTraces:
    """One prompt: a trace by decoder, whether each answer is `right`, the tokens of the `gold`
    answer, and the oracle's trace.
    """

    traces: Mapping[str, Trace]
    right: Mapping[str, bool] = field(default_factory=dict)
    reference: tuple[int, ...] | None = None
    oracle: Trace | None = None

    @property
    def standard(self) -> Trace | None:
        """The trace of standard decoding."""
        return self.traces.get(STANDARD)


def group_traces(named: Sequence[tuple[str, Trace]]) -> list[PromptTraces]:
    """Traces from (file name, trace), gathered by prompt. Raises `OptionError` where they cannot be
    compared.
    """
    if not named:
        raise OptionError(
            "no traces to analyse",
            hint="Give JSONL files made with: credit trace PROMPT --save FILE.jsonl",
        )
    groups: dict[tuple[int, ...], dict[str, Trace]] = {}
    frames: dict[tuple[int, ...], Mapping[str, Any]] = {}
    for file, trace in named:
        check_trace(trace, file)
        name = decoder_spec(trace, file)
        group = groups.setdefault(trace.prompt, {})
        if name in group:
            raise OptionError(
                f"two traces of {name} and the same prompt", given=file, hint="Leave one out."
            )
        group[name] = trace
        frame = {
            key: value for key, value in trace.settings.items() if key not in ("decoder", "seed")
        }
        if frames.setdefault(trace.prompt, frame) != frame:
            other = sorted(
                key
                for key in {*frame, *frames[trace.prompt]}
                if frame.get(key) != frames[trace.prompt].get(key)
            )
            raise OptionError(
                f"traces of one prompt differ in {', '.join(other)}",
                given=file,
                hint="Decode all with the same options.",
            )
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


def decoder_spec(trace: Trace, file: str) -> str:
    """The decoder of a trace as `NAME:knob=value,...`, knobs that have their default left out.
    Raises `OptionError`.
    """
    known = trace.settings.get("decoder")
    if not isinstance(known, Mapping) or "name" not in known:
        raise OptionError(
            "the trace does not say which decoder made it",
            given=file,
            hint="Make it with: credit trace PROMPT --save FILE.jsonl",
        )
    try:
        default = settings(create(known["name"]))
    except CreditError:
        default = {}
    knobs = [
        f"{key}={value}"
        for key, value in known.items()
        if key != "name" and default.get(key) != value
    ]
    return str(known["name"]) + (":" + ",".join(knobs) if knobs else "")


def decoders_to_trace(specs: Sequence[str], config: GenerationConfig) -> list[str]:
    """Standard decoding and `specs`, without repeats. Raises `OptionError` where the definitions do
    not apply.
    """
    if config.temperature != 0.0:
        raise OptionError(
            "sampled tokens have no candidate",
            given=f"--temperature {config.temperature}",
            hint="Analyse at temperature 0.",
        )
    for spec in specs:
        if capabilities_of(load(spec)[0]).can_revise:
            what = "a rule that writes over tokens or takes them back has no one commit a token"
            raise OptionError(what, given=spec, hint="Leave it out of --decoders.")
    return list(dict.fromkeys((STANDARD, *specs)))


def decode_prompts(
    lm: LM,
    families: Sequence[Task],
    config: GenerationConfig,
    specs: Sequence[str],
    limit: int,
    split: Split = "test",
    on_event: Callable[[Event], None] | None = None,
) -> list[PromptTraces]:
    """Answer `limit` items of each family with every decoder of `decoders_of`, and with the oracle."""
    specs = decoders_to_trace(specs, config)
    reports = {
        spec: evaluate(lm, families, replace(config, decoder=spec), limit, split, on_event=on_event)
        for spec in specs
    }
    cases = []
    for samples in zip(*(report.samples for report in reports.values())):
        traces = {spec: sample.completion.trace for spec, sample in zip(specs, samples)}
        right = {spec: sample.right for spec, sample in zip(specs, samples)}
        gold = tuple(lm.tokenizer.encode(samples[0].item.answer))
        cases.append(PromptTraces(traces, right, gold or None))
    return with_oracle(lm, cases, on_event)


def with_oracle(
    lm: LM, cases: Sequence[PromptTraces], on_event: Callable[[Event], None] | None = None
) -> list[PromptTraces]:
    """The cases, each with the oracle's trace to standard decoding's answer. Raises `OptionError`
    where that is missing.
    """
    return [
        replace(case, oracle=trace)
        for case, trace in zip(cases, decode_with_oracle(lm, standard_traces(cases), on_event))
    ]


def standard_traces(cases: Sequence[PromptTraces]) -> list[Trace]:
    """The traces of standard decoding. Raises `OptionError` if there are none."""
    found = [case.standard for case in cases if case.standard is not None]
    if len(found) < len(cases):
        raise OptionError(
            "the oracle needs standard decoding's answer",
            hint="Add traces of --decoder fixed, or leave --model out.",
        )
    return found
