"""vLLM: the plug-in, the model state with our rules as its sampler, and the models that use it."""
