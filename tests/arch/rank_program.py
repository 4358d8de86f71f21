"""A rank that knows one more engine: `rank_program.py rank --config FILE`."""

import sys

from splitrail.launch.cli import main
from splitrail.stages.engines.registry import EngineKind, register_engine

# This file's folder is the first of sys.path, here and in the processes that try engines.
register_engine(EngineKind("plain", "plain_engine:open_engine", "numpy", "none", ("fp32",), automatic=False))

if __name__ == "__main__":
    sys.exit(main())
