"""Interfaces of other projects, a module each. A module that needs its project raises
`MissingExtraError` without it.
"""
