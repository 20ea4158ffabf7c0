"""Imports transformers' test suites, where `fetch.py` has put them."""

import importlib
import sys
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import transformers

VERSION = transformers.__version__
FOLDER = Path(__file__).parents[2] / "build" / f"transformers-suites-{VERSION}"
PACKAGE = "transformers_suites_of_release"


def suite(name: str) -> ModuleType:
    """The module `tests/{name}.py` of transformers; skips the calling module where it has not been fetched."""
    if not FOLDER.exists():
        reason = f"transformers' suites are not there: python {Path(__file__).with_name('fetch.py')} fetches them"
        pytest.skip(reason, allow_module_level=True)
    with _what_the_release_lacks():
        return importlib.import_module(f"{PACKAGE}.{name}")


def skip(case: type[unittest.TestCase], reason: str, *names: str) -> None:
    """Skips tests that the suite has."""
    for name in names:
        setattr(case, name, unittest.skip(reason)(getattr(case, name)))


@contextmanager
def _what_the_release_lacks() -> Iterator[None]:
    """Stands in for the modules that the suites import and the source distribution leaves out; GLCCL needs none."""
    package = ModuleType(PACKAGE)
    package.__path__ = [str(FOLDER / "tests")]
    lacking = {
        "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
        "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
        "utils.test_configuration_utils": {"config_common_kwargs": {}},
    }
    sys.modules.setdefault(PACKAGE, package)
    for name, content in lacking.items():
        for part in (name.split(".")[0], name):
            sys.modules.setdefault(f"{PACKAGE}.{part}", ModuleType(f"{PACKAGE}.{part}"))
        for key, value in content.items():
            setattr(sys.modules[f"{PACKAGE}.{name}"], key, value)
    urls = ModuleType("fetch_hub_objects_for_ci")
    urls.url_to_local_path = lambda url: url
    with (
        mock.patch.dict(sys.modules, fetch_hub_objects_for_ci=urls),
        mock.patch.object(sys, "path", [str(FOLDER), *sys.path]),
        mock.patch("transformers.utils.direct_transformers_import", return_value=transformers),
    ):
        yield
