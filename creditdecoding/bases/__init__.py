"""Autoregressive models that adapters start from: read from GGUF files, fetched by name."""
