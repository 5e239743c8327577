"""Chat templates, rendered as transformers renders them, under a limit of work.

A template comes with a checkpoint and runs in our process. Jinja's sandbox keeps it away from our
objects, but does not stop endless loops or texts that fill memory. Here every loop turn, call,
filter and operator is charged to a budget by the size of its input and output, before the work is
done where it could be large. A rendering cannot be interrupted from outside.
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

MAX_SECONDS = 5.0
"""The most time that rendering one conversation may take."""

BASE_UNITS = 2**22
"""Units of work that a template may do; a character is one unit."""

UNITS_PER_CHARACTER = 256
"""More units for each character of the conversation."""

CALL_UNITS = 64
"""The price of a loop turn or a call."""

MEMBER_UNITS = 4
"""The price of looking at a member of a list."""

MAX_SOURCE = 2**20
"""Characters of a template's source."""

MAX_NUMBER = 10_000
"""The largest whole number as an argument of a call: a width, a repetition or a depth."""


def _name_set(names: str) -> frozenset[str]:
    return frozenset(names.split())


_STRING_METHODS = _name_set(
    """
    capitalize count endswith find format index isalnum isalpha isascii isdecimal isdigit
    islower isnumeric isspace istitle isupper join lower lstrip partition removeprefix
    removesuffix replace rfind rindex rpartition rsplit rstrip split splitlines startswith strip
    swapcase title upper
    """
)
_REMOVED_FILTERS = frozenset(
    ["center", "filesizeformat", "forceescape", "pprint", "random", "urlize", "wordwrap", "xmlattr"]
)
_SHALLOW_FILTERS = _name_set(
    """
    abs attr batch count d default dictsort first float groupby int items last length list map
    max min reject rejectattr reverse round select selectattr slice sort sum unique
    """
)
"""Filters that look at a list without looking into its members."""

_REPEATING_FILTERS = frozenset(("indent", "join", "tojson"))
"""Filters that repeat their arguments in what they make."""

_WIDE_FORMAT = re.compile(r"%[^a-zA-Z%]*?(\d{4}|\*)|\{[^}]*\d{4}|\}\d{4,}[^{]*\}")
"""Format fields that are a thousand characters wide or wider."""

_CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class LimitError(TemplateError):
    """A template does more than it may."""


class RenderBudget:
    """The work that one rendering may still do."""

    def __init__(self, characters: int) -> None:
        self.units = BASE_UNITS + UNITS_PER_CHARACTER * characters
        self.deadline = time.monotonic() + MAX_SECONDS

    def charge(self, units: int) -> None:
        """Take `units` and the price of a call. Raises `LimitError` when units or time run out."""
        self.units -= units + CALL_UNITS
        if self.units < 0 or time.monotonic() > self.deadline:
            raise LimitError("it does too much work: an endless loop, or a text without end")


_budget: ContextVar[RenderBudget | None] = ContextVar("budget", default=None)


def render(source: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """The text of a conversation in a chat template. Raises jinja2's errors, which templates also
    raise themselves.
    """
    chat = [dict(message) for message in messages]
    token = _budget.set(None)
    try:
        template = _compiled(source)
        budget = RenderBudget(_size(chat))
        _budget.set(budget)
        pieces = []
        for piece in template.generate(messages=chat, tools=None, documents=None, **variables):
            budget.charge(len(piece))
            pieces.append(piece)
        return "".join(pieces)
    finally:
        _budget.reset(token)


def render_to_continue(source: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """The text of a conversation up to the end of its last message, which the model continues.

    Works as `continue_final_message` of transformers. Raises as `render`.
    """
    *earlier, last = messages
    text = render(
        source, [*earlier, {**last, "content": last["content"] + _CONTINUE_TAG}], **variables
    )
    end = text.rfind(_CONTINUE_TAG.strip())
    if end < 0:
        raise TemplateError("it leaves out the end of the last message, which is to be continued")
    kept = text[:end]
    return kept if text.startswith(_CONTINUE_TAG, end) else kept.rstrip()


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    if len(source) > MAX_SOURCE:
        raise LimitError(f"it is longer than {MAX_SOURCE} characters")
    return MeteredEnvironment().from_string(source)


class MeteredEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with every operation charged to the budget."""

    intercepted_binops = frozenset(("*", "**", "+", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            extensions=[GenerationTag, loopcontrols],
        )
        self.filters = {
            name: _metered_filter(name, function)
            for name, function in self.filters.items()
            if name not in _REMOVED_FILTERS
        }
        self.filters["tojson"] = _metered_filter("tojson", _tojson)
        self.filters |= {
            "metered_turns": _metered_turns,
            "metered_value": _metered_value,
            "metered_concat": _metered_concat,
        }
        self.globals = {name: self.globals[name] for name in ("range", "cycler", "joiner")}
        self.globals |= {"dict": _metered_dict, "namespace": PublicNamespace}
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        metered: nodes.Template = MeteringTransformer().visit(tree)
        return metered

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Apply an operator whose result may be large."""
        if operator == "%" and isinstance(left, (str, bytes)):
            _charge_format(str(left), right if isinstance(right, tuple) else (right,))
        elif operator == "+":
            _charge(_length(left) + _length(right))
        elif operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise LimitError("it raises a number to a power above 64")
        elif operator in ("*", "**"):
            _charge(_product_units(left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Call a function, a macro or a method."""
        values = (*arguments, *named.values())
        method = getattr(function, "__wrapped__", function)  # the sandbox wraps `format`
        owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(owner, (str, bytes)):
            if name not in _STRING_METHODS:
                raise LimitError(f"it calls {name} of a text, which is not allowed")
            _check_numbers(values)
            _charge_string_method(name, owner, values)
        else:
            members = _length(owner) if isinstance(owner, (list, tuple, dict)) else 0
            _charge(members + sum(map(_length, values)))
        result = super().call(context, function, *arguments, **named)
        _charge(_length(result))
        return result


class MeteringTransformer(NodeTransformer):
    """Wraps loops, output, literals and `~` of a parsed template in filters that charge."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        text_size = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "metered_turns", nodes.Const(text_size))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Output:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [
            child if isinstance(child, nodes.TemplateData) else _filtered(child, "metered_value")
            for child in node.nodes
        ]
        return node

    def _literal(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "metered_value")

    visit_List = visit_Dict = _literal  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:  # noqa: N802
        return self._literal(node) if node.ctx == "load" else self.generic_visit(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _filtered(nodes.List(list(node.nodes), lineno=node.lineno), "metered_concat")


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


class GenerationTag(Extension):
    """The tag that marks an assistant's message for training; its body is rendered unchanged."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements inside the tag."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class MeteredTurns:
    """A loop's values; every turn is charged."""

    def __init__(self, values: Any, units: int) -> None:
        self.values = values
        self.units = units

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        for value in self.values:
            _charge(self.units)
            yield value


class PublicNamespace(utils.Namespace):
    """Jinja's namespace without names that begin with an underscore, as in transformers."""

    def __init__(*values: Any, **named: Any) -> None:  # so that `namespace(self=...)` is allowed
        _refuse_private(dict(*values[1:], **named))
        utils.Namespace.__init__(*values, **named)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private((name,))
        super().__setitem__(name, value)


def _refuse_private(names: Iterable[Any]) -> None:
    if any(str(name).startswith("_") for name in names):
        raise LimitError("it stores a name that begins with an underscore")


def _charge(units: int) -> None:
    budget = _budget.get()
    assert budget is not None, "a template ran outside of render()"
    budget.charge(units)


def _length(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 1


def _size(value: Any) -> int:
    """Characters and members of a value and everything in it; stops once the budget is exceeded."""
    if isinstance(value, (str, bytes)):
        return len(value)
    budget = _budget.get()
    enough = BASE_UNITS if budget is None else budget.units
    size = 0
    stack = [value]
    while stack and size <= enough:
        member = stack.pop()
        size += MEMBER_UNITS
        if isinstance(member, int):
            size += member.bit_length() // 3
        if not isinstance(member, (str, bytes, Mapping, list, tuple, set, frozenset)):
            continue
        size += len(member)
        if isinstance(member, (str, bytes)) or len(member) > enough:
            continue
        stack += member
        if isinstance(member, Mapping):
            stack += member.values()
    return size


def _check_numbers(values: Sequence[Any]) -> int:
    """The largest whole number among arguments. Raises `LimitError` for one above MAX_NUMBER."""
    largest = max((abs(value) for value in values if isinstance(value, int)), default=1)
    if largest > MAX_NUMBER:
        raise LimitError(f"it calls something with a number above {MAX_NUMBER}")
    return largest


def _product_units(left: Any, right: Any) -> int:
    """Units of `left * right`."""
    for text, times in ((left, right), (right, left)):
        if hasattr(text, "__len__") and isinstance(times, int):
            return len(text) * max(times, 0)
    bits = sum(value.bit_length() for value in (left, right) if isinstance(value, int))
    if bits > 4096:
        raise LimitError("it makes a number of more than a thousand digits")
    return 1


def _charge_format(text: str, arguments: Sequence[Any]) -> None:
    """Charge for a text into which `arguments` are put, before it is made."""
    if _WIDE_FORMAT.search(text):
        raise LimitError("it pads a text to a great width")
    fields = text.count("{") + text.count("%")
    _charge(len(text) + fields * sum(map(_size, arguments)))


def _charge_string_method(name: str, text: Any, arguments: Sequence[Any]) -> None:
    """Charge for the result of a string's method, before it is made."""
    if name == "format":
        _charge_format(str(text), arguments)
    elif name == "join":
        _charge(sum(_size(parts) + len(text) * _length(parts) for parts in arguments))
    elif name == "replace" and len(arguments) > 1:
        old, new = arguments[0], arguments[1]
        added = text.count(old) * _length(new) if isinstance(old, str) else 0
        _charge(len(text) + added)
    else:
        _charge(len(text) + sum(map(_length, arguments)))


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja that charges for its input and output."""
    first_argument = getattr(getattr(function, "jinja_pass_arg", None), "name", None)

    @pass_context
    def metered(context: Context, value: Any, /, *arguments: Any, **named: Any) -> Any:
        values = (*arguments, *named.values())
        if name in ("format", "replace") and isinstance(value, str):
            _charge_string_method(name, value, values)
        else:
            largest = _check_numbers(values)
            times = largest * (1 + sum(map(_length, values))) if name in _REPEATING_FILTERS else 1
            _charge(times * (_length if name in _SHALLOW_FILTERS else _size)(value))
        passed = {
            "context": context,
            "eval_context": context.eval_ctx,
            "environment": context.environment,
        }
        leading = () if first_argument is None else (passed[first_argument],)
        result = function(*leading, value, *arguments, **named)
        _charge(_length(result))
        return result

    return metered


@pass_context
def _metered_turns(context: Context, values: Any, units: int) -> Any:
    return MeteredTurns(values if hasattr(values, "__len__") else _as_list(values), units)


def _as_list(values: Any) -> list[Any]:
    """The values of a generator, each charged."""
    listed = []
    for value in values:
        _charge(1)
        listed.append(value)
    return listed


@pass_context
def _metered_value(context: Context, value: Any) -> Any:
    _charge(_size(value))
    return value


@pass_context
def _metered_concat(context: Context, values: list[Any]) -> str:
    _charge(sum(map(_size, values)))
    return "".join(map(str, values))


def _metered_dict(*arguments: Any, **named: Any) -> dict[Any, Any]:
    made = dict(*arguments, **named)
    _charge(_size(made))
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
