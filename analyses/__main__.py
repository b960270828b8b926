"""``python -m analyses``."""

import sys

from analyses.common.command import main

if __name__ == "__main__":
    sys.exit(main())
