"""The pages that a newcomer follows: their commands and snippets run as they stand.

`page_runs.py` says what differs from the page, and its command does the same in a fresh clone with
an empty environment.
"""

import sys
import venv

import pytest
from page_runs import ADDED, TINY, blocks, file_name, prepare, program, run_page
from places import ROOT

PAGES = (
    "README.md",
    "docs/start/index.md",
    "docs/guides/own-benchmark.md",
    "docs/guides/own-reward.md",
    "docs/guides/continue-a-model.md",
)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run(page, tmp_path):
    prepare(tmp_path)
    outcomes = list(run_page(ROOT / page, tmp_path))
    failed = [(one.block.line, one.output[-2000:]) for one in outcomes if one.status == "failed"]
    assert not failed


@pytest.fixture
def page(tmp_path):
    """Writes a page, and gives its blocks."""

    def write(text: str):
        (tmp_path / "page.md").write_text(text, encoding="utf-8")
        return blocks(tmp_path / "page.md")

    return write


def test_blocks_know_their_lines_and_what_is_said_before(page):
    first, second = page("A\n\n```bash\npip x\n```\n\nIn `a.py` and `b.jsonl`:\n\n```\n{}\n```\n")
    assert (first.language, first.text, first.before, first.line) == ("bash", "pip x\n", "A", 3)
    assert (second.before, second.line) == ("In `a.py` and `b.jsonl`:", 9)
    assert (file_name(first), file_name(second)) == (None, "b.jsonl")


def test_files_are_what_the_page_says(page):
    python, yaml, unnamed = page(
        "```python\n# own.py\nx = 1\n```\n\nWrite `mine.yaml`:\n\n```yaml\na: 1\n```\n\n"
        "As in:\n\n```yaml\nb: 1\n```\n"
    )
    assert [file_name(one) for one in (python, yaml, unnamed)] == ["own.py", "mine.yaml", None]
    assert program(unnamed, installs=True) is None


def test_programs_have_substitutes_and_no_other_change(page):
    text = (
        "```\npip install -e .\nshaped-trl sample --show a.yaml\n"
        "shaped-trl train ... --x 1\nshaped-trl eval --model MODEL \\\n    --n 16\n```\n\n"
        "```\n--z_loss 1e-4\n```\n\n```python\nmodel('HuggingFaceTB/SmolLM2-135M')\n```\n"
    )
    shell, options, python = page(text)
    lines = ["shaped-trl sample --show a.yaml", f"shaped-trl eval --model {TINY} --n 16"]
    assert program(shell, installs=False).splitlines() == lines
    assert program(shell, installs=True).splitlines() == ["pip install -e .", *lines]
    assert program(options, installs=True) is None
    assert program(python, installs=False) == f"model('{TINY}')\n"


def test_some_commands_get_options(page):
    (block,) = page(
        "```bash\nshaped-trl rlvr --config gsm8k/rlvr --x 1  # why\nshaped-trl eval\n```\n"
    )
    added = " ".join(ADDED.values())
    expected = [f"shaped-trl rlvr --config gsm8k/rlvr --x 1 {added}  # why", "shaped-trl eval"]
    assert program(block, installs=False).splitlines() == expected


def test_a_block_that_fails_does_not_stop_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nopen('a', 'w').write(str(6 * 7))\nraise SystemExit(3)\n```\n\n"
        "```python\nprint(open('a').read())\n```\n\n```\npython -c 'print(1)'\nfalse\n```\n\n"
        "```\npython no_such_file.py\n```\n\n```python\n# b.py\n```\n"
    )
    found = [(one.status, one.output) for one in run_page(page, tmp_path)]
    assert found[:3] == [("written", ""), ("failed", ""), ("ran", "42\n")]
    assert found[3] == ("failed", "1\n")
    assert found[4][0] == "failed"
    assert "no_such_file.py" in found[4][1]
    assert (tmp_path / "b.py").read_text() == "# b.py\n"


def test_a_clone_has_an_environment_of_its_own(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\npython -c 'import os, sys; print(os.environ[\"VIRTUAL_ENV\"], sys.prefix)'\n```\n"
    )
    assert next(run_page(page, tmp_path)).output.split() == [sys.prefix, sys.prefix]
    venv.create(tmp_path / ".venv", symlinks=True)
    own = str(tmp_path / ".venv")
    assert next(run_page(page, tmp_path)).output.split() == [own, own]
