"""`docs/results/shapes.md`, whose records were not kept."""

from quoted.pages import Page

PAGE = Page("docs/results/shapes.md", kept=False)
