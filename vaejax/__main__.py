"""`python -m vaejax`."""

import sys

from vaejax.cli import main

if __name__ == "__main__":
    sys.exit(main())
