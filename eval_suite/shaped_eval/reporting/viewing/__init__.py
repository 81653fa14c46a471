"""Samples to browse, in a report and in the pages of `shaped-trl view`.

Foreign texts reach a page escaped. The one exception are formulas, and these are built from an
allowlist of MathML (`maths`).
"""
