"""Constraints on answers: choices, regular expressions and JSON schemas, for tokens that are
written in any order.

    budget     limits on the work that a constraint may take
    language   what texts are allowed, as a small tree
    regex      a pattern as a language
    numerals   numbers between bounds as a language
    schema_keywords  the keywords of schemas that are read
    schema_node  a schema inside of a whole one
    schema_drafts  which keywords it may have
    schema_numbers  what its bounds and constants allow
    schema_overlap  whether options of a oneOf may overlap
    schema_skeletons  whether its parts write the same objects
    json_schema  a schema as a language
    automaton  a language as an automaton over bytes
    tokens     that automaton over the ids of a vocabulary, and which ids may stand where
    constraint  what a request asks for, compiled
"""
