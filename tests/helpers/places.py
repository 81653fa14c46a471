"""Where tests find this checkout, and beside it the real data and answers that some of them
need."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
SHARED = ROOT.parent / "shared"
# a mirror that `shaped-trl mirror` has written will do as well
MIRROR = Path(os.environ.get("SHAPED_TRL_HUB_MIRROR") or SHARED / "hub")
OUTPUTS = SHARED / "outputs"
