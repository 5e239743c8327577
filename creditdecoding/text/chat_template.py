"""Chat templates: rendered as transformers renders them, under a limit of work.

A template comes with a checkpoint and runs in our process. The sandbox of Jinja keeps it from our
objects, not from looping for
ever or filling memory. So whatever a template does is paid from a budget: a loop by the turn, a
call, filter or operator by the
size of what goes in and comes out, before the work where that could be large. Nothing can interrupt
the thread from outside.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes, pass_context, utils
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 5.0
"""What rendering one conversation may take."""

UNITS = 2**22
"""Work that a template may do, where a character is one unit; for each character of the
conversation there are `PER_CHARACTER` more.
"""

PER_CHARACTER = 256
STEP = 64
MEMBER = 4
"""Units of a loop's turn or a call, and of looking at a member of a list."""

SOURCE = 2**20
"""Characters of a template's source."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LARGEST = 10_000
"""Whole numbers above this are no argument of a call: widths, repetitions and depths are what they
would be.
"""

_STRINGS = _words(
    """
    capitalize count endswith find format index isalnum isalpha isascii isdecimal isdigit
    islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix
    removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip
    swapcase title upper
    """
)
"""Methods of texts that a template may call."""

_REFUSED = frozenset(
    ["center", "filesizeformat", "forceescape", "pprint", "random", "urlize", "wordwrap", "xmlattr"]
)
_SHALLOW = _words(
    """
    abs attr batch count d default dictsort first float groupby int items last length list map
    max min reject rejectattr reverse round select selectattr slice sort sum unique
    """
)
"""Filters of Jinja that are left out, and those that look at the outside of a list alone."""


_WIDE = re.compile(r"%[^a-zA-Z%]*?(\d{4}|\*)|\{[^}]*\d{4}|\}\d{4,}[^{]*\}")
"""Places of a format that ask for a thousand characters or more."""

_TIMES = frozenset(("indent", "join", "tojson"))
"""Filters that put their arguments in many places of what they make."""


class LimitError(TemplateError):
    """A template that does more than it may."""


class Budget:
    """What is left of the work that one rendering may do."""

    def __init__(self, characters: int) -> None:
        self.left = UNITS + PER_CHARACTER * characters
        self.ends = time.monotonic() + SECONDS

    def pay(self, units: int) -> None:
        """Take `units` and a step. Raises `LimitError` when the budget or the time is used up."""
        self.left -= units + STEP
        if self.left < 0 or time.monotonic() > self.ends:
            raise LimitError("it does too much work: a loop or a text without end")


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


def _pay(units: int) -> None:
    budget = _budget.get()
    assert budget is not None, "a template ran outside of render()"
    budget.pay(units)


def _size(value: Any) -> int:
    """Characters and members of a value and of all inside it, as far as the budget goes."""
    if isinstance(value, (str, bytes)):
        return len(value)
    budget = _budget.get()
    most = UNITS if budget is None else budget.left
    found = 0
    stack = [value]
    while stack and found <= most:
        each = stack.pop()
        found += MEMBER
        if isinstance(each, (str, bytes)):
            found += len(each)
        elif isinstance(each, Mapping):
            found += len(each)
            stack += [*each.keys(), *each.values()] if len(each) <= most else []
        elif isinstance(each, (list, tuple, set, frozenset)):
            found += len(each)
            stack += each if len(each) <= most else []
        elif isinstance(each, int):
            found += each.bit_length() // 3
    return found


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _check_numbers(values: Sequence[Any]) -> int:
    """The largest whole number among arguments of a call. Raises `LimitError` for one that is too
    large.
    """
    numbers = [abs(value) for value in values if isinstance(value, int)]
    if any(number > LARGEST for number in numbers):
        raise LimitError(f"it calls something with a number above {LARGEST}")
    return max(numbers, default=1)


def _check_format(text: str, arguments: Sequence[Any]) -> None:
    """Pay for a text into which `arguments` are put, before it is made."""
    if _WIDE.search(text):
        raise LimitError("it pads a text to a great width")
    places = text.count("{") + text.count("%")
    _pay(len(text) + places * sum(map(_size, arguments)))


class Turns:
    """What a loop goes through; every turn is paid."""

    def __init__(self, values: Any, cost: int) -> None:
        self.values = values
        self.cost = cost

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        for value in self.values:
            _pay(self.cost)
            yield value


class Metered(NodeTransformer):
    """Puts the filters that pay into a parsed template: around what loops, what is written and what
    is joined with `~`.
    """

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "metered_turns", nodes.Const(written))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else _filtered(child, "metered_text")
            for child in node.nodes
        ]
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "metered_text")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "metered_text")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, "metered_text") if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(list(node.nodes), lineno=node.lineno), "metered_concat")


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


class Generation(Extension):
    """The tag that marks an assistant's words for training; what it encloses is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a meter in it."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[Generation, loopcontrols],
        )
        self.filters = {
            name: _metered(name, each)
            for name, each in self.filters.items()
            if name not in _REFUSED
        }
        self.filters["tojson"] = _metered("tojson", _tojson)
        self.filters |= {"metered_turns": _turns, "metered_text": _text, "metered_concat": _concat}
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals |= {"dict": _dict, "namespace": Namespace}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        metered: nodes.Template = Metered().visit(tree)
        return metered

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be large."""
        if operator == "%" and isinstance(left, (str, bytes)):
            _check_format(str(left), right if isinstance(right, tuple) else (right,))
        elif operator == "+":
            _pay(_length(left) + _length(right))
        elif operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise LimitError("it raises a number to a power above 64")
        elif operator in ("*", "**"):
            _pay(_product(left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call a function, a macro or a method."""
        given = (*arguments, *named.values())
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, (str, bytes)):
            if name not in _STRINGS:
                raise LimitError(f"it calls {name} of a text, which is not allowed")
            _check_numbers(given)
            _check_text(name, owner, given)
        else:
            _pay(
                sum(map(_length, given))
                + (_length(owner) if isinstance(owner, (list, tuple, dict)) else 0)
            )
        result = super().call(context, function, *arguments, **named)
        _pay(_length(result))
        return result


def _product(left: Any, right: Any) -> int:
    """Units of `left * right`."""
    for text, times in ((left, right), (right, left)):
        if hasattr(text, "__len__") and isinstance(times, int):
            return len(text) * max(times, 0)
    bits = sum(value.bit_length() for value in (left, right) if isinstance(value, int))
    if bits > 4096:
        raise LimitError("it makes a number of more than a thousand digits")
    return 1


def _check_text(name: str, text: Any, given: Sequence[Any]) -> None:
    """Pay for what a method of a text makes, before it is made."""
    if name == "format":
        _check_format(str(text), given)
    elif name == "join":
        _pay(sum(_size(each) + len(text) * _length(each) for each in given))
    elif name == "replace" and len(given) > 1:
        old, new = given[0], given[1]
        more = text.count(old) * _length(new) if isinstance(old, str) else 0
        _pay(len(text) + more)
    else:
        _pay(len(text) + sum(map(_length, given)))


def _metered(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what goes in and comes out."""
    wants = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def metered(context: Context, value: Any, /, *arguments: Any, **named: Any) -> Any:
        given = (*arguments, *named.values())
        if name in ("format", "replace") and isinstance(value, str):
            _check_text(name, value, given)
        else:
            largest = _check_numbers(given)
            times = largest * (1 + sum(map(_length, given))) if name in _TIMES else 1
            _pay(times * (_length if name in _SHALLOW else _size)(value))
        first = {
            "context": context,
            "eval_context": context.eval_ctx,
            "environment": context.environment,
        }
        front = () if wants is None else (first[wants],)
        result = function(*front, value, *arguments, **named)
        _pay(_length(result))
        return result

    return metered


@pass_context
def _turns(context: Context, values: Any, cost: int) -> Any:
    return Turns(values, cost) if hasattr(values, "__len__") else Turns(_listed(values), cost)


def _listed(values: Any) -> list[Any]:
    """The values of a generator, each paid."""
    found = []
    for value in values:
        _pay(1)
        found.append(value)
    return found


@pass_context
def _text(context: Context, value: Any) -> Any:
    _pay(_size(value))
    return value


@pass_context
def _concat(context: Context, values: list[Any]) -> str:
    _pay(sum(map(_size, values)))
    return "".join(map(str, values))


class Namespace(utils.Namespace):
    """Jinja's namespace without names that begin with an underscore, as in transformers."""

    def __init__(*given: Any, **named: Any) -> None:  # so that `namespace(self=...)` is allowed
        _refuse_private(dict(*given[1:], **named))
        utils.Namespace.__init__(*given, **named)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private((name,))
        super().__setitem__(name, value)


def _refuse_private(names: Iterable[Any]) -> None:
    if any(str(name).startswith("_") for name in names):
        raise LimitError("it stores a name that begins with an underscore")


def _dict(*given: Any, **named: Any) -> dict[Any, Any]:
    made = dict(*given, **named)
    _pay(_size(made))
    return made


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    if len(source) > SOURCE:
        raise LimitError(f"it is longer than {SOURCE} characters")
    return Environment().from_string(source)


def render(source: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """The text of a conversation in a chat template. Raises jinja2's errors, which templates also
    raise by themselves.
    """
    chat = [dict(message) for message in messages]
    token = _budget.set(None)
    try:
        template = _compiled(source)
        budget = Budget(_size(chat))
        _budget.set(budget)
        written = []
        for piece in template.generate(messages=chat, tools=None, documents=None, **variables):
            budget.pay(len(piece))
            written.append(piece)
        return "".join(written)
    finally:
        _budget.reset(token)
