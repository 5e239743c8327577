"""The embedded model and a server of it, for all tests of the server."""

from tests.helpers.serving import lm, served

__all__ = ["lm", "served"]
