"""What `shaped-trl` prints about itself, and how its commands read their words."""

from __future__ import annotations

import argparse
import textwrap

from shaped_eval.errors import UserError

USAGE = """\
usage: shaped-trl COMMAND [ARGUMENTS]

Shape a language model's token distribution before reinforcement learning, and
measure whether it paid.

Train:
  train      pre-train or mid-train with the reward-shaped next-token loss
  rlvr       train by reinforcement learning with verifiable rewards: TRL's
             GRPO with clip-higher and dynamic sampling
  merge      merge a LoRA adapter into its base model

Evaluate:
  eval       sample, grade and report in one command
  sample     sample completions of benchmark problems into samples.jsonl
  grade      grade samples.jsonl, and write verdicts.jsonl
  report     turn verdicts.jsonl into results.json, report.md and report.html
  compare    compare runs on the same problems, with paired differences, or
             plan how many problems and samples would show one
  view       browse the samples of runs in a browser
  mirror     copy data sets of the Hub into a folder, for machines without a
             network

Studies and recipes:
  demo       pre-train three small models, run RL on each and evaluate them,
             on a CPU in minutes
  study      run a grid of training and evaluation runs, and write one report
  recipes    list the shipped recipes, or copy one to edit it

This installation:
  env        print versions, devices and sandbox support, for bug reports
  --version  print the version

`shaped-trl COMMAND --help` explains a command. `shaped-trl demo` is a first
run that needs no data, no model and no network.
"""


def take_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Split `--config RECIPE` (or `--config=RECIPE`) off the words after a command.

    Raises:
        UserError: nothing follows --config.
    """
    rest: list[str] = []
    config: str | None = None
    words = iter(argv)
    for word in words:
        if word == "--config":
            config = next(words, None)
            if config is None:
                raise UserError("--config needs a value: the path or the name of a recipe")
        elif word.startswith("--config="):
            config = word.partition("=")[2]
        else:
            rest.append(word)
    return config, rest


class _Paragraphs(argparse.HelpFormatter):
    """Wraps the description paragraph by paragraph, and leaves examples, which are indented.

    Names with a hyphen are not broken.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            line if line.startswith("  ") else textwrap.fill(line, width, break_on_hyphens=False)
            for line in text.splitlines()
        )

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def argparser(command: str, description: str) -> argparse.ArgumentParser:
    """The parser of one command.

    Args:
        command: its name.
        description: what it does, a paragraph a line; lines that begin with two spaces are examples
            and stay as they are.

    Raises:
        UserError: when it parses words that it does not know.
    """
    parser = argparse.ArgumentParser(
        f"shaped-trl {command}",
        description=description,
        formatter_class=_Paragraphs,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="Show this help and exit.")

    def refuse(message: str) -> None:
        raise UserError(f"{command}: {message}; see `shaped-trl {command} --help`")

    parser.error = refuse  # type: ignore[method-assign,assignment]
    return parser
