"""What the pages of docs/ need to become a site: mkdocs calls these functions by their names."""

import re


def on_page_markdown(markdown: str, config, **_) -> str:
    """Links to files outside docs/ lead to the repository, or nowhere as long as mkdocs.yml has no `repo_url`."""
    link = rf"[\1]({config.repo_url}/blob/main/\2)" if config.repo_url else r"\1"
    return re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./([^)]+)\)", link, markdown)


def on_page_content(html: str, **_) -> str:
    """Docstrings are written as transformers' are: names as [`~Class.method`], types as (`int`, *optional*)."""
    html = re.sub(r"\[<code>~?([^<]+)</code>\]", r"<code>\1</code>", html)
    return re.sub(r"<code>[^<]*`[^<]*</code>", lambda code: re.sub(r"[`*]", "", code[0]), html)
