"""The runner on Ray: Tune decides which trial runs when, Train runs it.

This is the only package that imports ray."""
