"""The pages that are compared."""

from quoted import arithmetic, running_sums

PAGES = [arithmetic.PAGE, running_sums.PAGE]
