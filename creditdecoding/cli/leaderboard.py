"""The command leaderboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from creditdecoding.cli.app import Json, app
from creditdecoding.cli.render import number, print_json, report_written, show, table, write
from creditdecoding.cli.validate import check_writable


@app.command()
def leaderboard(
    files: Annotated[
        list[Path],
        typer.Argument(help="YAML files of a leaderboard, or report.json files of credit compare."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the merged points here, as YAML.", show_default=False),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page with the table.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """Merge curves of methods and print AUP, the area under each.

    A file is YAML, task: method: [[tokens a forward pass, score in percent], ...], as d3LLM's
    leaderboard keeps them. Of a method that two files have, the later one's points count.

    Examples:
        credit leaderboard runs/compare/report.json
        credit leaderboard ours.yaml theirs.yaml --out merged.yaml
    """
    from creditdecoding.eval.leaderboard import aup_table, merge, read_leaderboard, to_yaml
    from creditdecoding.plots.leaderboard_page import leaderboard_html

    check_writable(out, page)
    board = merge(read_leaderboard(path) for path in files)
    areas = aup_table(board)
    if out is not None:
        write(out, to_yaml(board))
    if page is not None:
        write(page, leaderboard_html(board, areas))
    if as_json:
        print_json(areas)
    else:
        methods = dict.fromkeys(method for by_method in areas.values() for method in by_method)
        rows = [
            (method, *(number(areas[task].get(method), ".1f") for task in areas))
            for method in methods
        ]
        show(table(("AUP", *areas), rows))
    report_written(out, page)
