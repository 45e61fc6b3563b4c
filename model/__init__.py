"""The thing under study: a token-memory language model and its trainer. Knows nothing of Ray."""
