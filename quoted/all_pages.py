"""The pages that are compared."""

from quoted import arithmetic, dynamic_sampling, running_sums, speed

PAGES = [arithmetic.PAGE, dynamic_sampling.PAGE, running_sums.PAGE, speed.PAGE]
