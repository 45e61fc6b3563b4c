"""A token-memory language model and its trainer: what `ablate` studies. Imports nothing of `ablate` and no Ray."""

from model.config.installation import keep_torch_tidy

keep_torch_tidy()  # before any module imports torch
