"""Hatchling, and the one dependency that pyproject.toml cannot name: shaped-kernels, same version.

A wheel or an sdist needs it. An editable installation has `shaped_kernels` from the checkout, where
`pip install -e .` then needs nothing that is not on PyPI.
"""

from typing import Any

from hatchling.build import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# Hatchling's prepare_metadata_for_build_wheel is left out: it does not call the hook, so that uv
# would not see the dependency. Without it, an installer builds the wheel and reads that.
__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
]


class Dependencies(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        """Take the list of pyproject.toml, where a field that a build adds to must be dynamic."""
        metadata["dependencies"] = self.config["dependencies"]


class SameVersionOfTheLoss(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before a build. `version` is the kind of build: "standard" or "editable"."""
        loss = f"shaped-kernels=={self.metadata.version}"
        # an sdist has named it
        if version == "standard" and loss not in self.metadata.core.dependencies:
            build_data["dependencies"].append(loss)
