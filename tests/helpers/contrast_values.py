"""The key `contrasts` of a study file, for the studies of `study_values` and `planted_study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from planted_study import write_planted

from shaped_trl.study.report import report_study

SMALL: dict[str, Any] = {
    "primary": {"stage": "eval", "benchmark": "problems", "metric": "avg@4"},
    "margin": 0.015,
    "claims": {
        "precision": {
            "text": "A precision prior gives better RL",
            "compare": [{"arm": "precision", "against": "cross_entropy"}],
        }
    },
}
_AFTER = {"stage": "eval_rlvr", "benchmark": "running_sums"}
PLANTED: dict[str, Any] = {
    "primary": {**_AFTER, "metric": "avg@8"},
    "margin": 0.05,
    "secondary": [
        {**_AFTER, "metric": "cons@8"},
        {"stage": "rlvr", "metric": "reward"},
        {"stage": "pretrain", "metric": "entropy"},
    ],
    "claims": {
        "precision_rl": {
            "text": "A precision prior gives better RL.",
            "compare": [
                {"arm": "precision_product", "against": "cross_entropy"},
                {"arm": "precision_product", "against": "cooled"},
            ],
        },
        "tail": {
            "text": "Tail suppression helps RL",
            "compare": [{"arm": "tail_penalty", "against": "cross_entropy"}],
        },
        "tuned": {
            "text": "The best precision arm beats the best without a prior",
            "compare": [
                {
                    "arm": ["precision_product", "diversity_product"],
                    "against": ["cross_entropy", "cooled"],
                    "choose_on": 4,
                }
            ],
        },
    },
    "sd": {"P": 0.02},
}


def contrasted_report(folders: pytest.TempPathFactory, **changes: Any) -> Path:
    """The folder of the planted study with contrasts and its report."""
    out = folders.mktemp("contrasted") / "planted"
    write_planted(out)
    values = yaml.safe_load((out / "study.yaml").read_text())
    values["contrasts"] = PLANTED | changes
    (out / "study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    report_study(out)
    return out
