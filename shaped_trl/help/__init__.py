"""The help pages of the commands that take a recipe.

intro.py     what each command is for, with examples
groups.py    the order of its options, and their headings
write.py     makes a page of both and of the parser; `python -m shaped_trl.help.write`
pages/       the pages as they are committed, so that `--help` need not import TRL
show.py      prints a page, wrapped to the terminal
"""
