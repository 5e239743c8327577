"""Tools of the repository: test checkpoints, an environment with SGLang."""
