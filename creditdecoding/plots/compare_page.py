"""A comparison as one stand-alone HTML page: words, curves as inline SVG, tables. Nothing is
fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from creditdecoding.plots.tradeoff import Dot, Series, Window, series, windows

_WIDE, _HIGH, _LEFT, _FOOT, _TOP, _RIGHT = 640, 400, 46, 44, 10, 12

STYLE = """
:root { --page: #f6f8fa; --card: #fff; --text: #1d2733; --quiet: #5c6875; --line: #d9e0e6; --accent: #1f6fb2; --good: #e8f2fa }
@media (prefers-color-scheme: dark) { :root { --page: #0f1419; --card: #171e26; --text: #e4e9ee; --quiet: #98a5b2; --line: #2b3540;
  --accent: #6cc4ff; --good: #1a2a38 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1360px; padding: 20px; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 1.35rem; margin: 0 0 2px }
h2 { font-size: 1.05rem; margin: 0 0 8px }
.sub { color: var(--quiet); margin: 0 0 14px; font-size: .88rem; overflow-wrap: anywhere }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px; margin: 0 0 16px; min-width: 0 }
.words p { margin: 0 0 .6em; max-width: 75em }
.words p:first-child { font-weight: 600 }
.panels { display: grid; gap: 16px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)) }
.panels > div, .wide { overflow-x: auto }
h3 { font-size: .9rem; margin: 0 0 4px; color: var(--quiet); font-weight: 600 }
svg { display: block; width: 100%; min-width: 460px; height: auto }
svg text { fill: var(--quiet); font-size: 13px }
svg .grid { stroke: var(--line); stroke-width: 1 }
svg .standard { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 5 4 }
.keys { display: flex; flex-wrap: wrap; gap: 2px 6px; margin: 10px 0 0 }
.keys label { display: inline-flex; align-items: center; gap: 6px; padding: 3px 8px; border-radius: 6px; cursor: pointer; font-size: .86rem }
.keys label:hover { background: var(--good) }
.keys input { accent-color: var(--accent); margin: 0; width: 16px; height: 16px }
.keys i { width: 22px; border-top: 3px solid }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--quiet); font-weight: 600 }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--card) }
td small { color: var(--quiet); font-size: .92em }
tr.best td { background: var(--good) }
tr:last-child td { border-bottom: 0 }
.note { color: var(--quiet); font-size: .84rem; margin: 8px 0 0; max-width: 80em }
@media (max-width: 600px) { body { padding: 12px } section { padding: 12px } th, td { padding: 5px 7px } }
"""

SCRIPT = """
for (const box of document.querySelectorAll(".keys input")) {
  const marked = document.querySelectorAll("[data-series='" + box.value + "']");
  box.addEventListener("change", () => marked.forEach(part => { part.style.display = box.checked ? "" : "none"; }));
  const label = box.parentElement;
  const fade = on => document.querySelectorAll("[data-series]").forEach(part => {
    part.style.opacity = on && part.dataset.series !== box.value ? .12 : "";
  });
  label.addEventListener("pointerenter", () => fade(true));
  label.addEventListener("pointerleave", () => fade(false));
}
"""


def compare_html(report: Mapping[str, Any], title: str, about: str) -> str:
    """The page; `about` is one line on what was run."""
    words = "".join(f"<p>{escape(sentence)}</p>" for sentence in report["words"])
    body = [
        f'<section class="words">{words}</section>',
        f"<section><h2>Score over forward passes</h2>{_panels(report)}</section>",
        f"<section><h2>Fewest passes at no measurable loss: chosen on dev, reported on test</h2>{_operating(report)}</section>",
        f"<section><h2>Area under the curve</h2>{_areas(report)}</section>",
        f"<section><h2>By task</h2>{_by_task(report)}</section>",
    ]
    if len(report["templates"]) > 1:
        body.append(f"<section><h2>By prompt template</h2>{_by_template(report)}</section>")
    body.append(f"<section><h2>Every setting, test split</h2>{_settings(report)}</section>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        f'<header><h1>{escape(title)}</h1><p class="sub">{escape(about)}</p></header>\n<main>\n'
        + "\n".join(body)
        + "\n</main>\n"
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _panels(report: Mapping[str, Any]) -> str:
    found = series(report)
    shown = "".join(
        f"<div><h3>{escape(title)}</h3>{_svg(report, found, window, i)}</div>"
        for i, (title, window) in enumerate(windows(report, found))
    )
    keys = "".join(
        f'<label><input type="checkbox" checked value="{i}"><i style="border-color:{each.colour};'
        f'border-top-style:{"dashed" if each.dash else "solid"}"></i>{escape(each.name)}</label>'
        for i, each in enumerate(found)
    )
    note = "Every point is a setting on the test split. A ring marks the setting chosen on dev, with the 95 % interval of its difference to "
    return f'<div class="panels">{shown}</div><div class="keys">{keys}</div><p class="note">{note}standard decoding, the dashed line.</p>'


def _svg(report: Mapping[str, Any], found: Sequence[Series], window: Window, number: int) -> str:
    """One panel."""
    wide, high = _WIDE - _LEFT - _RIGHT, _HIGH - _TOP - _FOOT

    def x(passes: float) -> float:
        return round(_LEFT + wide * window.across(passes), 2)

    def y(score: float) -> float:
        return round(_TOP + high * (1 - window.up(score)), 2)

    parts = []
    for tick in window.score_ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>'
        )
        parts.append(f'<text x="{_LEFT - 7}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    for tick in window.passes_ticks:
        parts.append(
            f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{_HIGH - _FOOT}"/>'
        )
        parts.append(
            f'<text x="{x(tick)}" y="{_HIGH - _FOOT + 17}" text-anchor="middle">{tick:g}</text>'
        )
    level = y(report["reference"]["test"]["score"]["value"])
    parts.append(
        f'<line class="standard" x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{level}" y2="{level}"/>'
    )
    parts.append(
        f'<text x="{_LEFT + wide / 2}" y="{_HIGH - 6}" text-anchor="middle">forward passes a request (score in %)</text>'
    )
    clip = f'<clipPath id="clip{number}"><rect x="{_LEFT}" y="{_TOP - 8}" width="{wide + _RIGHT}" height="{high + 16}"/></clipPath>'
    lines = []
    for i, each in sorted(enumerate(found), key=lambda pair: pair[1].bold):
        path = " ".join(f"{x(dot.passes)},{y(dot.score)}" for dot in each.dots)
        stroke = f'stroke="{each.colour}" stroke-width="{2.6 if each.bold else 1.4}" stroke-dasharray="{each.dash}"'
        dots = "".join(_mark(each, dot, x, y) for dot in each.dots)
        lines.append(
            f'<g data-series="{i}"><polyline points="{path}" fill="none" {stroke}/>{dots}</g>'
        )
    label = f"Score over forward passes of {len(found)} decoders"
    return (
        f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{label}"><defs>{clip}</defs>{"".join(parts)}'
        f'<g clip-path="url(#clip{number})">{"".join(lines)}</g></svg>'
    )


def _mark(each: Series, dot: Dot, x: Any, y: Any) -> str:
    """A point with its text; a chosen one with ring and interval."""
    place = f'cx="{x(dot.passes)}" cy="{y(dot.score)}"'
    said = escape(f"{each.name} {dot.value}: {dot.score:.1f} %, {dot.passes:.2f} passes")
    ring = ""
    if dot.chosen:
        ring = (
            f'<line x1="{x(dot.passes)}" x2="{x(dot.passes)}" y1="{y(dot.low)}" y2="{y(dot.high)}" stroke="{each.colour}" opacity=".5"/>'
            f'<circle {place} r="7" fill="none" stroke="{each.colour}" stroke-width="1.8"/>'
        )
    return f'{ring}<circle {place} r="{3.4 if each.bold else 2.6}" fill="{each.colour}"><title>{said}</title></circle>'


def _table(head: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]]) -> str:
    """A table of ready-made cells; a marked row stands out."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join(
        f"<tr{' class=best' if marked else ''}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for cells, marked in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _range(found: Mapping[str, float] | None, digits: int = 1, sign: bool = True) -> str:
    """`-0.4 [-1.2, 0.3]`."""
    if found is None:
        return ""
    style = f"{'+' if sign else ''}.{digits}f"
    return (
        f"{found['value']:{style}} <small>[{found['low']:{style}}, {found['high']:{style}}]</small>"
    )


def _rows(
    report: Mapping[str, Any],
) -> list[tuple[Mapping[str, Any] | None, Mapping[str, Any], str]]:
    """(curve, operating point, name) of standard decoding and of every curve that has one, fewest
    passes first.
    """
    chosen = [curve for curve in report["curves"] if curve["chosen"] is not None]
    chosen.sort(key=lambda curve: curve["chosen"]["test"]["nfe"])
    found: list[tuple[Mapping[str, Any] | None, Mapping[str, Any], str]] = [
        (None, report["reference"], report["reference"]["label"])
    ]
    return found + [(curve, curve["chosen"], curve["chosen"]["label"]) for curve in chosen]


def _operating(report: Mapping[str, Any]) -> str:
    head = [
        "decoder",
        "passes",
        "times fewer",
        "score %",
        "difference",
        "difference on dev",
        "tokens / pass",
        "sequence-forwards",
    ]
    rows = []
    for curve, point, name in _rows(report):
        test, dev = point["test"], point["dev"]
        cells = [
            escape(name),
            f"{test['nfe']:.2f}",
            _range(test["speedup"], 2, False),
            f"{test['score']['value']:.1f}",
        ]
        cells += (
            ["", ""] if curve is None else [_range(test["difference"]), _range(dev["difference"])]
        )
        cells += [f"{test['tpf']:.2f}", f"{test['sequence_forwards']:.2f}"]
        rows.append((cells, curve is not None and curve["name"] == report["best"]))
    without = [curve["name"] for curve in report["curves"] if curve["chosen"] is None]
    note = (
        f"Chosen on {report['items']['dev']} dev items: the fewest passes among settings whose score is at most {report['bound']:g} points below "
        f"standard decoding and whose interval reaches 0. All other numbers: {report['items']['test']} test items, looked at once. "
        f"Intervals: 95 %, paired bootstrap over items within tasks, {report['resamples']:,} resamples."
    )
    if without:
        note += f" No such setting: {', '.join(without)}."
    return f'{_table(head, rows)}<p class="note">{escape(note)}</p>'


def _areas(report: Mapping[str, Any]) -> str:
    if report["area_range"] is None:
        return '<p class="note">The curves share no range of passes below that of standard decoding.</p>'
    rows = []
    for curve in sorted(
        (each for each in report["curves"] if each["area"]), key=lambda each: -each["area"]["value"]
    ):
        beside = curve["area_difference"]
        cells = [
            escape(curve["name"]),
            _range(curve["area"], 2, False),
            _range(beside, 2),
            f"{beside['from']:.2f} to {beside['to']:.2f}" if beside else "",
        ]
        rows.append((cells, False))
    low, high = report["area_range"]
    note = f"Mean score on test over the logarithm of passes, from {low:g} passes, which all curves reach, to the {high:g} of standard decoding, "
    note += "where all end. The difference is over the range that the two curves share."
    head = [
        "decoder",
        "area",
        f"difference to {report['baseline']}" if report["baseline"] else "",
        "over passes",
    ]
    return f'{_table(head, rows)}<p class="note">{note}</p>'


def _by_task(report: Mapping[str, Any]) -> str:
    rows = []
    for curve, point, name in _rows(report):
        each = (point["families"][family] for family in report["families"])
        cells = [
            escape(name),
            *(f"{numbers['score']:.1f} <small>{numbers['nfe']:.1f}</small>" for numbers in each),
        ]
        rows.append((cells, curve is not None and curve["name"] == report["best"]))
    return f'{_table(["decoder", *report["families"]], rows)}<p class="note">Score in %, and small the passes a request.</p>'


def _by_template(report: Mapping[str, Any]) -> str:
    rows = []
    for curve, point, name in _rows(report):
        each = [point["templates"][template] for template in report["templates"]]
        cells = [
            f"{n['score']['value']:.1f} ({n['difference']['value']:+.1f}) <small>{n['nfe']:.1f}</small>"
            for n in each
        ]
        rows.append(([escape(name), *cells], curve is not None and curve["name"] == report["best"]))
    note = "Score in %, difference to standard decoding in the same template, passes."
    return f'{_table(["decoder", *report["templates"]], rows)}<p class="note">{note}</p>'


def _settings(report: Mapping[str, Any]) -> str:
    head = [
        "setting",
        "passes",
        "times fewer",
        "score %",
        "difference",
        "tokens / pass",
        "dev passes",
        "dev difference",
    ]
    rows = []
    for curve in report["curves"]:
        for point in curve["points"]:
            test, dev = point["test"], point["dev"]
            chosen = curve["chosen"] is not None and point["decoder"] == curve["chosen"]["decoder"]
            cells = [
                escape(point["decoder"]),
                f"{test['nfe']:.2f}",
                _range(test["speedup"], 2, False),
                f"{test['score']['value']:.1f}",
            ]
            cells += [
                _range(test["difference"]),
                f"{test['tpf']:.2f}",
                f"{dev['nfe']:.2f}",
                _range(dev["difference"]),
            ]
            rows.append((cells, chosen))
    return _table(head, rows)
