"""Several live blocks at once: what opens when, and what every rule keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from creditdecoding.config import EngineConfig, GenerationConfig
from creditdecoding.decoders import create, load, names, settings
from creditdecoding.decoders._live_blocks import LiveBlockOptions, LiveBlocks
from creditdecoding.decoders.base import Block, capabilities_of
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, new_request
from creditdecoding.errors import OptionError
from creditdecoding.lm import load as lm_load
from creditdecoding.trace import StepEvent
from tests.helpers.rules import CPU, peaks, predict
from tests.helpers.toys import WORDS, toy


def plain_rules() -> list[str]:
    """The rules that can run in several blocks."""
    plain = []
    for name in names(controls=True):
        declared = capabilities_of(create(name))
        if not (declared.can_revise or declared.leave_one_out or declared.looks_ahead):
            plain.append(name)
    return plain


def commits(
    rule: LiveBlocks, confidences: list[list[float]], widths: tuple[int, ...] = (2, 2, 2)
) -> list[list[int]]:
    """The columns that are committed in each pass; what is written stays written."""
    number = torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths))[None]
    masked = torch.ones_like(number, dtype=torch.bool)
    state = rule.init(1, masked.shape[1], 16, CPU)
    columns = []
    for step, confidence in enumerate(confidences):
        prediction = predict(peaks(confidence), masked)
        passes = torch.tensor([step])
        initial_masks = torch.tensor([widths[0]])
        block = Block(
            number,
            masked,
            masked,
            initial_masks,
            passes,
            next_block=number > 0,
            block_number=number,
        )
        decision, state = rule.step(prediction, block, state)
        columns.append(decision.commit[0].nonzero()[:, 0].tolist())
        masked = masked & ~decision.commit
    return columns


def live(spec: str) -> LiveBlocks:
    rule, _ = load(spec)
    assert isinstance(rule, LiveBlocks)
    return rule


def test_blocks_open_when_the_last_open_one_is_written_to_the_share() -> None:
    """All columns are at .95 but for the second of each block. Pass 1: block 0 alone. Half of it is
    written, so pass 2 opens block 1; block 2 opens in pass 3.
    """
    confidence = [0.95, 0.2, 0.95, 0.3, 0.95, 0.4]
    rule = live("threshold:threshold=0.9,live_blocks=3,open_share=0.5")
    assert commits(rule, [confidence] * 3) == [[0], [1, 2], [3, 4]]
    strict = live("threshold:threshold=0.9,live_blocks=3,open_share=0.6")
    assert commits(strict, [confidence] * 3) == [[0], [1], [2]]
    at_once = live("threshold:threshold=0.9,live_blocks=3,open_share=0")
    assert commits(at_once, [confidence] * 2) == [[0, 2, 4], [1, 3, 5]]
    two = live("threshold:threshold=0.9,live_blocks=2,open_share=0")
    assert commits(two, [confidence]) == [[0, 2]]


def test_each_block_counts_its_own_passes_and_masks() -> None:
    """`fixed` with two steps a block of four commits two a pass, in each block that is open."""
    rule = live("fixed:steps=2,live_blocks=2,open_share=0.5")
    confidence = [0.9, 0.8, 0.7, 0.6, 0.9, 0.8, 0.7, 0.6]
    columns = commits(rule, [confidence] * 3, widths=(4, 4))
    assert columns == [[0, 1], [2, 3, 4, 5], [6, 7]]


def test_a_history_begins_when_its_block_opens() -> None:
    """`less` with one pass of history: block 1 opens in pass 2 and is stable in pass 3."""
    rule = live("less:passes=1,threshold=0.7,live_blocks=2,open_share=0.3")
    confidence = [0.9, 0.8, 0.8, 0.9, 0.8, 0.8]
    assert commits(rule, [confidence] * 3, widths=(3, 3)) == [[0], [1, 2, 3], [4, 5]]


def requests(spec: str, **options: object) -> list[Request]:
    config = GenerationConfig(decoder=spec, gen_length=10, block_length=4, **options)
    prompts = ([1, 2, 3], [4, 5, 6, 7], [1])
    return [new_request(i, prompt, config, WORDS, 200) for i, prompt in enumerate(prompts)]


def steps_of(started: list[Request], batch_size: int = 3) -> dict[int, list[StepEvent]]:
    """The steps of each request, without what the batch decides."""
    steps: dict[int, list[StepEvent]] = {request.index: [] for request in started}
    for event in denoise(toy(), started, WORDS, CPU, batch_size):
        if isinstance(event, StepEvent):
            steps[event.row].append(replace(event, forward=0, seconds=0.0))
    return steps


def written(steps: list[StepEvent]) -> list[dict[int, int]]:
    return [step.commits() for step in steps]


@pytest.mark.parametrize("name", plain_rules())
def test_a_share_of_one_is_the_rule_itself(name: str) -> None:
    """The next block opens only when the current one is finished, as without."""
    plain = steps_of(requests(name))
    several = steps_of(requests(f"{name}:live_blocks=3,open_share=1"))
    for row, steps in plain.items():
        assert written(several[row]) == written(steps)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}])
@pytest.mark.parametrize("name", ["threshold", "credit", "less", "fixed"])
def test_rows_of_a_batch_get_what_they_get_alone(name: str, options: dict[str, object]) -> None:
    spec = f"{name}:live_blocks=3,open_share=0.25"
    together = steps_of(requests(spec, **options))
    for request in requests(spec, **options):
        alone = steps_of([request])
        assert written(alone[request.index]) == written(together[request.index])


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "every:n=3"])
def test_the_embedded_model_under_every_cache(cache: str) -> None:
    """Where a pass computes only the current block no other opens: the rule itself. Elsewhere the
    rows of a batch get what they get alone, in no more passes than one block at a time.
    """
    lm = lm_load("pocket", EngineConfig(threads=1))
    prompts = ["Solve 3x+4=19 for x.", "Tom has 6 apples. Tom finds 5 more. How many?"]
    options = {"cache": cache, "gen_length": 64, "block_length": 8}
    several = lm.generate(prompts, decoder="credit:live_blocks=3,open_share=0.25", **options)
    plain = lm.generate(prompts, decoder="credit", **options)
    for prompt, together, single in zip(prompts, several, plain):
        alone = lm.generate(prompt, decoder="credit:live_blocks=3,open_share=0.25", **options)
        assert written(alone.trace.steps) == written(together.trace.steps)
        assert together.trace.nfe <= single.trace.nfe


@pytest.mark.parametrize("name", plain_rules())
def test_every_mask_is_written_once_and_blocks_open_in_order(name: str) -> None:
    for steps in steps_of(requests(f"{name}:live_blocks=2,open_share=0.5")).values():
        tokens: dict[int, int] = {}
        start = min(position for step in steps for position in step.positions)
        for step in steps:
            new = step.commits()
            assert new.keys() & tokens.keys() == set()
            assert new, "every pass writes"
            numbers = [(position - start) // 4 - step.block for position in step.positions]
            assert list(step.ahead or [0] * len(numbers)) == numbers
            blocks = {(position - start) // 4 for position in new}
            assert blocks <= {step.block, step.block + 1}
            if step.block + 1 in blocks:
                first = range(start + 4 * step.block, start + 4 * step.block + 4)
                assert sum(position in tokens for position in first) >= 2
            tokens |= new
        assert len(tokens) == 10


def test_settings_name_both_and_read_back() -> None:
    rule = live("credit:threshold=0.8,live_blocks=2")
    values = settings(rule)
    assert (values["name"], values["live_blocks"], values["open_share"]) == ("credit", 2, 0.5)
    assert create(**values) == rule
    assert load("credit:live_blocks=1")[0] == create("credit")


@pytest.mark.parametrize("spec", ["thrift", "edit", "wino"])
def test_rules_that_see_more_than_their_masks_are_refused(spec: str) -> None:
    with pytest.raises(OptionError, match="live_blocks needs a rule"):
        load(f"{spec}:live_blocks=2")


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="live_blocks"):
        load("credit:live_blocks=0")
    with pytest.raises(OptionError, match="open_share"):
        load("credit:live_blocks=2,open_share=1.5")
    with pytest.raises(OptionError, match="open_share without live_blocks"):
        load("credit:open_share=0.5")
    with pytest.raises(OptionError, match="not a number"):
        load("credit:live_blocks=two")
    assert load("thrift:ahead=false,live_blocks=2")[0] == LiveBlocks(
        create("thrift", ahead=False), LiveBlockOptions(live_blocks=2)
    )
