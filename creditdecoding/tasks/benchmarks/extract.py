"""Finds the answer in what a model wrote: numbers, choice letters, boxed expressions, double
brackets, code.

Every function returns None where there is no answer.
"""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(
    r"(?<!\w)(?<!\d\.)(?:(?<!\))(-))?(?:\$ ?)?(-)?((?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
_MARKER = re.compile(r"(?:answer|result)\s*(?:is|are|was|:|=)+\s*", re.IGNORECASE)
_FENCE = re.compile(r"```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_DECORATION = "*_`$ \t"


def _plain(text: str) -> str:
    """Without LaTeX's thousands separators and currency, other minus signs and emphasis."""
    for old, new in (
        ("\u2212", "-"),
        ("\u2013", "-"),
        ("{,}", ","),
        ("\\,", ""),
        ("\\!", ""),
        ("\\$", "$"),
        ("**", ""),
    ):
        text = text.replace(old, new)
    return text


def numbers(text: str) -> list[Decimal]:
    """Every number of a text: `-$1,234.50` is one, the minus of `5-3` belongs to none."""
    found = []
    for match in _NUMBER.finditer(_plain(text)):
        value = Decimal(match[3].replace(",", ""))
        found.append(-value if match[1] or match[2] else value)
    return found


def number(text: str) -> Decimal | None:
    """The number a text answers: after the last `####`, in the last box, after the last "answer
    is", else the last one it has.
    """
    _, marked, after = text.rpartition("####")
    if marked and (found := numbers(after.strip().split("\n")[0])):
        return found[0]
    box = boxed(text)
    if box is not None and (found := numbers(box.rpartition("=")[2])):
        return found[0]
    said = announced(text)
    if said is not None and (found := numbers(said.split("\n")[0].rpartition("=")[2])):
        return found[0]
    every = numbers(text)
    return every[-1] if every else None


def announced(text: str) -> str | None:
    """What follows the last "answer is" or "Answer:"."""
    ends = [found.end() for found in _MARKER.finditer(text)]
    return text[ends[-1] :].strip() if ends else None


def boxed(text: str) -> str | None:
    r"""The inside of the last complete `\boxed{...}` or `\fbox{...}`, of `\boxed 5` the next word."""
    for found in reversed(list(re.finditer(r"\\f?box(?:ed)?(?=[\s{])\s*", text))):
        rest = text[found.end() :]
        if not rest.startswith("{"):
            word = re.match(r"[^\s$]+", rest)
            if word:
                return word[0].rstrip(".")
            continue
        depth = 0
        for at, character in enumerate(rest):
            depth += (character == "{") - (character == "}")
            if depth == 0:
                return rest[1:at].strip()
    return None


def choice(text: str, letters: str = "ABCD") -> str | None:
    """The letter chosen: boxed, bracketed or announced, at the head of the text, else the last one
    standing alone.
    """
    plain, one = text.replace("*", ""), f"[{letters}]"
    box = boxed(plain)
    if box is not None and (
        inner := re.fullmatch(rf"\(?(?:\\text\{{)?\(?({one})\)?\}}?[.)]?.*", box)
    ):
        return inner[1]
    announcement = rf"(?i:answer|choice|option)(?i:\s*(?:is|:|=))+\s*(?i:option|choice)?\s*[\[(\"']*({one})(?![\w'])"
    if said := re.findall(announcement, plain):
        return str(said[-1])
    if head := re.match(rf"\s*\(?({one})\)?\s*(?:[.):,]|\n|$)", plain):
        return head[1]
    alone = re.findall(rf"\(({one})\)|\[({one})\]|(?<![\w'])({one})(?=[.):])", plain)
    if alone:
        return str(next(filter(None, alone[-1])))
    bare = re.findall(
        rf"(?<![\w'])({one})(?![\w' ]|$)|(?<![\w'])([{letters.replace('A', '')}])(?![\w'])", plain
    )
    return str(next(filter(None, bare[-1]))) if bare else None


def bracketed(text: str) -> str | None:
    """The inside of the last `[[...]]`, which may itself have brackets."""
    start = text.rfind("[[")
    while start >= 0:
        end = text.find("]]", start)
        if end >= 0:
            while text[end + 2 : end + 3] == "]":
                end += 1
            return text[start + 2 : end].strip()
        start = text.rfind("[[", 0, start)
    return None


def code(text: str, has: str = "") -> str:
    """The last Python code block with a match of the pattern `has`, else the last one.

    Without any fence it is the whole text. Lines are matched one by one. Blocks need not be closed.
    Where no block says that it is Python, all count.
    """
    blocks = [(match[1].lower(), match[2]) for match in _FENCE.finditer(text)]
    if not blocks:
        return text.replace("```python", "").replace("```", "") if "```" in text else text
    python = [body for language, body in blocks if language in ("python", "py", "python3")]
    bodies = python or [body for _, body in blocks]
    fitting = [body for body in bodies if re.search(has, body, re.MULTILINE)]
    return (fitting or bodies)[-1]


def defines(name: str) -> str:
    """The pattern of code that defines a function, a class or a variable of that name."""
    return rf"^((async\s+)?def|class)\s+{re.escape(name)}\b|^{re.escape(name)}\s*[:=]"


def short(text: str) -> str:
    """The phrase a text answers: boxed, after the last "Answer:", else its last line; without
    emphasis, quotes and final period.
    """
    found = boxed(text)
    if found is None:
        found = announced(text)
        lines = (text if found is None else found).strip().split("\n")
        found = lines[-1] if found is None else lines[0]
    return found.strip(_DECORATION).strip("\"'").rstrip(".").strip(_DECORATION)
