"""Sentences of README.md, docs/ and the pages beside them are short enough to be read once."""

import re

import pytest
from paths import REPOSITORY

LONGEST = 35  # words
BESIDE = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*BESIDE, *sorted((REPOSITORY / "docs").glob("*.md"))]


def sentences(text: str) -> list[str]:
    """Those of a Markdown page, without code, tables, headings, images and the addresses of links."""
    text = re.sub(r"^```.*?^```", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^(\||#|:::|    ).*$", "\n", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]+`", "Code", re.sub(r"!\[[^]]*\]\([^)]*\)", "", text))
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n|\n\s*(?:[-*]|\d+\.) ", text)]
    return [one for part in paragraphs for one in re.split(r"(?<=[.!?])[*)\"]*\s+(?=[A-Z*(\"])", part) if one]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_is_too_long(page):
    found = sentences(page.read_text(encoding="utf-8"))
    long = [one for one in found if len(re.findall(r"\w[\w'.,/-]*", one)) > LONGEST]
    assert not long, "\n".join(long)


def test_sentences_are_found_and_code_and_tables_are_not():
    page = "# A\n\nOne `a b` two. **Three.** Four\n[five](six.md)\n\n- six\n- seven.\n| eight |\n\n```\nnine\n```\n"
    assert sentences(page) == ["One Code two.", "**Three.", "Four five", "- six", "seven."]
