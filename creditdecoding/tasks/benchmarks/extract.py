"""Finds the answer in what a model wrote: numbers, choice letters, boxed expressions, double
brackets, code.

Every function returns None if there is no answer.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)(?:(?<!\))(-))?(?:\$ ?)?(-)?"
    r"((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
_ANNOUNCEMENT = re.compile(r"(?:answer|result)\s*(?:is|are|was|:|=)+\s*", re.IGNORECASE)
_BOX = re.compile(r"\\f?box(?:ed)?(?=[\s{])\s*")
_WORD = re.compile(r"[^\s${][^\s$]*")
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_DECORATION = "*_`$ \t"
_REPLACEMENTS = {
    "\u2212": "-",
    "\u2013": "-",
    "{,}": ",",
    "\\,": "",
    "\\!": "",
    "\\$": "$",
    "**": "",
}
"""Other minus signs, LaTeX's thousands separators and currency, emphasis."""


def numbers(text: str) -> list[Decimal]:
    """Every number of a text: `-$1,234.50` is one; the minus of `5-3` belongs to none."""
    for old, new in _REPLACEMENTS.items():
        text = text.replace(old, new)
    return [_signed(match) for match in _NUMBER.finditer(text)]


def _signed(match: re.Match[str]) -> Decimal:
    value = Decimal(match[3].replace(",", ""))
    return -value if match[1] or match[2] else value


def number(text: str) -> Decimal | None:
    """The number a text answers: after the last `####`, in the last box, after the last "answer
    is", else the last number of the text.
    """
    _, marker, after = text.rpartition("####")
    if marker and (candidates := numbers(after.strip().split("\n")[0])):
        return candidates[0]
    box = boxed(text)
    if box is not None and (candidates := numbers(box.rpartition("=")[2])):
        return candidates[0]
    statement = announced(text)
    if statement is not None:
        first_line = statement.split("\n")[0]
        if candidates := numbers(first_line.rpartition("=")[2]):
            return candidates[0]
    candidates = numbers(text)
    return candidates[-1] if candidates else None


def announced(text: str) -> str | None:
    """The text after the last "answer is" or "Answer:"."""
    ends = [match.end() for match in _ANNOUNCEMENT.finditer(text)]
    return text[ends[-1] :].strip() if ends else None


def boxed(text: str) -> str | None:
    r"""The inside of the last complete `\boxed{...}` or `\fbox{...}`; of `\boxed 5`, the 5."""
    closing = _closing_braces(text)
    for match in reversed(list(_BOX.finditer(text))):
        start = match.end()
        if start in closing:
            return text[start + 1 : closing[start]].strip()
        if word := _WORD.match(text, start):
            return word[0].rstrip(".")
    return None


def _closing_braces(text: str) -> dict[int, int]:
    """Where each brace that is closed begins and ends, in one pass over the text."""
    closing, open_braces = {}, []
    for brace in re.finditer("[{}]", text):
        if brace[0] == "{":
            open_braces.append(brace.start())
        elif open_braces:
            closing[open_braces.pop()] = brace.start()
    return closing


def choice(text: str, letters: str = "ABCD") -> str | None:
    """The letter chosen: boxed, bracketed or announced, at the head of the text, else the last one
    standing alone.
    """
    plain, letter = text.replace("*", ""), f"[{letters}]"
    box = boxed(plain)
    if box is not None:
        inside = re.fullmatch(rf"\(?(?:\\text\{{)?\(?({letter})\)?\}}?[.)]?.*", box)
        if inside:
            return inside[1]
    announcement = (
        r"(?i:answer|choice|option)(?i:\s*(?:is|:|=))+\s*(?i:option|choice)?"
        rf"\s*[\[(\"']*({letter})(?![\w'])"
    )
    if statements := re.findall(announcement, plain):
        return str(statements[-1])
    if head := re.match(rf"\s*\(?({letter})\)?\s*(?:[.):,]|\n|$)", plain):
        return head[1]
    marked = rf"\(({letter})\)|\[({letter})\]|(?<![\w'])({letter})(?=[.):])"
    not_article = f"[{letters.replace('A', '')}]"
    bare = rf"(?<![\w'])({letter})(?![\w' ]|$)|(?<![\w'])({not_article})(?![\w'])"
    for pattern in (marked, bare):
        if groups := re.findall(pattern, plain):
            return str(next(filter(None, groups[-1])))
    return None


def bracketed(text: str) -> str | None:
    """The inside of the last `[[...]]`, which may itself have brackets."""
    last_end = text.rfind("]]")
    start = text.rfind("[[", 0, max(last_end, 0))
    if start < 0:
        return None
    end = text.find("]]", start)
    while text[end + 2 : end + 3] == "]":
        end += 1
    return text[start + 2 : end].strip()


def code(text: str, has: str = "") -> str:
    """The last Python code block with a match of the pattern `has`, else the last one.

    Without any fence it is the whole text. The pattern is matched line by line. Blocks need not be
    closed. If no block says that it is Python, all count.
    """
    blocks = [(match[1].lower(), match[2]) for match in _FENCE.finditer(text)]
    if not blocks:
        return text.replace("```python", "").replace("```", "")
    python = [body for language, body in blocks if language in ("python", "py", "python3")]
    bodies = python or [body for _, body in blocks]
    matching = [body for body in bodies if re.search(has, body, re.MULTILINE)]
    return (matching or bodies)[-1]


def defines(name: str) -> str:
    """The pattern of code that defines a function, a class or a variable called `name`."""
    return rf"^((async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*[:=]"


def short_answer(text: str) -> str:
    """The phrase a text answers: boxed, after the last "Answer:", else its last line; without
    emphasis, quotes and final period.
    """
    phrase, statement = boxed(text), announced(text)
    if phrase is None and statement is not None:
        phrase = statement.strip().split("\n")[0]
    elif phrase is None:
        phrase = text.strip().split("\n")[-1]
    return phrase.strip(_DECORATION).strip("\"'").rstrip(".").strip(_DECORATION)
