"""The value model: scoring, fitting, metrics."""
