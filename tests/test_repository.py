"""What a repository has beside its code: workflows, templates, and pages that are not in the book."""

import re
import shlex

import pytest
import shaped_kernels
import yaml
from places import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PAGES = [ROOT / name for name in ("RELEASING.md", "SECURITY.md", "examples/README.md")]
MAKEFILE = (ROOT / "Makefile").read_text()


def commands(workflow) -> list[list[str]]:
    """The words of each line that a workflow runs."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    runs = [step["run"] for job in jobs for step in job["steps"] if "run" in step]
    return [shlex.split(line) for text in runs for line in text.splitlines()]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_what_a_workflow_runs_is_there(workflow):
    if workflow.stem == "docs" and not (ROOT / "mkdocs.yml").exists():
        pytest.skip("the book is not in this checkout")
    lines = commands(workflow)
    assert lines
    for program, *words in lines:
        if program == "make":
            assert all(re.search(rf"^{word}:", MAKEFILE, re.MULTILINE) for word in words), words
        for word in words:
            if word.startswith("tests/"):
                assert (ROOT / word).exists(), word


def test_the_workflows_have_each_python_that_is_supported():
    (tests,) = [path for path in WORKFLOWS if path.stem == "tests"]
    matrix = yaml.safe_load(tests.read_text())["jobs"]["default"]["strategy"]["matrix"]
    lowest = re.search(r'requires-python = ">=(.*)"', (ROOT / "pyproject.toml").read_text())[1]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert lowest == matrix["python"][0]


def test_a_workflow_may_only_read():
    for workflow in WORKFLOWS:
        settings = yaml.safe_load(workflow.read_text())
        assert settings["permissions"] == {"contents": "read"}
        assert "pull_request_target" not in settings[True]  # YAML's word for `on`


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [link for link in links if ":" not in link and not (page.parent / link).exists()]
    assert not missing


def test_the_changelog_begins_with_what_is_not_released():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(shaped_kernels.__version__)


def test_releasing_builds_what_the_workflow_builds():
    (workflow,) = [path for path in WORKFLOWS if path.stem == "distributions"]
    builds = {" ".join(line) for line in commands(workflow) if "build" in line[:3]}
    assert builds >= {"python -m build kernels --outdir dist", "python -m build . --outdir dist"}
    text = (ROOT / "RELEASING.md").read_text()
    assert all(line in text for line in builds if line.startswith("python"))
