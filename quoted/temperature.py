"""The shares of a gain that `docs/temperature_share.py` computes, in percent."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import NamedTuple

from quoted.pages import ROOT
from quoted.values import Interval

SCRIPT = ROOT / "docs" / "temperature_share.py"


class Shares(NamedTuple):
    """A share with its two intervals."""

    bootstrap: Interval
    fieller: Interval


def _script() -> ModuleType:
    """The script, which is not in a package."""
    specification = importlib.util.spec_from_file_location("temperature_share", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def _shares() -> dict[tuple[str, str], Shares]:
    found = {}
    for study, regime in script.STUDIES:
        arms = script.rewards(study, regime)
        base = arms["cross_entropy"]
        share = script.share(arms["matched_temperature"] - base, arms["precision_product"] - base)
        found[study, regime] = Shares(
            *(
                Interval(100 * share.value, *(100 * float(end) for end in interval))
                for interval in (share.bootstrap, share.fieller)
            )
        )
    return found


script = _script()
shares = _shares()
