"""The report of a study: results.json, report.md, report.html, pictures and their numbers.

Everything is computed from the rows of the runs, not from their own reports, and no clock is read:
the same rows give the same bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic
from shaped_eval.reporting.document import Block, Image, to_html, to_markdown
from shaped_eval.reporting.plots import to_png
from shaped_eval.untrusted.files import own_folder

from shaped_trl.study.loading import load_study
from shaped_trl.study.records import take_over
from shaped_trl.study.reporting.by_step.charts import step_charts
from shaped_trl.study.reporting.charts import charts, csv_of
from shaped_trl.study.reporting.claim_figure import figure_csv, plot_claims
from shaped_trl.study.reporting.contrast_pages import first_screen
from shaped_trl.study.reporting.drawing import plot_chart
from shaped_trl.study.reporting.forest import NAME, forest_csv, forest_rows, plot_forest
from shaped_trl.study.reporting.opening import claim_figure, opening
from shaped_trl.study.reporting.pages import Picture, blocks
from shaped_trl.study.reporting.reading import RegimeRuns
from shaped_trl.study.reporting.results import collect, read_regimes


def report_study(folder: str | Path, pass_at: Sequence[int] | None = None) -> Path:
    """Write the report of the study in `folder` (where study.yaml lies) and return the page's path.

    Runs that are not done are named and left out. `pass_at` chooses the k of the tables (by default
    1, 8, 64, 128 and n). The numbers of a picture ``report/NAME.png`` are in ``report/NAME.csv``.

    Raises:
        UserError: the folder has no study, or a k is above the number of samples.
    """
    folder = Path(folder)
    if not (folder / "study.yaml").is_file():
        raise UserError(f"{folder}: no study.yaml; give the output folder of `shaped-trl study`")
    study = load_study(folder / "study.yaml", folder).named_by_form()
    take_over(study.out)
    regimes = read_regimes(study)
    results = collect(regimes, pass_at)
    beside = own_folder(folder, "report")
    content = json.dumps(_strict(results), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / "results.json", content + "\n")
    arms = list(study.arms)
    exploratory = {name for name, arm in study.arms.items() if arm.exploratory}
    pictures = [
        Picture(chart, to_png(plot_chart(chart, arms, exploratory)))
        for chart in [*charts(regimes, results), *step_charts(regimes)]
    ]
    for picture in pictures:
        write_atomic(folder / picture.path, picture.png)
        write_atomic(beside / f"{picture.chart.name}.csv", csv_of(picture.chart))
    document = [*_first_screen(folder, regimes, results), *blocks(study, results, pictures)]
    title = f"Study: {study.name}"
    write_atomic(folder / "report.md", to_markdown(title, document))
    write_atomic(folder / "report.html", to_html(title, document))
    return folder / "report.html"


def _strict(value: Any) -> Any:
    """The value with null for each number that is not finite, since JSON has none."""
    if isinstance(value, dict):
        return {name: _strict(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _first_screen(
    folder: Path, regimes: Sequence[RegimeRuns], results: Mapping[str, Any]
) -> list[Block]:
    """Write the figure of the verdicts, and return what the report shows before all else."""
    if "contrasts" in results:
        rows = forest_rows(results)
        png = to_png(plot_forest(rows))
        write_atomic(folder / f"report/{NAME}.png", png)
        write_atomic(folder / f"report/{NAME}.csv", forest_csv(rows))
        return [*opening(regimes, results, None), *first_screen(results, png)]
    found = claim_figure(regimes, results)
    if found is None:
        return opening(regimes, results, None)
    image = Image(f"report/{found.name}.png", found.caption, to_png(plot_claims(found)))
    write_atomic(folder / image.path, image.png)
    write_atomic(folder / f"report/{found.name}.csv", figure_csv(found))
    return opening(regimes, results, image)
