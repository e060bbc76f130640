"""Lets the tests import the package wherever they are run."""

import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.append(root)
