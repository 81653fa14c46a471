"""`--help`: the committed pages are those of the parser, complete, quick, and wrapped."""

import dataclasses
import subprocess
import sys

import pytest
from shaped_eval.sampling.show import ShowOptions

from shaped_trl.cli import main
from shaped_trl.help import groups, write
from shaped_trl.help.show import OPTION, PAGES
from shaped_trl.help.write import OPTIONS, Page

COMMANDS = sorted(OPTIONS)


def option_names(text: str) -> list[str]:
    """The options that a page or its printed form lists, in order."""
    words = (line.split()[0] for line in text.splitlines() if line.strip().startswith(OPTION))
    return [word.removeprefix(OPTION) for word in words]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_committed_page_is_that_of_the_parser(command):
    committed = (PAGES / f"{command}.txt").read_text(encoding="utf-8")
    assert committed == Page(command).text(), "run `python -m shaped_trl.help.write`"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_and_the_rest_have_every_option_once(command):
    page = Page(command)
    first, rest = option_names(page.text()), option_names(page.rest())
    assert sorted([*first, *rest]) == sorted({*page.actions, "config"})
    assert page.own.keys() <= set(first)
    assert (command in ("train", "rlvr", "rlvr-async")) == bool(rest)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_text_of_whole_sentences(command):
    lines = Page(command).text().split("# Start here", 1)[1].splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(OPTION):
            assert following.startswith("    "), line
            assert following.endswith((".", "'.", "'")), following


def test_every_text_for_an_option_of_trl_is_used_and_needed():
    inherited = set()
    for command in COMMANDS:
        page = Page(command)
        inherited |= set(option_names(page.text())) - page.own.keys() - {"config", "shape"}
    assert inherited == groups.INHERITED.keys()


def test_an_option_without_a_group_is_an_error(monkeypatch):
    @dataclasses.dataclass
    class More(ShowOptions):
        new_option: int = 3

    More.__module__ = "shaped_trl.more"
    monkeypatch.setitem(write.OPTIONS, "sample", lambda: [*OPTIONS["eval"]()[:1], More])
    with pytest.raises(ValueError, match="new_option"):
        Page("sample").text()


def test_an_option_that_no_group_names_comes_last_in_the_group_of_its_class(monkeypatch):
    sampling = next(group for group in groups.SAMPLE if "SampleConfig" in group.classes)
    shorter = dataclasses.replace(sampling, names=sampling.names.replace("top_p ", ""))
    changed = tuple(shorter if group is sampling else group for group in groups.SAMPLE)
    monkeypatch.setitem(groups.GROUPS, "sample", changed)
    names = dict(Page("sample").groups())[sampling.heading]
    assert names[-1] == "top_p"


@pytest.mark.parametrize("command", ["train", "rlvr", "eval", "sample"])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys; from shaped_trl.cli import main; "
        f"assert main([{command!r}, '--help']) == 0; "
        "heavy = {'torch', 'transformers', 'trl', 'datasets', 'matplotlib', 'scipy', 'numpy'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Start here:" in done.stdout


@pytest.mark.parametrize("width", [50, 80, 120])
def test_help_is_wrapped_to_the_terminal(width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["train", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    # examples and the names of options are not broken
    texts = [line for line in lines if not line.startswith(("  shaped-trl", "  --"))]
    assert width - 20 < max(map(len, texts)) <= width
    assert not any(line.endswith(" ") for line in lines)


def test_help_all_has_the_options_of_trl(capsys):
    assert main(["train", "--help"]) == 0
    short = option_names(capsys.readouterr().out)
    assert main(["train", "--help", "all"]) == 0
    everything = option_names(capsys.readouterr().out)
    assert "adam_beta1" not in short
    assert everything[: len(short)] == short
    assert set(everything) == {*Page("train").actions, "config"}
