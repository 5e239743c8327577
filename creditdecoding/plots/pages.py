"""HTML pages without external resources, from the templates in `static/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from creditdecoding.wording import count

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("static")),
    autoescape=True,
)
_TEMPLATES.globals["count"] = count


def render_page(template: str, **values: Any) -> str:
    """A page from a template and its values, which are escaped."""
    return _TEMPLATES.get_template(template).render(**values)
