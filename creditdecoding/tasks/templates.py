"""Prompt templates as data: a comparison asks each item once in every template that is named.

Rankings of decoders can change with the wording, so they are reported by template as well. The
checkpoint's chat template is applied around these.
"""

from __future__ import annotations

from creditdecoding.errors import OptionError, unknown_name

TEMPLATES: dict[str, str] = {
    "plain": "{question}",
    "question": "Question: {question}\nAnswer:",
    "steps": "{question} Please work step by step.",
    "task": "Solve the following task.\n\n{question}",
}


def parse_templates(names: str) -> list[str]:
    """The template names of a comma-separated text, or `all`, without repeats. Raises
    `OptionError`.
    """
    templates: dict[str, None] = {}
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name != "all" and name not in TEMPLATES:
            raise unknown_name("template", name, ["all", *TEMPLATES])
        templates |= dict.fromkeys(TEMPLATES if name == "all" else [name])
    if not templates:
        raise OptionError(
            "no template", allowed=", ".join(["all", *TEMPLATES]), hint="Name at least one."
        )
    return list(templates)


def apply_template(template: str, question: str) -> str:
    """The prompt of `question` in the template called `template`."""
    return TEMPLATES[template].replace("{question}", question)
