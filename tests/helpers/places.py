"""Where tests find this checkout, and beside it the real data and answers that some of them
need."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
SHARED = ROOT.parent / "shared"
MIRROR = SHARED / "hub"
OUTPUTS = SHARED / "outputs"
