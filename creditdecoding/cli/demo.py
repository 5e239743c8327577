"""The command demo."""

from __future__ import annotations

import typer

from creditdecoding.cli.app import Model, app, load_lm
from creditdecoding.cli.flags import with_options
from creditdecoding.config import EngineConfig

DECODERS = ("fixed", "threshold:threshold=0.99", "credit:threshold=0.99")
TASKS = ("facts", "program", "arithmetic", "algebra")


@app.command()
@with_options(engine=EngineConfig)
def demo(model: Model = "pocket", *, engine: EngineConfig) -> None:
    """A short tour: one question of several families, answered by standard, threshold and credit
    decoding.

    The fast decoders have a threshold of 0.99, where they lose about a point on the embedded model.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from creditdecoding.tasks.base import distinct_items
    from creditdecoding.tasks.synthetic import SYNTHETIC_TASKS

    console = Console()
    lm = load_lm(model, engine)
    passes = dict.fromkeys(DECODERS, 0)
    for name in TASKS:
        task = SYNTHETIC_TASKS[name]
        item = distinct_items(task, "test", 1, 1)[0]
        console.print(f"\n[bold]{task.title}[/]")
        console.print(Text(item.prompt, style="cyan"))
        table = Table("decoder", "answer", "right", "passes", "speed-up")
        answers = {spec: lm.generate(item.prompt, decoder=spec) for spec in DECODERS}
        for spec, answer in answers.items():
            passes[spec] += answer.nfe
            right = "[green]yes[/]" if task.score(answer.text, item) else "[red]no[/]"
            speedup = f"{answers['fixed'].nfe / answer.nfe:.1f}x"
            table.add_row(spec, Text(answer.text), right, str(answer.nfe), speedup)
        console.print(table)
    totals = (f"{spec} {count} ({passes['fixed'] / count:.1f}x)" for spec, count in passes.items())
    typer.echo(f"\nForward passes in all: {', '.join(totals)}")
