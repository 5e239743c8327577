"""Ablations of credit. Comparisons offer them; the server, SGLang and the list of decoders do not."""
