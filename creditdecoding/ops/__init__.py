"""Vocabulary statistics: the only code that walks whole rows of logits."""
