"""Traces for people: question, answer, settings and what each pass wrote, in a terminal or a
notebook.
"""

from __future__ import annotations

import sys
from html import escape
from typing import Any

from creditdecoding.text.question import question_text
from creditdecoding.text.tokenizer import Tokenizer
from creditdecoding.trace import Trace
from creditdecoding.viewer.html import trace_html
from creditdecoding.viewer.terminal import print_trace

SHOWN_SETTINGS = ("gen_length", "block_length", "cache", "temperature", "seed", "cfg_scale", "stop")
"""Settings that are shown where they are not 0 or empty."""

FRAME_HEIGHT = 480


def about_trace(trace: Trace, tokenizer: Tokenizer) -> dict[str, str]:
    """The question, the answer and the settings of a trace, as texts."""
    decoder = dict(trace.settings.get("decoder", {}))
    knobs = ", ".join(f"{name}={value}" for name, value in decoder.items() if name != "name")
    settings = {name: trace.settings.get(name) for name in SHOWN_SETTINGS}
    texts = {
        "Question": question_text(tokenizer, trace.prompt),
        "Answer": tokenizer.decode(trace.tokens),
        "Decoder": f"{decoder.get('name', '')}  {knobs}",
        "Settings": ", ".join(f"{name} {value}" for name, value in settings.items() if value),
    }
    return {name: text.strip() for name, text in texts.items() if text.strip()}


def show_trace(trace: Trace, tokenizer: Tokenizer) -> None:
    """Show a trace: in a notebook as a page with a slider over the passes, else as a table."""
    about = about_trace(trace, tokenizer)
    if not _in_notebook():
        print_trace(trace, tokenizer.token_text, about=about)
        return
    display: Any = sys.modules["IPython"].display
    page = trace_html([("trace", trace)], tokenizer.token_text, "Denoising trace", about)
    frame = f'<iframe srcdoc="{escape(page)}" width="100%" height="{FRAME_HEIGHT}"></iframe>'
    display.display(display.HTML(frame))


def _in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")
