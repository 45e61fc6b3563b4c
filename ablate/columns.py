"""`python -m ablate.columns`: print docs/reference/columns.md."""

import sys

from ablate.reference import columns

if __name__ == "__main__":
    sys.stdout.write(columns.page())
