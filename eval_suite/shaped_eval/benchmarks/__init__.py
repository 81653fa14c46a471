"""Benchmarks: where their rows are, how a row becomes a prompt and a gold, and who grades it.

`registry` holds the table of the shipped ones, `loading` reads their problems.
"""
