"""WINO: the rule by hand, shadows against a plain dense-mask forward, and the loop around a rule
that takes tokens back.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from creditdecoding.config import GenerationConfig
from creditdecoding.decoders import create
from creditdecoding.decoders.base import (
    Block,
    Capabilities,
    Decision,
    Prediction,
    State,
    from_logits,
)
from creditdecoding.decoding.loop import denoise
from creditdecoding.decoding.request import Request, new_infill_request, new_request
from creditdecoding.decoding.step import denoise_step
from creditdecoding.errors import OptionError
from creditdecoding.eval.compare import compare
from creditdecoding.eval.traces.commit_timing import check_trace
from creditdecoding.eval.traces.dataset import decoders_to_trace
from creditdecoding.likelihood import rescore
from creditdecoding.lm import LM, load
from creditdecoding.models.transformer import Transformer, rope_table, rotate
from creditdecoding.trace import FinishEvent, StepEvent, Trace, total
from creditdecoding.viewer.frames import frames
from creditdecoding.viewer.terminal import print_trace
from tests.helpers.tiny_networks import (
    CPU,
    MASK,
    PROMPTS,
    STOPS,
    WORDS,
    network,
    rows_of,
    same,
    traces,
)

QUESTION = "Solve 3x+4=19 for x."


# The rule
# ----------------------------------------------------------------------------------------------------------------------


def decide(
    chances: Sequence[float], unseen: Sequence[float], accepted: int, **knobs: Any
) -> tuple[list[int], list[int], int]:
    """One step over one row: columns committed, columns revoked, and how many were committed.
    `chances`: 0 where a token stands.
    """
    masked = torch.tensor([chances]) > 0
    rest = torch.tensor([[(1 - c) / 9 for c in chances]])[..., None].expand(1, len(chances), 10)
    logits = (
        rest.clone()
        .index_copy(2, torch.tensor([3]), torch.tensor([chances])[..., None])
        .clamp(min=1e-9)
        .log()
    )
    seen = dataclasses.replace(
        from_logits(logits, masked), leave_one_out_probs=torch.tensor([unseen])
    )
    zero = torch.zeros(1, dtype=torch.long)
    block = Block(torch.full(masked.shape, 3), masked, masked, zero + len(chances), zero)
    decision, state = create("wino", **knobs).step(
        seen, block, {"committed": torch.tensor([accepted])}
    )
    assert decision.remask is not None
    return *(x[0].nonzero()[:, 0].tolist() for x in (decision.commit, decision.remask)), int(
        state["committed"]
    )  # type: ignore[return-value]


def test_by_hand() -> None:
    """Draft: c > 0.6. Verify: what stands and has < 0.9 without itself goes, if more than one token
    was drafted.
    """
    one = [1.0] * 8
    assert decide([0.9, 0.7, 0.65, 0.61, 0.5, 0.4, 0.3, 0.2], one, 0) == ([0, 1, 2, 3], [], 4)
    # those four stand; two of the others pass: the three below 0.9 go (fewer than the four of the
    # step before)
    assert decide([0, 0, 0, 0, 0.7, 0.8, 0.3, 0.2], [0.95, 0.89, 0.3, 0.5, 1, 1, 1, 1], 4) == (
        [4, 5],
        [1, 2, 3],
        2,
    )
    # had the step before drafted three, only two could go: the least likely
    assert decide([0, 0, 0, 0, 0.7, 0.8, 0.3, 0.2], [0.95, 0.89, 0.3, 0.5, 1, 1, 1, 1], 3) == (
        [4, 5],
        [2, 3],
        2,
    )
    # a step that drafts one token, or has to force one, takes none back
    assert decide([0, 0, 0, 0, 0.7, 0.5, 0.3, 0.2], [0.1] * 8, 4) == ([4], [], 1)
    assert decide([0, 0, 0, 0, 0.5, 0.4, 0.3, 0.2], [0.1] * 8, 4) == ([4], [], 1)
    # after a step that drafted one, none can go: fewer than one
    assert decide([0, 0, 0, 0, 0.7, 0.8, 0.3, 0.2], [0.1] * 8, 1) == ([4, 5], [], 2)
    # both bars are strict
    assert decide([0.5, 0.75, 0.5, 0], [1, 1, 1, 0.5], 9, threshold=0.75, threshold_back=0.5) == (
        [1],
        [],
        1,
    )


@pytest.mark.parametrize(
    "masks, most", [(40, 20), (30, 20), (28, 19), (12, 8), (10, 7), (7, 5), (5, 5), (3, 3), (1, 1)]
)
def test_a_draft_is_capped(masks: int, most: int) -> None:
    """min(max(0.7 * masks left, 5), 20), the most confident first."""
    commit, _, accepted = decide([0.99 - 0.005 * i for i in range(masks)][::-1], [1.0] * masks, 0)
    assert accepted == most and commit == list(range(masks - most, masks))


def test_a_rule_without_shadows_to_look_at_drafts_alone() -> None:
    """An engine that gives no leave-one-out probabilities: nothing is taken back."""
    seen = from_logits(
        torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0)),
        torch.ones(2, 6, dtype=torch.bool),
    )
    assert torch.equal(seen.leave_one_out, torch.ones(2, 6))
    zero = torch.zeros(2, dtype=torch.long)
    rule = create("wino", threshold=0.1)
    decision, _ = rule.step(
        seen, Block(seen.ids, seen.masked, seen.masked, zero + 6, zero), rule.init(2, 6, 9, CPU)
    )
    assert (
        decision.remask is not None
        and not bool(decision.remask.any())
        and bool(decision.commit.any(-1).all())
    )


# Shadows
# -----------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Probe:
    """Writes the first mask, whatever the model finds likeliest, and keeps what its shadows say."""

    capabilities = Capabilities(leave_one_out=True)
    probabilities: list[Tensor] = dataclasses.field(default_factory=list, compare=False)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        return {}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        self.probabilities.append(prediction.leave_one_out)
        first = torch.zeros_like(block.masked).scatter(
            1, block.masked.to(torch.uint8).argmax(-1, keepdim=True), True
        )
        return Decision(prediction.ids, first & block.editable, prediction.probability), state


def dense(model: Transformer, tokens: Tensor, places: Tensor, allowed: Tensor) -> Tensor:
    """Logits at every column of one sequence with positions and a mask [columns, columns] of who
    sees whom, written out.
    """
    x = model.embed(tokens[None])
    cos, sin = rope_table(places, 8, model.config.rope_theta)
    for layer in model.layers:
        assert isinstance(layer.attn_norm, torch.nn.Module)
        h = layer.attn_norm(x)
        q, k, v = (
            p(h).view(1, len(tokens), -1, 8).transpose(1, 2) for p in (layer.q, layer.k, layer.v)
        )  # type: ignore[operator]
        if layer.q_norm is not None:
            q, k = layer.q_norm(q), layer.k_norm(k)  # type: ignore[operator]
        q, k = (
            rotate(q, cos, sin),
            rotate(k, cos, sin).repeat_interleave(q.shape[1] // k.shape[1], 1),
        )
        scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~allowed, -torch.inf)
        mixed = scores.softmax(-1) @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)
        x = x + layer.o(mixed.transpose(1, 2).reshape(1, len(tokens), -1))  # type: ignore[operator]
        x = x + layer.mlp(layer.ff_norm(x))  # type: ignore[operator]
    return model.logits(x[0])


def left_out(model: Transformer, row: Request) -> Tensor:
    """Probability of each written token of the row's block at its shadow, 1 elsewhere: token by
    token from the definition.
    """
    (start, end), length, grid = row.block, row.block_position.length, row.geometry.causal_block
    text, of = list(range(length)), [p for p in range(start, end) if not row.read_only[p]]
    places = text + [max(p - row.geometry.logit_shift, 0) for p in of]
    tokens = row.canvas[:length].tolist() + [
        MASK if position == p else int(row.canvas[position])
        for p, position in zip(of, places[length:])
    ]
    allowed = torch.zeros(len(places), len(places), dtype=torch.bool)
    for query, position in enumerate(places):
        for key, where in enumerate(places):
            if query < length:
                sees = key < length
            elif key < length:
                sees = where not in (of[query - length], position)
            else:
                sees = query == key or not row.geometry.logit_shift
            allowed[query, key] = sees and (grid is None or position // grid >= where // grid)
    logits = dense(model, torch.tensor(tokens), torch.tensor(places), allowed)[length:]
    logits[:, [MASK, *(() if row.may_stop_early else STOPS)]], logits[:, WORDS.size :] = (
        -torch.inf,
        -torch.inf,
    )
    chance, probabilities = logits.softmax(-1), torch.ones(end - start)
    for i, p in enumerate(of):
        if not row.masked[p]:
            probabilities[p - start] = chance[i, int(row.canvas[p])]
    return probabilities


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["full", "shifted", "blocks", "shifted blocks"])
def test_shadows_are_a_dense_masked_forward(kind: str) -> None:
    """Beside a row without shadows, in blocks that begin with given tokens and in a text with gaps."""
    model, probe = network(kind), Probe()
    if kind.startswith(
        "shifted"
    ):  # weigh the text more than the place, so that hiding a token tells
        model.head.weight.mul_(0.5)  # type: ignore[union-attr]
    config = GenerationConfig(
        decoder=probe,
        gen_length=13,
        block_length=8 if "blocks" in kind else 6,
        early_stop=False,
        cache="none",
    )
    rows = [new_request(0, PROMPTS[0], config, WORDS, 99, model.geometry)]
    rows += [
        new_infill_request(
            1, [MASK, 5, MASK, MASK, 7, 8, 9, MASK, 3, MASK], config, WORDS, 99, model.geometry
        )
    ]
    other = new_request(
        2, PROMPTS[2], dataclasses.replace(config, decoder="fixed"), WORDS, 99, model.geometry
    )
    for _ in range(5):
        left_out_values = [left_out(model, row) for row in rows]
        (*rows, other), _ = denoise_step(model, [*rows, other], WORDS, CPU)
        for ours, expected in zip(probe.probabilities[-1], left_out_values):
            assert torch.allclose(ours[: len(expected)], expected, atol=1e-5), (ours, expected)
    assert any(float(x.min()) < 0.9 for x in left_out_values), "the shadows had something to say"


@torch.inference_mode()
def test_alone_in_its_block_and_below_one_layer_a_shadow_is_the_masked_text() -> None:
    """What leave-one-out equals, and no further: with more layers the rest of the text has seen the
    token.
    """
    for layers, equal in ((1, True), (3, False)):
        model, probe = network("full"), Probe()
        model.layers = model.layers[:layers]
        row = new_infill_request(
            0,
            [4, 1, MASK, 7, 2],
            GenerationConfig(decoder=probe, cache="none"),
            WORDS,
            99,
            model.geometry,
        )
        plain = model(row.canvas[None], (torch.tensor([0]), torch.tensor([2])))
        plain[:, [MASK, *STOPS]], plain[:, WORDS.size :] = -torch.inf, -torch.inf
        written = dataclasses.replace(
            row, canvas=torch.tensor([4, 1, 6, 7, 2]), masked=torch.zeros(5, dtype=torch.bool)
        )
        denoise_step(model, [written, rows_of(model, decoder="fixed")[0]], WORDS, CPU)
        assert (
            float(probe.probabilities[-1][0, 0])
            == pytest.approx(float(plain.softmax(-1)[0, 6]), abs=1e-6)
        ) == equal


# The loop
# ----------------------------------------------------------------------------------------------------------------------

MIXED = ["wino", "threshold:threshold=0.6", "wino:threshold=0.2,threshold_back=1", "credit", "edit"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "shifted", "blocks"])
def test_mixed_rows_get_in_a_batch_what_they_get_alone(kind: str) -> None:
    """Rules with and without shadows, guided or not, prompts and caches of every kind, at any batch
    size.
    """
    model = network(kind)
    caches = (
        ["block", "none"]
        if kind == "blocks"
        else ["none", "prefix", "dual", "every:n=2", "vicinity:w=3"]
    )
    rows = []
    for i, prompt in enumerate(PROMPTS):
        config = GenerationConfig(
            decoder=MIXED[i],
            gen_length=11 + i,
            block_length=4 if kind == "blocks" else 4 + i,
            cache=caches[-i % len(caches)],
        )
        rows.append(
            new_request(
                i,
                prompt,
                dataclasses.replace(config, cfg_scale=0.5 * (i % 3)),
                WORDS,
                256,
                model.geometry,
            )
        )
    for size in (5, 2):
        for row, ours in zip(rows, traces(model, rows, size)):
            (alone,) = traces(model, [row])
            same(ours, alone, 1e-3)
            assert [step.revoked for step in ours.steps] == [step.revoked for step in alone.steps]


def test_shadows_are_counted_and_passes_bounded() -> None:
    """Even if everything is doubtful at every pass: at most as many passes as masks. A pass
    computes the text and a block of shadows.
    """
    model = network("full")
    for back in (0.0, 0.9, 1.0):
        for trace in traces(
            model,
            rows_of(
                model,
                decoder=f"wino:threshold=0,threshold_back={back}",
                block_length=11,
                cfg_scale=0.5,
            ),
        ):
            assert trace.nfe <= 22 and sorted(trace.written) == list(
                range(len(trace.prompt), len(trace.prompt) + 22)
            )
            assert all(step.computed == len(trace.prompt) + 22 + 11 for step in trace.steps)
            assert total([trace]).computed == 2 * trace.nfe * (len(trace.prompt) + 33)
            revoked = [len(step.revoked) for step in trace.steps]
            accepted = [sum(step.committed) for step in trace.steps]
            assert all(r < max(a, 1) for r, a in zip(revoked[1:], accepted) if r) and (
                back == 0.0
            ) == (sum(revoked) == 0)


def test_what_was_revoked_is_masked_again_and_the_trace_says_so(tmp_path: Path) -> None:
    model = network("full")
    (row,) = rows_of(
        model, [PROMPTS[0]], decoder="wino:threshold=0,threshold_back=1", block_length=22
    )
    seen, state = Trace(tuple(PROMPTS[0])), {}
    for event in denoise(model, [row], WORDS, CPU):
        seen.add(event)
        if isinstance(event, StepEvent):
            assert set(event.revoked) <= state.keys() and not set(event.positions) & state.keys()
            assert (
                event.top is not None and set(event.positions) == set(range(3, 25)) - state.keys()
            )
            state = event.apply_to(state)
    assert seen.finish is not None and tuple(state[p] for p in range(3, 25)) == tuple(
        seen.written[p] for p in range(3, 25)
    )
    assert sum(len(step.revoked) for step in seen.steps) > 0 and MASK not in seen.written.values()
    assert sum(map(sum, (step.committed for step in seen.steps))) == 22 + sum(
        len(step.revoked) for step in seen.steps
    )
    seen.save(tmp_path / "t.jsonl")
    assert Trace.load(tmp_path / "t.jsonl").steps == seen.steps
    first = next(i for i, step in enumerate(seen.steps) if step.revoked)
    frame = frames(seen, str)[first]
    assert {cell.position + 3 for cell in frame.revoked} == set(seen.steps[first].revoked) and all(
        cell.token is not None for cell in frame.revoked
    )
    for cell in frame.cells:
        assert cell.position + 3 not in seen.steps[first].revoked or (
            cell.state,
            cell.token,
            cell.commit,
        ) == ("masked", None, None)
    assert frames(seen, str)[-1].written == len(seen.tokens)
    out = io.StringIO()
    print_trace(seen, str, Console(file=out, width=200))
    assert "back: " in out.getvalue()


@dataclasses.dataclass(frozen=True)
class Waver:
    """Writes the end token everywhere, takes it all back, writes letters."""

    capabilities = Capabilities(can_remask=True)

    def init(self, rows: int, length: int, vocab: int, device: torch.device) -> State:
        return {"step": torch.zeros(rows, dtype=torch.long)}

    def step(self, prediction: Prediction, block: Block, state: State) -> tuple[Decision, State]:
        turn = state["step"][:, None]
        last = block.masked.cumsum(-1) == block.masked.sum(
            -1, keepdim=True
        )  # one mask stays, so that the block goes on
        commit = block.masked & ((turn > 1) | ~last)
        tokens = torch.where(turn == 0, STOPS[0], 5).expand(commit.shape)
        back = ~block.masked & (turn == 1)
        return Decision(tokens, commit & (turn != 1), prediction.probability, remask=back), {
            "step": state["step"] + 1
        }


class Flat:
    """Any token, equally likely."""

    def __call__(
        self, tokens: Tensor, read: tuple[Tensor, Tensor], allowed: Tensor | None = None
    ) -> Tensor:
        return torch.zeros(len(read[0]), WORDS.size)


def test_text_that_may_be_taken_back_ends_nothing() -> None:
    """Neither an end token nor a stop string counts before its block is finished; given tokens and
    masks cannot be taken back.
    """
    for config in (
        GenerationConfig(decoder=Waver(), gen_length=8, block_length=4),
        GenerationConfig(decoder=Waver(), gen_length=8, block_length=8),
    ):
        *steps, finish = list(
            denoise(Flat(), [new_request(0, [1, 2], config, WORDS, 99)], WORDS, CPU)
        )
        assert (
            isinstance(finish, FinishEvent)
            and finish.tokens == (5,) * 8
            and finish.reason == "length"
        )
        assert len(steps) == 3 * (8 // (config.block_length or 8))
    stop = GenerationConfig(decoder=Waver(), gen_length=4, block_length=4, stop=(str(STOPS[0]),))
    assert (
        list(denoise(Flat(), [new_request(0, [1, 2], stop, WORDS, 99)], WORDS, CPU))[-1].reason
        == "length"
    )  # type: ignore[union-attr]
    gaps = new_infill_request(
        0, [MASK, 9, MASK, MASK], GenerationConfig(decoder=Waver()), WORDS, 99
    )
    *steps, finish = list(denoise(Flat(), [gaps], WORDS, CPU))
    assert isinstance(finish, FinishEvent) and finish.tokens == (5, 9, 5, 5)
    assert [step.revoked for step in steps if isinstance(step, StepEvent)] == [(), (0, 2), ()]


@pytest.fixture(scope="module")
def lm() -> Iterator[LM]:
    yield load("pocket")


@pytest.mark.slow
def test_streams_only_what_stays(lm: LM) -> None:
    options: dict[str, Any] = {
        "decoder": "wino:threshold=0.05,threshold_back=1",
        "block_length": 16,
    }
    done, pieces = lm.generate(QUESTION, **options), list(lm.stream(QUESTION, **options))
    assert "".join(pieces) == done.text and any(step.revoked for step in done.trace.steps)


def test_what_cannot_be_done_is_refused_by_name(lm: LM) -> None:
    with pytest.raises(OptionError, match=r"leave-one-out.*wino"):
        new_request(0, [1], GenerationConfig(decoder="wino", gen_length=4), WORDS, 99)
    external = LM(Flat(), lm.tokenizer, max_length=99, device=CPU)
    with pytest.raises(OptionError, match=r"leave-one-out.*wino"):
        compare(external, "threshold wino", "facts", limit=2, dev_limit=2)
    silent = dataclasses.make_dataclass(
        "Silent", [], bases=(Waver,), namespace={"capabilities": Capabilities()}, frozen=True
    )()
    with pytest.raises(OptionError, match=r"remasks tokens.*Silent.*can_remask=True"):
        list(
            denoise(
                Flat(),
                [new_request(0, [1], GenerationConfig(decoder=silent, gen_length=4), WORDS, 99)],
                WORDS,
                CPU,
            )
        )
    with pytest.raises(OptionError, match="remasks tokens"):
        decoders_to_trace(["wino"], GenerationConfig())
    trace = lm.generate(QUESTION, decoder="wino:threshold=0.05,threshold_back=1").trace
    assert any(step.revoked for step in trace.steps)
    for refuse in (lambda: rescore(lm, trace), lambda: check_trace(trace, "wino")):
        with pytest.raises(OptionError, match="remasks tokens"):
            refuse()
