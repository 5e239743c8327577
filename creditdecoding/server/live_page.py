"""The live page: a prompt, two decoders next to each other, the canvas after every pass. One HTML
document without outside requests.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files

from creditdecoding.decoders import names
from creditdecoding.viewer.html import player_html

DEFAULT_LENGTH = 64  # tokens of an answer


def live_page(model: str, max_length: int) -> str:
    """The page as HTML, for a model of that name and length."""
    static = files(__package__) / "static"
    form = (static / "live.html").read_text("utf-8")
    form = form.format(
        model=escape(model),
        longest=max_length - 1,
        length=min(DEFAULT_LENGTH, max_length // 2),
        decoders="".join(f'<option value="{escape(name)}">' for name in names()),
    )
    script = (static / "live.js").read_text("utf-8")
    style = (static / "live.css").read_text("utf-8")
    return player_html(f"{model}, live", form, [], script, style)
