"""`python -m ablate.columns`: the earlier name of `python -m ablate.reference.columns`, which prints that page."""

import runpy

if __name__ == "__main__":
    runpy.run_module("ablate.reference.columns", run_name="__main__")
