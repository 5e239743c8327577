"""The laws of a decoder, over random cases, for every file of `creditdecoding/decoders`: a new
decoder is held to them unasked.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from creditdecoding.decoders import create, decoder_class, names
from creditdecoding.decoders.base import (
    Block,
    Decision,
    Decoder,
    Prediction,
    Sampling,
    State,
    capabilities_of,
    from_logits,
    stack_states,
    take_rows,
)

CPU = torch.device("cpu")
BANNED = 0
FEW = settings(max_examples=8, deadline=None, database=None)
every_decoder = pytest.mark.parametrize("name", names(controls=True))


@dataclass(frozen=True)
class Case:
    """Rows to decode: logits [steps, rows, length, vocab] with id 0 forbidden, what is masked at
    first, and how tokens are drawn.

    `unseen` [steps, rows, length] is what shadows say of a written token.
    """

    logits: Tensor
    unseen: Tensor
    masked: Tensor
    seeds: Tensor
    options: dict[str, Any]

    def step(
        self, t: int, masked: Tensor, rows: slice, editable: Tensor | None = None
    ) -> tuple[Prediction, Block]:
        """What a decoder sees of some rows at step `t`."""
        length, count = masked.shape[1], len(masked)
        sampling = Sampling(
            self.seeds[rows],
            torch.arange(length).expand(count, -1) + 7,
            torch.full((count,), t),
            **self.options,
        )
        size = self.masked[rows].sum(-1)
        tokens = torch.zeros(masked.shape, dtype=torch.long)
        unseen = torch.where(self.masked[rows] & ~masked, self.unseen[t, rows], 1.0)
        seen = dataclasses.replace(
            from_logits(self.logits[t, rows].clone(), masked, sampling), leave_one_out_probs=unseen
        )
        return seen, Block(
            tokens, masked, masked if editable is None else editable, size, torch.full((count,), t)
        )


@st.composite
def cases(draw: st.DrawFn, rows: st.SearchStrategy[int] | None = None) -> Case:
    count = draw(rows if rows is not None else st.integers(1, 4))
    length, vocab, seed = (
        draw(st.integers(1, 8)),
        draw(st.integers(4, 10)),
        draw(st.integers(0, 2**31)),
    )
    noise = torch.Generator().manual_seed(seed)
    logits = torch.randn(length, count, length, vocab, generator=noise) * draw(
        st.sampled_from((0.1, 1.0, 4.0, 12.0))
    )
    logits[..., BANNED] = -torch.inf
    masked = torch.rand(count, length, generator=noise) < draw(st.sampled_from((0.5, 1.0)))
    options = draw(
        st.sampled_from(
            (
                {},
                {"temperature": 0.7},
                {"temperature": 1.5, "top_k": 2},
                {"temperature": 1.0, "top_p": 0.6},
            )
        )
    )
    unseen = torch.rand(length, count, length, generator=noise) ** draw(
        st.sampled_from((0.02, 1.0, 50.0))
    )  # borne out, mixed, doubtful
    return Case(logits, unseen, masked, torch.randint(0, 2**40, (count,), generator=noise), options)


def knobs(name: str) -> list[dict[str, Any]]:
    """Settings to try: the defaults, and every threshold or count at some extreme."""
    found: list[dict[str, Any]] = [{}]
    for field in dataclasses.fields(decoder_class(name)):
        meta = field.metadata
        if meta.get("choices"):
            found += [{field.name: choice} for choice in meta["choices"]]
        elif meta.get("ge") is not None and meta.get("le") is not None:
            found += [
                {field.name: type(field.default)(meta["ge"])},
                {field.name: type(field.default)(meta["le"])},
            ]
        elif isinstance(field.default, int) and not isinstance(field.default, bool):
            found += [{field.name: field.default + 1}]
    return found


def play(decoder: Decoder, case: Case, rows: slice) -> list[tuple[Decision, Tensor, State]]:
    """Decode some rows of a case together: decisions, what was masked at each, and the state after
    it.
    """
    masked = case.masked[rows].clone()
    state = decoder.init(*masked.shape, case.logits.shape[-1], CPU)
    found = []
    for t in range(len(case.logits)):
        seen, block = case.step(t, masked, rows)
        decision, state = decoder.step(seen, block, state)
        found.append((decision, masked, state))
        masked = left(masked, decision)
    return found


def left(masked: Tensor, decision: Decision) -> Tensor:
    """What is masked after a decision."""
    return (
        masked & ~decision.commit
        if decision.remask is None
        else masked & ~decision.commit | decision.remask
    )


def same(ours: Decision, theirs: Decision, masked: Tensor) -> None:
    """Equal decisions at masked positions; numbers to float tolerance."""
    assert torch.equal(ours.commit, theirs.commit)
    assert (ours.remask is None) == (theirs.remask is None)
    assert ours.remask is None or theirs.remask is None or torch.equal(ours.remask, theirs.remask)
    assert torch.equal(ours.tokens[masked], theirs.tokens[masked])
    assert torch.allclose(ours.confidence[masked], theirs.confidence[masked], rtol=1e-4, atol=1e-6)
    assert (ours.credit is None) == (theirs.credit is None)
    if ours.credit is not None and theirs.credit is not None:
        assert torch.allclose(ours.credit[masked], theirs.credit[masked], rtol=1e-4, atol=1e-6)


def parts(value: Any) -> list[Tensor]:
    """Every tensor of a state or of a (nested) dataclass."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in parts(v)]
    if dataclasses.is_dataclass(value):
        return [t for field in dataclasses.fields(value) for t in parts(getattr(value, field.name))]
    return []


@every_decoder
@FEW
@given(data=st.data(), case=cases())
def test_commits_lie_in_editable_and_no_row_stalls(
    name: str, data: st.DataObject, case: Case
) -> None:
    """Also when only some masks may be written; a row without a mask is left alone; shapes and
    types are as declared.
    """
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    masked = case.masked
    editable = masked & (
        torch.rand(
            masked.shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 999)))
        )
        < 0.5
    )
    editable = torch.where(editable.any(-1, keepdim=True), editable, masked)
    state = decoder.init(*masked.shape, case.logits.shape[-1], CPU)
    for t in range(2):
        decision, state = decoder.step(
            *case.step(min(t, len(case.logits) - 1), masked, slice(None), editable), state
        )
        assert (
            decision.tokens.shape
            == decision.commit.shape
            == decision.confidence.shape
            == masked.shape
        )
        assert (
            decision.tokens.dtype == torch.long
            and decision.commit.dtype == torch.bool
            and decision.confidence.dtype == torch.float32
        )
        assert not bool((decision.commit & ~editable).any())
        assert torch.equal(decision.commit.any(-1), masked.any(-1))
        assert not bool(decision.confidence[masked].isnan().any())
        assert all(len(tensor) == len(masked) for tensor in state.values())


@pytest.mark.parametrize(
    "name", [name for name in names() if capabilities_of(create(name)).looks_ahead]
)
@FEW
@given(data=st.data(), case=cases())
def test_a_rule_that_looks_ahead_never_leaves_the_current_block_waiting(
    name: str, data: st.DataObject, case: Case
) -> None:
    """Whatever it writes behind, each row writes in the current block, in which there is a mask."""
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    masked = case.masked.clone()
    masked[:, 0] = True
    seen, block = case.step(0, masked, slice(None))
    behind = (torch.arange(masked.shape[1]) >= data.draw(st.integers(1, masked.shape[1]))).expand(
        masked.shape
    )
    decision, _ = decoder.step(
        seen,
        dataclasses.replace(block, next_block=behind),
        decoder.init(*masked.shape, case.logits.shape[-1], CPU),
    )
    assert bool((decision.commit & ~behind).any(-1).all()) and not bool(
        (decision.commit & ~masked).any()
    )


@every_decoder
@FEW
@given(data=st.data(), case=cases())
def test_a_forbidden_id_is_never_written_and_every_row_ends(
    name: str, data: st.DataObject, case: Case
) -> None:
    """Within `length` steps nothing is masked, whatever was revoked, and id 0 stands nowhere, at
    any temperature.
    """
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    played = play(decoder, case, slice(None))
    for decision, masked, _ in played:
        written = decision.tokens[decision.commit & masked]
        assert not bool((written == BANNED).any())
        assert bool(((written >= 0) & (written < case.logits.shape[-1])).all())
    last, masked, _ = played[-1]
    assert not bool(left(masked, last).any())


@pytest.mark.slow
@every_decoder
@FEW
@given(data=st.data(), case=cases())
def test_only_what_was_written_in_the_block_is_revoked_and_only_by_rules_that_say_so(
    name: str, data: st.DataObject, case: Case
) -> None:
    """Never a given token, a mask, or what the very step writes; a step without masks revokes
    nothing; a row that has ended stays.
    """
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    for decision, masked, _ in play(decoder, case, slice(None)):
        if decision.remask is not None:
            assert capabilities_of(decoder).can_remask
            assert decision.remask.dtype == torch.bool and decision.remask.shape == masked.shape
            assert not bool((decision.remask & (masked | ~case.masked | decision.commit)).any())
            assert not bool((decision.remask.any(-1) & ~masked.any(-1)).any())


@every_decoder
@FEW
@given(data=st.data(), case=cases())
def test_nothing_is_mutated(name: str, data: st.DataObject, case: Case) -> None:
    """Prediction, block and state keep every value, and the same step taken again decides the same."""
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    before = dataclasses.asdict(decoder)  # type: ignore[call-overload]
    masked = case.masked
    state = decoder.init(*masked.shape, case.logits.shape[-1], CPU)
    for t in range(len(case.logits)):
        seen, block = case.step(t, masked, slice(None))
        inputs = [*parts(seen), *parts(block), *parts(state)]
        kept = copy.deepcopy(inputs)
        decision, after = decoder.step(seen, block, state)
        assert all(torch.equal(x, y) for x, y in zip(inputs, kept))
        again, _ = decoder.step(seen, block, state)
        assert all(torch.equal(x, y) for x, y in zip(parts(decision), parts(again)))
        state, masked = after, left(masked, decision)
    assert dataclasses.asdict(decoder) == before  # type: ignore[call-overload]


@pytest.mark.slow
@every_decoder
@FEW
@given(data=st.data(), case=cases(st.integers(2, 3)))
def test_a_row_does_not_depend_on_its_neighbours(
    name: str, data: st.DataObject, case: Case
) -> None:
    """Rows decoded together, and alone: the same decisions at every step."""
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    together = play(decoder, case, slice(None))
    for row in range(len(case.masked)):
        for (ours, masked, _), (alone, _, _) in zip(
            together, play(decoder, case, slice(row, row + 1))
        ):
            same(
                Decision(
                    *(None if x is None else x[row : row + 1] for x in dataclasses.astuple(ours))
                ),
                alone,
                masked[row : row + 1],
            )  # type: ignore[arg-type]


@pytest.mark.slow
@every_decoder
@FEW
@given(data=st.data(), case=cases(st.integers(2, 3)))
def test_states_can_be_gathered_and_scattered(name: str, data: st.DataObject, case: Case) -> None:
    """States of rows that grew alone, stacked for each step and taken apart again, in any order:
    what each row gets alone.
    """
    decoder = create(name, **data.draw(st.sampled_from(knobs(name))))
    count, vocab = len(case.masked), case.logits.shape[-1]
    alone = [play(decoder, case, slice(row, row + 1)) for row in range(count)]
    states = [decoder.init(1, case.masked.shape[1], vocab, CPU) for _ in range(count)]
    masked = case.masked.clone()
    for t in range(len(case.logits)):
        order = data.draw(st.permutations(range(count)))
        pick = torch.tensor(order)
        shuffled = dataclasses.replace(
            case,
            logits=case.logits[:, pick],
            unseen=case.unseen[:, pick],
            masked=case.masked[pick],
            seeds=case.seeds[pick],
        )
        seen, block = shuffled.step(t, masked[pick], slice(None))
        decision, after = decoder.step(seen, block, stack_states([states[row] for row in order]))
        for slot, row in enumerate(order):
            states[row] = take_rows(after, slice(slot, slot + 1))
            ours = Decision(
                *(None if x is None else x[slot : slot + 1] for x in dataclasses.astuple(decision))
            )  # type: ignore[arg-type]
            same(ours, alone[row][t][0], masked[row : row + 1])
            masked[row] = left(masked[row], ours)[0]


@every_decoder
def test_slots_of_a_neighbour_do_not_show(name: str) -> None:
    """A row with many favourites beside one with a single one: the state widens for both, the
    second row's numbers stay.
    """
    decoder, length, vocab, steps = create(name), 2, 16, 12
    logits = torch.zeros(steps, 2, length, vocab)
    for t in range(steps):
        logits[t, 0, :, 1 + t], logits[t, 1, :, 3] = 2.0, 2.0
    logits[..., BANNED] = -torch.inf
    masked, size = torch.ones(2, length, dtype=torch.bool), torch.tensor([length + 1] * 2)

    def steps_of(rows: slice) -> list[Decision]:
        state, found = decoder.init(len(masked[rows]), length, vocab, CPU), []
        for t in range(steps):
            block = Block(
                torch.zeros(masked[rows].shape, dtype=torch.long),
                masked[rows],
                masked[rows],
                size[rows],
                torch.full((len(masked[rows]),), t),
            )
            decision, state = decoder.step(from_logits(logits[t, rows], masked[rows]), block, state)
            found.append(decision)
        return found

    for both, alone in zip(steps_of(slice(None)), steps_of(slice(1, 2))):
        same(
            Decision(*(None if x is None else x[1:] for x in dataclasses.astuple(both))),
            alone,
            masked[1:],
        )  # type: ignore[arg-type]


def test_stacking_pads_every_axis_but_the_row() -> None:
    one = {"a": torch.ones(1, 2, 3), "b": torch.ones(1)}
    two = {"a": torch.full((2, 4, 1), 2.0), "b": torch.zeros(2)}
    stacked = stack_states([one, two])
    assert stacked["a"].shape == (3, 4, 3) and stacked["b"].tolist() == [1.0, 0.0, 0.0]
    assert float(stacked["a"].sum()) == 6.0 + 16.0
    assert torch.equal(stacked["a"][0, :2], torch.ones(2, 3)) and torch.equal(
        stacked["a"][1:, :, :1], two["a"]
    )
    assert stack_states([]) == {} and stack_states([{}, {}]) == {}


@pytest.mark.parametrize("k", (1, 2, 3, 9))
@pytest.mark.parametrize("order", ("low_confidence", "random"))
def test_fixed_commits_exactly_k(k: int, order: str) -> None:
    """`fixed`: k a step, the rest at the last; the most confident ones, or random ones that the
    seed decides.
    """
    logits = torch.randn(2, 7, 9, generator=torch.Generator().manual_seed(1)) * 3
    masked = torch.ones(2, 7, dtype=torch.bool)
    masked[1, :2] = False
    seen = from_logits(logits, masked)
    block = Block(
        torch.zeros(2, 7, dtype=torch.long),
        masked,
        masked,
        masked.sum(-1),
        torch.zeros(2, dtype=torch.long),
    )
    decision, _ = create("fixed", k=k, order=order).step(seen, block, {})
    assert decision.commit.sum(-1).tolist() == [min(k, 7), min(k, 5)]
    if order == "low_confidence":
        for row in range(2):
            scores = decision.confidence[row]
            taken, left = scores[decision.commit[row]], scores[masked[row] & ~decision.commit[row]]
            assert not len(left) or float(taken.min()) >= float(left.max())


def test_random_order_ignores_confidence_and_follows_the_seed() -> None:
    """Over many seeds every position comes first about equally often; one seed always gives the
    same.
    """
    rows, length = 2000, 4
    logits = (
        torch.tensor([8.0, 0.0, 0.0]).repeat(rows, length, 1)
        * torch.arange(1, length + 1)[None, :, None]
    )
    masked = torch.ones(rows, length, dtype=torch.bool)
    sampling = Sampling(
        torch.arange(rows),
        torch.arange(length).expand(rows, -1),
        torch.zeros(rows, dtype=torch.long),
    )
    block = Block(
        torch.zeros(rows, length, dtype=torch.long),
        masked,
        masked,
        masked.sum(-1),
        torch.zeros(rows, dtype=torch.long),
    )
    first, _ = create("fixed", order="random").step(
        from_logits(logits, masked, sampling), block, {}
    )
    again, _ = create("fixed", order="random").step(
        from_logits(logits, masked, sampling), block, {}
    )
    assert torch.equal(first.commit, again.commit)
    share = first.commit.double().mean(0)
    assert bool(((share - 0.25).abs() < 4 * (0.25 * 0.75 / rows) ** 0.5).all())


@FEW
@given(case=cases(), threshold=st.sampled_from((0.0, 0.4, 0.9, 1.0)))
def test_threshold_is_what_it_says(case: Case, threshold: float) -> None:
    """`threshold` against its own definition in plain Python."""
    case = dataclasses.replace(case, options={})
    decision, masked, _ = play(create("threshold", threshold=threshold), case, slice(None))[0]
    p = case.logits[0].softmax(-1)
    for row in range(len(masked)):
        where = masked[row].nonzero()[:, 0].tolist()
        best = max(where, key=lambda i: float(p[row, i].max()), default=None)
        for i in where:
            confidence = float(p[row, i].max())
            assert float(decision.confidence[row, i]) == pytest.approx(confidence, abs=1e-5)
            assert int(decision.tokens[row, i]) == int(p[row, i].argmax())
            if abs(confidence - threshold) > 1e-5:
                assert bool(decision.commit[row, i]) == (confidence >= threshold or i == best)
