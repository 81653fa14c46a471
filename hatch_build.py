"""The one dependency of shaped-trl that pyproject.toml cannot name: shaped-kernels of its version.

A wheel or an sdist needs it. An editable installation has `shaped_kernels` from the checkout, where
`pip install -e .` then needs nothing that is not on PyPI.
"""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SameVersionOfTheLoss(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build. `version` is the kind of build: "standard" or "editable"."""
        if version == "standard":
            build_data["dependencies"].append(f"shaped-kernels=={self.metadata.version}")
