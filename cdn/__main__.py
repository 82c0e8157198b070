"""Lets ``python -m cdn`` do what the command ``cdn`` does."""

from __future__ import annotations

import sys

from cdn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
