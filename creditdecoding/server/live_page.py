"""The live page: a prompt, two decoders side by side, the canvas after every pass, a slider over
passes. No build step, nothing fetched
from elsewhere.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files

from creditdecoding.decoders import names
from creditdecoding.viewer.html import player_html

LENGTH = 64  # of an answer, at first


def live_page(model: str, max_length: int) -> str:
    """The page as HTML, for a model of that name and length."""
    folder = files(__package__) / "static"
    decoders = "".join(f'<option value="{escape(name)}">' for name in names())
    form = (folder / "live.html").read_text(encoding="utf-8")
    form = form.format(
        model=escape(model),
        longest=max_length - 1,
        length=min(LENGTH, max_length // 2),
        decoders=decoders,
    )
    return player_html(
        f"{model}, live",
        form,
        [],
        (folder / "live.js").read_text("utf-8"),
        (folder / "live.css").read_text("utf-8"),
    )
