"""docs/reference/: pages written from the code that parses what they describe, so that they cannot drift from it.

`python -m ablate.reference` writes them; `--check` says which are stale.
"""
