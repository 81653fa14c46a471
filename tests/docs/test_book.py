"""The book as it is written: its navigation, its links, its generated pages, and its figures.

`test_book_in_browser.py` builds it.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_pages import broken_links, code, targets
from places import ROOT
from shaped_kernels import RewardShape

from shaped_trl import recipes
from shaped_trl.cli import COMMANDS, main
from shaped_trl.help.show import OPTION, PAGES, read_page
from shaped_trl.study.loading import load_study

DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
ELSEWHERE = re.compile(r"^(?:https?:)?//")


def script(path: str):
    """A script of `docs/`, which is not in a package."""
    specification = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


sources, reference, formulas = (
    script(f"hooks/{name}.py") for name in ("sources", "reference", "formulas")
)
draw_shapes = script("draw_shapes.py")
INCLUDED = sources.INCLUDED | sources.records()
SHOWN = [*sorted(DOCS.rglob("*.md")), *(ROOT / path for path in INCLUDED.values())]


def entries(nav) -> list[str]:
    """The pages of the navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    below = nav.values() if isinstance(nav, dict) else nav
    return list(chain.from_iterable(map(entries, below)))


def test_the_navigation_has_every_page_once():
    written = [str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")]
    folders = {"commands/*", "records/*"}  # stand for all pages that are made of a kind
    outside = {page for page in INCLUDED if not page.startswith("records/")}
    assert sorted(entries(CONFIG["nav"])) == sorted([*written, *outside, *folders])
    assert len(sources.records()) > 10


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_snippets_import_is_there(page):
    for line in "".join(code("python", page)).splitlines():
        if line.startswith(("from shaped_", "import shaped_")):
            exec(line, {})


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading\n\n[a](#a-heading) [b](#other) ![c](c.png) [d](https://d.example)")
    assert broken_links(page) == ["#other", "c.png"]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_loads_nothing_from_elsewhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"!\[[^\]]*\]\((?:https?:)?//", text)
    assert not re.search(r"<(?:img|script|link|iframe|video|object|embed)\b", text)


def test_the_theme_loads_nothing_from_elsewhere():
    assert CONFIG["theme"]["font"] is False
    assert {"search", "offline"} <= {*map(str, CONFIG["plugins"])}
    own = [*CONFIG["extra_css"], *CONFIG["extra"]["polyfills"], *CONFIG.get("extra_javascript", [])]
    for path in own:
        assert not ELSEWHERE.match(path)
        text = (DOCS / path).read_text(encoding="utf-8")
        program = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        assert not re.search(r"https?:|@import|url\(", program)
    for figure in DOCS.rglob("*.svg"):
        text = figure.read_text(encoding="utf-8")
        assert not re.search(r'href="(?!#)', text)
        assert not re.search(r"<(?:script|style>@import|image|foreignObject)\b", text)


def test_every_command_has_a_page_with_all_of_its_options():
    pages = reference.command_pages()
    assert {f"commands/{command}.md" for command in COMMANDS} <= pages.keys()
    for page in PAGES.glob("*.txt"):
        listed = [line for line in read_page(page.stem).splitlines() if line.startswith(OPTION)]
        text = pages[f"commands/{page.stem}.md"]
        assert listed
        for line in listed:
            name, _, value = line.partition(" ")
            assert f"\n`{name}`" + (f" `{value}`" if value else "") + "\n" in text
    assert "--publish_to" in pages["commands/report.md"]  # of a parser without a written page


def test_every_recipe_stands_there_with_its_settings():
    text = reference.list_of_recipes()
    sections = dict(re.findall(r"(?ms)^### (\S+)\n(.*?)(?=^##|\Z)", text))
    assert [*sections] == recipes.names()
    for name, section in sections.items():
        (block,) = re.findall(r"(?ms)^    ```yaml\n(.*?)^    ```$", section)
        settings = yaml.safe_load(re.sub(r"(?m)^    ", "", block))
        assert settings == yaml.safe_load((recipes.ROOT / f"{name}.yaml").read_text("utf-8"))
        plain = re.sub(r"\\(.)", r"\1", section).replace("&lt;", "<").replace("&gt;", ">")
        assert recipes.contract(name) in plain.replace("&amp;", "&")


def test_errors_are_as_the_page_shows_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "guides/errors.md").read_text(encoding="utf-8")
    shown = re.findall(r"(?m)^\$ shaped-trl (.*)\n(.*)$", text)
    assert len(shown) == 3
    for command, line in shown:
        assert main(command.split()) == 2
        assert capsys.readouterr().err.strip() == line


def test_the_loss_of_the_guide_runs():
    (block,) = [
        text for text in code("python", DOCS / "guides/own-trainer.md") if "metrics=" in text
    ]
    found: dict = {}
    exec(block, found)
    assert found["head"].grad.shape == (8192, 64)
    assert found["output"].loss > 0


def test_the_study_of_the_guide_is_valid(tmp_path):
    (block,) = [text for text in code("yaml", DOCS / "guides/studies.md") if "seeds:" in text]
    (tmp_path / "mine.yaml").write_text(block)
    study = load_study(str(tmp_path / "mine.yaml"), str(tmp_path / "out"))
    assert [*study.arms] == ["cross_entropy", "precision"]
    assert len(study.stages) == 4


def test_formulas_become_mathml_and_code_stays():
    html = r'<p><span class="arithmatex">\(a &lt; \frac{1}{b}\)</span> <code>\(x\)</code></p>'
    drawn = formulas.on_page_content(html)
    assert "<mfrac>" in drawn
    assert "&lt;" in drawn or "&#x0003C;" in drawn
    assert "arithmatex" not in drawn
    assert drawn.endswith(r"<code>\(x\)</code></p>")
    block = formulas.on_page_content('<div class="arithmatex">\\[\n\\sum_a p_a\n\\]</div>')
    assert 'display="block"' in block


@pytest.mark.parametrize("form", draw_shapes.FORMS)
@pytest.mark.parametrize("beta", [-0.25, 0.5])
def test_the_figure_of_beta_is_at_the_fixed_point(form, beta):
    """p_j is proportional to d_j·w(p_j), where w is Eq. 11's."""
    data = draw_shapes.DATA_V
    p = draw_shapes.fixed_point(data, RewardShape(beta, positive=form))
    w = p * (1 / p) ** ((1 - p) ** beta) if form == "exponent" else (1 - p) ** beta
    np.testing.assert_allclose(data * w / p, np.full_like(p, (data * w).sum()), rtol=1e-6)
    np.testing.assert_allclose(draw_shapes.weight(p, beta, form), w)
    assert np.abs(p / data - 1).max() > 0.01


@pytest.mark.parametrize("name", draw_shapes.LAMBDAS)
def test_the_figure_of_lambda_is_at_the_fixed_point(name):
    """The policy gradient of Eq. 5 by enumeration, averaged over the data, is 0."""
    shape, _ = draw_shapes.LAMBDAS[name]
    data = draw_shapes.DATA_V
    p = draw_shapes.fixed_point(data, shape)
    head = np.isin(np.arange(len(p)), np.argsort(-p)[: shape.top_k])
    gradient = np.zeros_like(p)
    for target, share in enumerate(data):
        r = np.where(head, shape.lambda_head, shape.lambda_tail)
        r[target] = 1 / p[target]
        gradient += share * p * (r - (p * r).sum())
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


def test_the_figures_are_drawn_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw_shapes.py"])
    draw_shapes.main(["--out", str(tmp_path)])
    drawn = sorted(path.name for path in tmp_path.glob("*.svg"))
    used = {Path(target).name for target in targets(DOCS / "concepts" / "loss.md")}
    assert drawn == ["beta.svg", "lambda.svg", "weights.svg"]
    assert used >= {*drawn}
