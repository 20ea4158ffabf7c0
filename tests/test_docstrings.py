"""The examples in docstrings run and print what they say."""

import doctest
import importlib
import pkgutil

import pytest

import modeling_glccl


def modules_with_examples():
    for info in pkgutil.walk_packages(modeling_glccl.__path__, "modeling_glccl."):
        source = importlib.util.find_spec(info.name).loader.get_source(info.name)
        if ">>> " in source:
            yield info.name


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted > 0
    assert result.failed == 0
