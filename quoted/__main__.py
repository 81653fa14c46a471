"""`python -m quoted [--write]`: compare the pages with the records."""

from __future__ import annotations

import argparse
import sys

import quoted
from quoted.all_pages import PAGES
from quoted.pages import ROOT, compare


def main(argv: list[str] | None = None) -> int:
    """Print what is wrong; 1 if anything is.

    With `--write` the pages get the computed numbers first. A text that is not found, and a number
    without a source, remain to be mended by hand.
    """
    parser = argparse.ArgumentParser(description=quoted.__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the numbers into the pages")
    write = parser.parse_args(argv).write
    problems = []
    for page in PAGES:
        found, text = compare(page)
        if write:
            (ROOT / page.path).write_text(text, encoding="utf-8")
            found, _ = compare(page)
        problems += found
    print("\n".join(problems) or f"All numbers of {len(PAGES)} pages are those of the records.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
