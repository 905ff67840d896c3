"""`python -m apikley_async` is the command `apikley`."""

import sys

from apikley_async.cli import main

if __name__ == "__main__":
    sys.exit(main())
