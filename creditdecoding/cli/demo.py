"""The command demo."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from creditdecoding.cli.app import app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.cli.progress import open_progress
from creditdecoding.cli.render import report_written, show, table, write
from creditdecoding.cli.validate import check_writable
from creditdecoding.config import EngineConfig
from creditdecoding.wording import count

if TYPE_CHECKING:
    from rich.table import Table

    from creditdecoding.eval.demo import Contestant, Race
    from creditdecoding.lm import LM
    from creditdecoding.tasks.base import Item, Task
    from creditdecoding.viewer.race import Lane

EMBEDDED = "pocket"
RACE_SECONDS = 8.0
"""How long the slower answer takes on the screen."""
NOT_SHOWN = (
    "The number behind a rule is its threshold: the confidence from which it writes a token.\n"
    "What this does not show: credit beats threshold here partly because credit lowers the bar. "
    "At equal scores on the first embedded model a lower threshold is as fast as credit; on these "
    "kinds of question thrift is faster than both (docs/research/results.md)."
)
CHOSEN = (
    "The question was chosen: the model knows the answer, so both rules write it in few passes. "
    "It is not in the training data; other capitals are.\n"
    "On open text of so small a model gains are small and vary: over twenty everyday questions, "
    "this one among them, standard decoding took 25.7 passes an answer, credit 22.6, threshold "
    "21.4 (docs/research/smol.md)."
)
PULL_HINT = "For a race on an open question fetch a language model, 98 MB: credit pull smol"


DemoModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A checkpoint folder, a hub id, or pocket (the embedded model).",
        show_default="pocket, and smol for the race if it was pulled",
    ),
]


@app.command()
@with_options(engine=EngineConfig)
def demo(
    model: DemoModel = None,
    questions: Annotated[int, typer.Option(help="Questions of each kind.", min=1, max=200)] = 3,
    seed: Annotated[int, typer.Option(help="Draws the questions.")] = 1,
    svg: Annotated[
        Path | None,
        typer.Option(help="Write the race and the totals as an animated SVG.", show_default=False),
    ] = None,
    *,
    engine: EngineConfig,
) -> None:
    """See several decoders answer the same questions.

    Answer questions of eight kinds by standard decoding and by three faster rules; then watch one
    answer being written by some of them. After credit pull smol that is the answer of a language
    model to an open question.

    The rules run at thresholds that lose next to nothing on the embedded model, or at what the
    checkpoint's generation_config.json names. Questions are drawn by the seed from the test split.

    Examples:
        credit demo
        credit demo --questions 10 --seed 2
    """
    from creditdecoding.bases.pull import is_pulled
    from creditdecoding.eval.demo import OPEN_MODEL, draw_questions, last_race, make_contestants
    from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS

    check_writable(svg)
    lm = load_lm(model or EMBEDDED, engine)
    drawn = draw_questions(SYNTHETIC_TASKS.values(), questions, seed)
    contestants = make_contestants(lm.defaults.get("decoder"))
    _answer(lm, model or EMBEDDED, drawn, contestants)
    is_open = model is None and is_pulled(OPEN_MODEL)
    lm, race = _open_race(engine) if is_open else (lm, last_race(drawn, contestants))
    lanes = _show_race(lm, race)
    if model is None:
        show(CHOSEN if is_open else PULL_HINT)
    _write_animation(svg, lanes, race.question, [] if is_open else contestants)


def _answer(
    lm: LM, model: str, drawn: Sequence[tuple[Task, Item]], contestants: Sequence[Contestant]
) -> None:
    """Let every contestant answer every question, and show what they did."""
    from creditdecoding.eval.demo import answer_questions

    kinds = len({task.name for task, _ in drawn})
    questions = f"{count(len(drawn), 'question')} of {count(kinds, 'kind')}"
    show(f"{model}: {questions}, one at a time.")
    with open_progress("answering") as start:
        tick = start(0, len(drawn) * len(contestants))
        answer_questions(lm, drawn, contestants, tick)
    show(_by_kind(drawn, contestants), _totals(contestants), NOT_SHOWN)


def _by_kind(drawn: Sequence[tuple[Task, Item]], contestants: Sequence[Contestant]) -> Table:
    """Right answers and passes of every contestant, a row a kind of question."""
    rows = []
    for task in dict.fromkeys(task.name for task, _ in drawn):
        numbers = [i for i, (other, _) in enumerate(drawn) if other.name == task]
        cells = [_kind_cell(contestant, numbers) for contestant in contestants]
        rows.append([drawn[numbers[0]][0].title, *cells])
    columns = ["right and passes", *(contestant.name.split()[0] for contestant in contestants)]
    return table(columns, rows)


def _kind_cell(contestant: Contestant, numbers: Sequence[int]) -> str:
    answers = [contestant.answers[number] for number in numbers]
    right = sum(answer.is_right for answer in answers)
    passes = sum(answer.completion.nfe for answer in answers)
    return f"{right}/{len(answers)} {passes:>6,}"


def _totals(contestants: Sequence[Contestant]) -> Table:
    """Right answers, passes and seconds of every contestant beside standard decoding."""
    standard = contestants[0]
    rows = []
    for contestant in contestants:
        row = [
            contestant.name,
            f"{contestant.right} of {len(contestant.answers)}",
            str(contestant.lost_to(standard)),
            f"{contestant.passes:,}",
            f"{standard.passes / contestant.passes:.1f}x",
            f"{contestant.seconds:.1f} s",
        ]
        rows.append(row)
    columns = ["", "right", "lost", "passes", "fewer", "time"]
    return table(columns, rows, title="In all (lost: right in standard decoding alone)")


def _open_race(engine: EngineConfig) -> tuple[LM, Race]:
    """Let the language model answer an open question."""
    from creditdecoding.eval.demo import OPEN_MODEL, OPEN_RACERS, open_race

    show(f"\n{OPEN_MODEL}, a language model, and an open question.")
    lm = load_lm(OPEN_MODEL, engine)
    with open_progress("answering") as start:
        return lm, open_race(lm, start(0, len(OPEN_RACERS)))


def _show_race(lm: LM, race: Race) -> list[Lane]:
    """Play the answers on one clock, if somebody watches, and print them."""
    from rich.console import Console

    from creditdecoding.viewer.colours import SERIES
    from creditdecoding.viewer.race import make_lane, play

    lanes = []
    for name, completion in race.answers.items():
        colour = SERIES.get(name.split()[0], "")
        lanes.append(make_lane(name, completion.trace, lm.tokenizer.token_text, colour))
    console = Console(highlight=False)
    show(f"\n{race.question}")
    if console.is_terminal and not console.is_dumb_terminal:
        slowdown = max(1.0, RACE_SECONDS / max(lane.seconds for lane in lanes))
        show(f"Played {slowdown:.1f} times slower than it ran.")
        play(lanes, ends=lm.vocab.stop_ids, slowdown=slowdown, console=console)
    for completion, lane in zip(race.answers.values(), lanes):
        passes = f"{count(completion.nfe, 'pass', 'passes')} in {lane.seconds:.2f} s"
        show(f"  {lane.name}, {passes}: {completion.text}")
    return lanes


def _write_animation(
    path: Path | None, lanes: Sequence[Lane], question: str, contestants: Sequence[Contestant]
) -> None:
    """Write the race and the totals, if a path was given."""
    if path is None:
        return
    from creditdecoding.viewer.animation import Total, race_svg

    totals = [
        Total(
            name=contestant.name,
            seconds=contestant.seconds,
            note=f"{contestant.right} of {len(contestant.answers)} right, "
            f"{count(contestant.passes, 'pass', 'passes')}, {contestant.seconds:.1f} s",
        )
        for contestant in contestants
    ]
    write(path, race_svg(lanes, question, totals))
    report_written(path)
