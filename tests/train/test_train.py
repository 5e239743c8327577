"""Training: corruption patterns, a run that resumes to the same weights, a checkpoint in the
released format.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
import torch

from creditdecoding.errors import OptionError
from creditdecoding.lm import load
from creditdecoding.models.transformer import rope_table, rotate
from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS
from creditdecoding.train.checkpoint import start_from_checkpoint
from creditdecoding.train.initial import OFFSETS, lookup_drill
from creditdecoding.train.loop import TrainingRun
from creditdecoding.train.objective import TrainingBatch, mask_block, mask_uniform, two_stream
from creditdecoding.train.options import TrainConfig
from creditdecoding.train.rows import LENGTH_MULTIPLE, draw_items, make_batches
from creditdecoding.train.tokenizer import task_tokenizer

pytestmark = pytest.mark.slow

MASK = 2
SMALL: dict[str, object] = {
    "hidden_size": 32,
    "num_heads": 2,
    "num_layers": 2,
    "intermediate_size": 64,
    "batch_size": 8,
    "drill_steps": 0,
    "compile": False,
    "save_every": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the task tokenizer in it."""
    path = tmp_path_factory.mktemp("tokenizer")
    task_tokenizer(list(SYNTHETIC_TASKS.values()), 1152, path)
    return path


def make_run(tokens: Path, out: Path, **options: object) -> TrainingRun:
    """A small run in `out` with the tokenizer of `tokens`."""
    out.mkdir(exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_text((tokens / name).read_text())
    families = list(SYNTHETIC_TASKS.values())
    return TrainingRun(
        TrainConfig(**{**SMALL, **options}), task_tokenizer(families, 1152, out), families, out
    )


def some_batch() -> TrainingBatch:
    """Sixty-four rows of 96 with prompts and answers of several lengths."""
    generator = torch.Generator().manual_seed(0)
    prompt, answer = (
        torch.randint(a, b, (64,), generator=generator) for a, b in ((5, 30), (20, 60))
    )
    return TrainingBatch(torch.randint(10, 50, (64, 96), generator=generator), prompt, answer)


def test_a_drill_can_be_looked_up() -> None:
    """Each answer token but the first of a piece follows, somewhere in the prompt, the token that
    stands before it.
    """
    batch = lookup_drill(50, range(6, 400), random.Random(0))
    found = total = 0
    for row, prompt, answer in zip(
        batch.tokens.tolist(), batch.prompt_lengths.tolist(), batch.answer_lengths.tolist()
    ):
        pairs = set(itertools.pairwise(row[:prompt]))
        answers = row[prompt : prompt + answer]
        assert set(answers) <= set(row[:prompt]) and row[prompt + answer :] == [6] * (
            len(row) - prompt - answer
        )
        found, total = (
            found + sum(pair in pairs for pair in itertools.pairwise(answers)),
            total + answer - 1,
        )
    assert 0.65 < found / total < 0.85


def test_induction_attends_to_the_token_before(folder: Path, tmp_path: Path) -> None:
    """At the start of a run, the first heads of layer 0 look one place back and the third looks
    two.
    """
    sizes = {"hidden_size": 192, "num_heads": 6, "num_layers": 2}
    model = make_run(folder, tmp_path / "laid", **sizes).model
    plain = make_run(folder, tmp_path / "plain", induction=False, **sizes).model
    tokens = torch.randint(6, 300, (4, 60), generator=torch.Generator().manual_seed(0))
    for network, sees in ((model, True), (plain, False)):
        layer = network.layers[0]
        h = layer.attn_norm(network.embed(tokens))
        cos, sin = rope_table(torch.arange(60), 32, network.config.rope_theta)
        q, k = (
            rotate(p(h).view(4, 60, 6, 32).transpose(1, 2), cos, sin) for p in (layer.q, layer.k)
        )
        weights = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1)
        for head, back in enumerate(OFFSETS):
            share = weights[:, head].diagonal(-back, 1, 2)[:, 3:].mean()
            assert (share > 0.4) == sees, (head, share)


@pytest.mark.parametrize("name", ["uniform", "blockwise", "ordered"])
def test_prompts_stay_and_targets_are_what_was_masked(name: str) -> None:
    batch, generator = some_batch(), torch.Generator().manual_seed(1)
    given = (
        mask_uniform(batch, MASK, generator)
        if name == "uniform"
        else mask_block(batch, MASK, generator, name == "ordered")
    )
    inside = torch.arange(96)[None] < batch.prompt_lengths[:, None]
    assert torch.equal(given.tokens[inside], batch.tokens[inside])
    assert (given.tokens[given.loss_positions] == MASK).all()
    assert torch.equal(given.target, batch.tokens[given.loss_positions])
    changed = given.tokens != batch.tokens
    assert (
        torch.equal(given.tokens[~changed], batch.tokens[~changed])
        and (given.tokens[changed] == MASK).all()
    )


def test_uniform_weights_are_the_inverse_ratio() -> None:
    """The weights of a row add up to its answer length on average, whatever the ratio."""
    batch = some_batch()
    sums = [
        float(mask_uniform(batch, MASK, torch.Generator().manual_seed(i)).weight.sum())
        for i in range(200)
    ]
    assert sum(sums) / 200 == pytest.approx(float((96 - batch.prompt_lengths).sum()), rel=0.02)


def test_blockwise_leaves_what_comes_before_and_hides_what_comes_after() -> None:
    batch = some_batch()
    given = mask_block(batch, MASK, torch.Generator().manual_seed(3), ordered=False)
    for row in range(64):
        masked = (given.tokens[row] == MASK).nonzero()[:, 0]
        columns = given.loss_positions[1][given.loss_positions[0] == row]
        if len(columns):
            assert int(masked.min()) >= int(batch.prompt_lengths[row])
            assert int(columns.max()) - int(columns.min()) < 64
            assert (given.tokens[row, int(columns.min()) + 64 :] == MASK).all()


def test_two_stream_sees_no_future() -> None:
    """A noisy query sees the prompt, clean blocks before its own, and its own noisy block; never
    its own clean copy.
    """
    batch = some_batch()
    for block in (1, 4):
        given = two_stream(batch, MASK, block, 40, torch.Generator().manual_seed(4))
        assert given.attention_mask is not None and given.positions is not None
        for row, column in list(zip(*(x.tolist() for x in given.loss_positions)))[:200]:
            start = int(batch.prompt_lengths[row])
            mine = (int(given.positions[row, column]) - start) // block
            seen = given.attention_mask[row, column].nonzero()[:, 0].tolist()
            clean = [key for key in seen if key < 96]
            noisy = [int(given.positions[row, key]) for key in seen if key >= 96]
            assert clean == list(range(start + mine * block))
            assert all((place - start) // block == mine for place in noisy) and len(noisy) == min(
                block, 40 - mine * block
            )


def test_two_stream_next_token_equals_a_prefix_followed_by_one_mask(
    folder: Path, tmp_path: Path
) -> None:
    """At block length 1 the loss position sees what a row [prefix, mask] sees, if the clean prefix
    is causal.
    """
    run = make_run(folder, tmp_path / "run")
    batch = some_batch()
    given = two_stream(batch, MASK, 1, 40, torch.Generator().manual_seed(5))
    with torch.no_grad():
        ours = run.model.logits(
            run.model.hidden_states(given.tokens, given.attention_mask, given.positions)[
                given.loss_positions
            ]
        )
        for n in (0, 100, 700):
            row, column = int(given.loss_positions[0][n]), int(given.loss_positions[1][n])
            place, prompt = int(given.positions[row, column]), int(batch.prompt_lengths[row])
            tokens = torch.cat((batch.tokens[row, :place], torch.tensor([MASK])))[None]
            order = torch.arange(place + 1)
            allowed = (
                (order[None] <= order[:, None])
                | ((order[None] < prompt) & (order[:, None] < prompt))
            )[None]
            assert torch.allclose(
                ours[n],
                run.model(tokens, (torch.tensor([0]), torch.tensor([place])), allowed)[0],
                atol=1e-4,
            )


def test_batches_hold_every_row_whole(folder: Path) -> None:
    tokenizer = task_tokenizer(list(SYNTHETIC_TASKS.values()), 1152, folder)
    items = draw_items(list(SYNTHETIC_TASKS.values()), 16, random.Random(0))
    assert {item.split for item in items} == {"train"} and len({item.task for item in items}) == 8
    found = make_batches(items, tokenizer, 5, 1, 2, random.Random(0))
    rows = []
    for batch in found:
        assert batch.tokens.shape[1] % LENGTH_MULTIPLE == 0
        for row, prompt, answer in zip(
            batch.tokens, batch.prompt_lengths.tolist(), batch.answer_lengths.tolist()
        ):
            assert int(row[prompt + answer - 1]) == 5 and (row[prompt + answer :] == 1).all()
            rows.append(tokenizer.decode(row[prompt : prompt + answer].tolist()))
    assert sorted(rows) == sorted(item.answer for item in items)


def test_resuming_gives_the_weights_of_an_undisturbed_run(folder: Path, tmp_path: Path) -> None:
    whole = make_run(folder, tmp_path / "whole", steps=6)
    list(whole.run())
    first = make_run(folder, tmp_path / "parts", steps=6)
    for record in first.run():
        if record["step"] == 4:  # killed after step 5: the state of step 4 was saved
            break
    second = make_run(folder, tmp_path / "parts", steps=6)
    assert second.step == 4
    list(second.run())
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    steps = [record["step"] for record in second.records()]
    assert steps == list(range(6)) and whole.tokens == second.tokens


def test_learns_and_exports_a_checkpoint_that_loads(folder: Path, tmp_path: Path) -> None:
    run = make_run(folder, tmp_path / "run", steps=60, next_token_until=1.0, lr=0.03)
    records = list(run.run(lambda path: {"score": 1.0, "path": str(path)}))
    losses = [record["next_token"] for record in records]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert records[-1]["eval"]["path"] == str(run.folder)
    lm = load(str(run.folder))
    assert lm.max_turns == 1 and lm.vocab.mask_id == MASK
    assert isinstance(lm.generate("What is 2+2?", gen_length=8).text, str)
    raw = json.loads((run.folder / "config.json").read_text())
    assert raw["architectures"] == ["LLaDAModelLM"] and raw["model_type"] == "llada"


def test_a_run_can_start_from_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    first = make_run(folder, tmp_path / "first", steps=2)
    list(first.run())
    (tmp_path / "second").mkdir()
    start_from_checkpoint(str(first.folder), tmp_path / "second")
    second = make_run(folder, tmp_path / "second", steps=2)
    assert second.step == 0
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight.bfloat16().float(), second.model.state_dict()[name]), name
    list(second.run())
    start_from_checkpoint(str(first.folder), tmp_path / "second")  # the same command again goes on
    with pytest.raises(OptionError, match="begun already"):
        start_from_checkpoint(str(second.folder), tmp_path / "second")


def test_another_shape_in_the_same_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    list(make_run(folder, tmp_path / "run", steps=2).run())
    with pytest.raises(OptionError, match="hidden_size"):
        make_run(folder, tmp_path / "run", steps=2, hidden_size=64)
