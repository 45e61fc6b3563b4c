"""A study as a whole: found, opened, locked, planned (dry run, power), trained phase by phase, and read into memory.

`study.json` records what was asked; what may change later under the same name is in `compatibility`.
"""
