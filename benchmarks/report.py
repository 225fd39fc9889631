"""`python -m benchmarks.report`: the same as `python -m xrisk_ext bench`."""

import sys

from xrisk_ext.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
