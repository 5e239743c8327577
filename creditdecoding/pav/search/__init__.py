"""Search with a value model."""
