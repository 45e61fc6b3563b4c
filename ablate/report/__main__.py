"""`python -m ablate.report`."""

import sys

from ablate.cli import guarded
from ablate.report.writer import main

sys.exit(guarded(main))
