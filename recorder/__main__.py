"""`python -m recorder`: the command line."""

import sys

from recorder.cli import main

if __name__ == "__main__":
    sys.exit(main())
