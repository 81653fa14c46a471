"""Which files outside `docs/` are pages of the book."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "recipes" / "studies" / "results"
# page of the book → file of the repository
INCLUDED = {
    "index.md": "README.md",
    "start/examples.md": "examples/README.md",
    "concepts/derivation.md": "kernels/README.md",
    "reference/recipes.md": "recipes/README.md",  # with a list of all recipes below it
    "reference/models.md": "shaped_trl/modeling/README.md",
    "reference/paper-models.md": "recipes/paper/README.md",
    "reference/programs.md": "eval_suite/shaped_eval/grading/code/programs.md",
    "contributing/index.md": "CONTRIBUTING.md",
    "contributing/security.md": "SECURITY.md",
    "contributing/changelog.md": "CHANGELOG.md",
}


def records() -> dict[str, str]:
    """Page → file, for what was written down of each study: a README, a report, or both."""
    found = sorted([*RESULTS.glob("*/README.md"), *RESULTS.glob("*/report.md")])
    return {_record_page(path): str(path.relative_to(ROOT)) for path in found}


def _record_page(path: Path) -> str:
    ending = "-report" if path.name == "report.md" else ""
    return f"records/{path.parent.name}{ending}.md"
