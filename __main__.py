"""`python -m splitrail` is the command `splitrail`."""

import sys

from .launch.cli import main

sys.exit(main())
