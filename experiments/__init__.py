"""Finished studies, kept and tested, not part of the package."""
