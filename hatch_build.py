"""Puts the model card's template into the wheel. With `pip install --editable` it is found where it is."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ModelCardHook(BuildHookInterface):
    """pyproject.toml can place a folder elsewhere, but not a single file without a copy of it for `--editable`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the file to every wheel but the editable one."""
        if version != "editable":
            build_data["force_include"]["model_card.md"] = "modeling_glccl/model_card.md"
