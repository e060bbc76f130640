"""Makes this agent package importable, so that its tests run in any working directory."""

import sys
from pathlib import Path

if (root := str(Path(__file__).resolve().parents[1])) not in sys.path:
    sys.path.append(root)
