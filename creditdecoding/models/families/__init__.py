"""One file a model family: how its config.json and weight names map to ours."""
