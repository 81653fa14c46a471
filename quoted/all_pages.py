"""The pages that are compared."""

from quoted import (
    arithmetic,
    decode,
    dynamic_sampling,
    kernels,
    readme,
    running_sums,
    shapes,
    speed,
    studies,
)

PAGES = [
    each.PAGE
    for each in (
        readme,
        studies,
        running_sums,
        arithmetic,
        decode,
        shapes,
        dynamic_sampling,
        speed,
        kernels,
    )
]
