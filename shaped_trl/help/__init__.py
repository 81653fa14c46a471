"""The help pages of the commands that take a recipe.

    intro.py     what each command is for, with examples
    groups.py    the order of its options, and their headings
    write.py     makes a page of both and of the parser
    pages/       the pages as they are committed
    show.py      prints a page, wrapped to the terminal

The pages are committed so that `--help` need not import TRL. A test compares them with the parser;
`python -m shaped_trl.help.write` writes them anew.
"""
