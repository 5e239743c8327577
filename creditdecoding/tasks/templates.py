"""Ways to wrap a question, as data: a comparison asks each item once in every template that is
asked for.

Rankings of decoders can change with the wording, so they are reported by template as well. Leaves
to others: the questions themselves
(each task brings its own phrasings), and the checkpoint's chat template, which comes around all of
these (tokenizer.py).
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
    found: dict[str, None] = {}
    for name in (part.strip() for part in names.split(",") if part.strip()):
        if name != "all" and name not in TEMPLATES:
            raise unknown_name("template", name, ["all", *TEMPLATES])
        found |= dict.fromkeys(TEMPLATES if name == "all" else [name])
    if not found:
        raise OptionError(
            "no template", allowed=", ".join(["all", *TEMPLATES]), hint="Name at least one."
        )
    return list(found)


def apply_template(template: str, question: str) -> str:
    """The prompt of `question` in the template of that name."""
    return TEMPLATES[template].replace("{question}", question)
