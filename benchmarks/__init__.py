"""Speed: what a forward pass, a decoder step, the engine and the server cost."""
