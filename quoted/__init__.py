"""The numbers that the pages quote, computed from the committed records.

    python -m quoted           # lists every number that differs, and every number without a source
    python -m quoted --write   # puts the computed numbers into the pages

A module for each page has its quotes: pieces of the page's own text in which every result is
computed, such as `f"gains {effect:.1f} points of reward {effect:[.1f]}"`. A page is right if each
of its quotes stands in it, with these numbers, exactly once. Every other number on the page must
be declared: as a setting (a size, a temperature, a name), or as one whose records were not kept.
"""
