"""Ablations of credit: comparisons offer them; the server, SGLang and the decoder list do not."""
