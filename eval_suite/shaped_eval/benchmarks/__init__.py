"""Benchmarks: where their rows are, how a row becomes a prompt and a gold, and who grades it.

`registry` holds the table of the shipped ones, `own` reads those that a user defines in a file, and
`loading` makes the problems of either.
"""
