"""A token-memory language model and its trainer: what `ablate` studies. Imports nothing of `ablate` and no Ray."""
