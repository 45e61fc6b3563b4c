"""Anyone's trainer: a function or a command of the user's, as the `trainer:` section of a study file names it.

`settings` is the section, `trainer` implements the protocol, `function` and `command` run the user's code, `reporting`
checks what it reports. The user's code meets `trial` (what a function is given) and `emit` (`ablate.report`).
"""
