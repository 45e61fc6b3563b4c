"""`python -m model.bank`."""

import sys

from model.bank.inspect import main

sys.exit(main())
