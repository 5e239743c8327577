"""Which keywords a schema may have: those that are read, and that its draft has.

A keyword of a later draft is unknown to an earlier one, where no instance breaks it: `prefixItems`
under draft-07 says nothing of an array, and `items` holds for its first items too.
"""

from __future__ import annotations

import re
from typing import Any

from creditdecoding.constraints.schema_keywords import KNOWN, NEUTRAL
from creditdecoding.constraints.schema_node import SchemaNode
from creditdecoding.errors import short_repr

DRAFTS = ("draft-04", "draft-06", "draft-07", "draft/2019-09", "draft/2020-12")
"""As `$schema` names them; without one a schema is of the last."""
FIRST_DRAFT = {
    "const": "draft-06",
    "exclusiveMinimum": "draft-06",
    "exclusiveMaximum": "draft-06",
    "prefixItems": "draft/2020-12",
}
"""By keyword, the first draft in which it means what it means here; all have the others."""
_SCHEMA_URL = re.compile(rf"https?://json-schema\.org/({'|'.join(DRAFTS)})/schema#?")


def check_keywords(node: SchemaNode) -> None:
    """Raises `OptionError` for a keyword that cannot be read where it stands."""
    is_root = node.schema is node.root
    draft = _draft(node)
    for keyword in node.schema:
        if keyword not in KNOWN and not _is_neutral(keyword, node.schema):
            raise node.refuse(f"has the unsupported keyword {short_repr(keyword)}", "Drop it.")
        if keyword in ("$id", "$schema") and not is_root:
            what = f"has {keyword} below the root: {short_repr(node.schema[keyword])}"
            raise node.refuse(what, "Drop it: references and keywords are read as the root's.")
        first = FIRST_DRAFT.get(keyword, DRAFTS[0])
        if DRAFTS.index(first) > DRAFTS.index(draft):
            what = f"has the keyword {keyword!r} of {first}, but $schema declares {draft}"
            raise node.refuse(what, f"Declare {first} or later, or drop the keyword.")


def _draft(node: SchemaNode) -> str:
    """The draft that the whole schema declares."""
    declared = node.root.get("$schema", f"https://json-schema.org/{DRAFTS[-1]}/schema")
    url = _SCHEMA_URL.fullmatch(declared) if isinstance(declared, str) else None
    if url is None:
        what = f"declares a $schema that is not supported: {short_repr(declared)}"
        hint = f"Drop it, or use https://json-schema.org/NAME/schema with {', '.join(DRAFTS)}."
        raise node.refuse(what, hint)
    return url[1]


def _is_neutral(keyword: str, schema: dict[str, Any]) -> bool:
    """Whether no answer breaks this keyword, though it is not read."""
    if keyword == "unevaluatedProperties":
        return schema[keyword] is False and "properties" in schema
    return (keyword, schema[keyword]) in NEUTRAL
