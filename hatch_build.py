"""Puts single files of the repository into the wheel. With `pip install --editable` they are found where they are."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SingleFilesHook(BuildHookInterface):
    """pyproject.toml can place a folder elsewhere, but not a single file without a copy of it for `--editable`."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the files to every wheel but the editable one."""
        if version != "editable":
            for name in ("constraints.txt", "model_card.md"):
                build_data["force_include"][name] = f"modeling_glccl/{name}"
