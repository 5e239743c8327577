"""Steps of answers, states, rows that continue them, and the sampler over the engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creditdecoding import load
from creditdecoding.config import GenerationConfig
from creditdecoding.errors import OptionError
from creditdecoding.likelihood import rescore
from creditdecoding.lm import LM
from creditdecoding.pav.sampler import RolloutRequest, Sampler
from creditdecoding.pav.steps import PartialAnswer, complete, extend, step_ends, task_delimiter
from creditdecoding.tasks import load_tasks
from creditdecoding.tasks.base import Task, distinct_items
from tools.make_checkpoint import FAMILIES, make

pytestmark = pytest.mark.slow

PIECES = ["a", "b.", ".", "c.d", "\n", " ", "e", ".\n"]


def decode(ids: list[int] | tuple[int, ...]) -> str:
    return "".join(PIECES[i] for i in ids)


@given(
    st.lists(st.integers(0, len(PIECES) - 1), max_size=20),
    st.sampled_from([".", "\n"]),
    st.integers(0, 5),
)
def test_steps_cut_an_answer_where_delimiters_are(ids: list[int], mark: str, limit: int) -> None:
    ends = step_ends(ids, mark, decode)
    assert ends == sorted(set(ends)) and all(0 < end <= len(ids) for end in ends)
    for start, end in zip([0, *ends], ends):
        assert mark in decode(ids[start:end]) and decode(ids[start:end]).replace(mark, "").strip()
        assert end - start == 1 or not (
            mark in decode(ids[start : end - 1])
            and decode(ids[start : end - 1]).replace(mark, "").strip()
        )
    assert step_ends(ids, mark, decode, limit=limit) == ends[:limit]
    if ends:  # going on from a step's end finds the rest
        assert step_ends(ids, mark, decode, since=ends[0]) == ends[1:]
    whole = complete(PartialAnswer((1,)), ids, "stop", mark, decode)
    assert whole.done and whole.written == tuple(ids) and whole.ends[-1] == len(ids)
    assert [state.depth for state in whole.prefixes] == list(
        range(whole.depth + 1)
    ) and whole.prefixes[-1] is whole
    assert all(
        extend(state, ids, mark, decode, 1) == other
        for state, other in zip(whole.prefixes, whole.prefixes[1:])
        if not other.done
    )


@given(st.lists(st.integers(0, 7), max_size=20), st.integers(1, 9), st.integers(0, 5))
def test_steps_of_a_size_lie_where_blocks_lie(ids: list[int], size: int, limit: int) -> None:
    ends = step_ends(ids, size, decode)
    assert (
        ends == [end for end in range(1, len(ids) + 1) if end % size == 0]
        and step_ends(ids, size, decode, limit=limit) == ends[:limit]
    )
    assert step_ends(ids, size, decode, since=3) == [end for end in ends if end > 3], (
        "also behind a state that ended elsewhere"
    )
    whole = complete(PartialAnswer((1,)), ids, "stop", size, decode)
    assert (
        whole.ends == tuple(ends)
        if ids and len(ids) % size == 0
        else whole.ends == (*ends, len(ids))
    )


def test_digests_of_states_are_those_of_earlier_versions() -> None:
    """Stores and verifiers keep digests of states; `State` was the name of the class."""
    state = PartialAnswer((1,), (2,), (1,), True, "stop")
    text = "State(prompt=(1,), written=(2,), ends=(1,), done=True, reason='stop')"
    assert state.digest_text == text


def test_a_task_must_say_what_ends_a_step() -> None:
    assert [task_delimiter(family) for family in load_tasks("arithmetic,output")] == [".", "\n"]
    (family,) = load_tasks("arithmetic")
    assert [
        task_delimiter(family, delimiter)
        for delimiter in (";", "\\n", "8 tokens", "1 token", "8 tokens.")
    ] == [";", "\n", 8, 1, "8 tokens."]
    for nothing in ("", "0 tokens"):
        with pytest.raises(OptionError, match="nothing ends a step"):
            task_delimiter(family, nothing)
    with pytest.raises(OptionError, match="'quiz'"):
        task_delimiter(Task("quiz", "quiz", lambda _: None, lambda *_: True))  # type: ignore[arg-type, return-value]


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("pocket", batch_size=8)


def states(lm: LM, count: int = 3) -> list[PartialAnswer]:
    (family,) = load_tasks("arithmetic")
    return [
        PartialAnswer(tuple(lm.encode(item.prompt)))
        for item in distinct_items(family, "dev", 0, count)
    ]


@pytest.mark.parametrize("decoder", ["fixed:k=4", "credit:threshold=0.6", "wino", "thrift"])
def test_a_step_and_the_rest_are_drawn_alike_in_any_company(lm: LM, decoder: str) -> None:
    config = GenerationConfig(decoder=decoder, gen_length=96, temperature=1.5)
    begun = states(lm, 2)
    asks = [
        RolloutRequest(state, ".", seed, steps)
        for seed in (1,)
        for steps in (1, 2, None)
        for state in begun
    ]
    sampler = Sampler(lm, config)
    together = dict(sampler.draw(asks))
    for position, ask in enumerate(asks):
        ((_, alone),) = Sampler(lm, config).draw([ask])
        drawn_together = together[position]
        assert (
            drawn_together.state == alone.state
            and drawn_together.cost.passes == alone.cost.passes
            and abs(drawn_together.logprob - alone.logprob) < 1e-2
        )
        assert drawn_together.state.done or drawn_together.state.depth == ask.steps
        text = lm.vocab.decode(drawn_together.state.written)
        assert drawn_together.state.done or text.rstrip().endswith(".")
        assert (
            drawn_together.cost.tokens == len(drawn_together.state.written)
            and drawn_together.cost.sequences == drawn_together.cost.passes
        )
    whole = lm.collect([lm.new_request(begun[0].prompt, config)])[0]
    ((_, same),) = sampler.draw([RolloutRequest(begun[0], ".", config.seed)])
    assert same.state.written == whole.trace.tokens and same.cost.passes == whole.nfe


def test_a_state_is_continued_where_it_ends(lm: LM) -> None:
    config = GenerationConfig(decoder="threshold", gen_length=96)
    sampler = Sampler(lm, config)
    ((_, whole),) = sampler.draw([RolloutRequest(states(lm)[0], ".", 0)])
    assert whole.state.done and whole.state.depth > 2
    for state in whole.state.prefixes[:-1]:
        ((_, one),) = sampler.draw([RolloutRequest(state, ".", 0, steps=1)])
        assert (
            one.state.written[: len(state.written)] == state.written
            and one.state.depth == state.depth + 1
        )
        assert one.cost.tokens == len(one.state.written) - len(state.written)
        row = sampler.request(RolloutRequest(state, ".", 0))
        assert row.blocks[0][0] % 32 == row.answer_start % 32 and row.answer_prefix == list(
            state.written
        )  # blocks lie where they lay
    ((_, again),) = sampler.draw([RolloutRequest(whole.state.prefix(2), ".", 0)])
    trace = again.trace
    assert trace.token_count == again.cost.tokens and trace.settings["begun"] == list(
        whole.state.prefix(2).written
    )
    start = len(trace.prompt) + len(whole.state.prefix(2).written)
    fresh = [p for p in trace.written if p < len(trace.prompt) + len(trace.tokens)]
    assert (
        min(fresh) == start
        and abs(sum(rescore(lm, trace).by_position[p] for p in fresh) - again.logprob) < 1e-3
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_continues_states(
    family: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = load(str(make(family, tmp_path_factory.mktemp(family))))
    config = GenerationConfig(decoder="credit", gen_length=24, temperature=1.0)
    prompt = tuple(model.encode("Say something."))
    ((_, whole),) = Sampler(model, config).draw([RolloutRequest(PartialAnswer(prompt), "e", 3)])
    for cut in {1, len(whole.state.written) // 2, len(whole.state.written) - 1} - {0}:
        begun = PartialAnswer(prompt, whole.state.written[:cut], (cut,))
        ((_, rollout),) = Sampler(model, config).draw([RolloutRequest(begun, "e", 4)])
        assert rollout.state.written[:cut] == begun.written and rollout.state.done


def test_what_cannot_be_continued_is_refused(lm: LM) -> None:
    config = GenerationConfig(gen_length=8)
    prompt = lm.encode("Hello")
    with pytest.raises(OptionError, match="nothing to write"):
        lm.new_request(prompt, config, begun=[5] * 8)
    with pytest.raises(OptionError, match="a mask, an end token"):
        lm.new_request(prompt, config, begun=[5, lm.vocab.mask_id])
    with pytest.raises(OptionError, match="complete answer"):
        Sampler(lm, config).request(
            RolloutRequest(PartialAnswer(tuple(prompt), (5,), (1,), True, "stop"), ".", 0)
        )
