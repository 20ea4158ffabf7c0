"""`glccl index`, `glccl search` and `glccl cut`."""

import json
import sys
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.console import Console
from transformers.utils import logging

from ..checkpoints import load_checkpoint
from ..video_files import find_videos
from .cut import cut_moment
from .index import VideoIndex
from .rendering import clock, results_html, results_json, results_table

EXAMPLES = ("image", "video", "like")
# Queries of a file that are searched for together.
_BATCH = 64


def index_command(
    folders: Sequence[str],
    index_path: str,
    checkpoint: str | None,
    *,
    errors: bool,
    remove_missing: bool,
    clip_length: float | None,
    clip_stride: float | None,
    **options: Any,
) -> None:
    """Makes an index of folders or brings one up to date, or lists its errors; the options are `VideoIndex.add`'s."""
    if errors:
        index = VideoIndex.open(index_path)
        print_errors(index)
        print(f"{len(index.errors())} videos with errors")
        return
    if not folders:
        raise ValueError("which folder of videos? glccl index VIDEO_DIR --index MY.INDEX --model CHECKPOINT")
    files = all(Path(path).is_file() for path in folders)
    if not files:  # before the model is loaded
        for note in (note for folder in folders for note in find_videos(folder).check().notes()):
            print(note)
    index = _open_or_create(index_path, checkpoint, clip_length, clip_stride)
    if files:
        report = index.add(folders, **options)
    else:
        report = index.update(folders, remove_missing=remove_missing, **options)
    counts = {name: count for name, count in asdict(report).items() if count and name != "seconds"}
    done = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{index_path}: {len(index)} videos ({done}) in {report.seconds:.1f} s")
    if report.failed:
        print(f"{report.failed} could not be read: glccl index --index {index_path} --errors")


def search_command(query: str | None, index_path: str, *, queries: TextIO | None, **options: Any) -> None:
    """Searches an index for one query, for those of a file or, without either, for those that are typed.

    The options are those of `_search` and `VideoIndex.search`.
    """
    logging.disable_progress_bar()  # of the weights
    index = VideoIndex.open(index_path)
    options["ids"] = options["ids"] or None
    if queries is not None:
        for name in ("as_json", "html_path", "open_page"):
            options.pop(name)
        return answer_lines(index, queries, {**options, "query": query})
    if query is not None or any(options[name] for name in EXAMPLES):
        return _search(index, index_path, query, **options)
    if not options["as_json"]:
        print(f"{len(index)} videos; a sentence a line, an empty line ends")
    while typed := _typed("" if options["as_json"] else "> "):
        try:
            _search(index, index_path, typed, **options)
        except ValueError as error:
            print(error)
    return None


def _typed(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def _search(
    index: VideoIndex,
    index_path: str,
    query: str | None,
    *,
    as_json: bool,
    html_path: Path | None,
    open_page: bool,
    **options: Any,
) -> None:
    """Prints a table or JSON, and writes a page."""
    (results,) = index.search_batch([query], moments=True, **options)
    examples = [f"like {options[name]}" for name in EXAMPLES if options[name]]
    others = [f"{name.strip('_')} {text}" for name in ("and_", "not_") for text in options[name]]
    title = ", ".join([*([] if query is None else [query]), *others, *examples])
    if as_json:
        print(json.dumps(results_json(results), indent=2))
    elif results:
        table, folder = results_table(title, results)
        Console(markup=False, highlight=False, emoji=False).print(table)
        print(f"in {folder}")
        if (best := max(result.confidence or 0 for result in results)) < 0.5 and results[0].confidence is not None:
            print(f"probably nothing fits: no video has a confidence above {best:.0%}")
    elif len(index):
        asked = {f"a {name} of": options[f"min_{name}"] for name in ("score", "confidence")}
        least = " and ".join(f"{text} {value:g}" for text, value in asked.items() if value is not None)
        print(f"nothing fits: no video has {least}")
    else:
        print(f"{index_path} is empty")
    if html_path or open_page:
        page = html_path or Path(f"{Path(index_path).name}.html")
        page.write_text(results_html(query, results, index.processor, title), encoding="utf-8")
        if not as_json:
            print(f"wrote {page}")
        if open_page:
            webbrowser.open(page.absolute().as_uri())


def cut_command(query: str, index_path: str, output: Path, *, k: int, padding: float, exact: bool) -> None:
    """Writes the moment of every result of a search to a folder; what cannot be cut is named and stops nothing."""
    logging.disable_progress_bar()
    output.mkdir(parents=True, exist_ok=True)
    results = VideoIndex.open(index_path).search(query, k, moments=True)
    failed = 0
    for rank, result in enumerate(results, 1):
        assert result.moment is not None
        start, end = max(0.0, result.moment.start - padding), min(result.duration, result.moment.end + padding)
        source = Path(result.path)
        name = f"{rank:02}_{source.stem}_{start:.1f}-{end:.1f}{'.mp4' if exact else source.suffix}"
        try:
            cut = cut_moment(source, start, end, output / name, exact)
        except (ValueError, OSError) as error:
            print(error if result.path in str(error) else f"{result.path}: {error}", file=sys.stderr)
            failed += 1
        else:
            print(f"{cut.path}: {clock(cut.start)} - {clock(cut.end)} of {result.path}")
    if failed:
        raise ValueError(f"{failed} of {len(results)} moments could not be cut")


def answer_lines(index: VideoIndex, file: TextIO, options: dict[str, Any]) -> None:
    """Prints a line of JSON for each line, an object with a query and options that go over the given ones.

    Raises ValueError with the number of a line that is malformed, before anything is searched, or cannot be answered.
    """
    parsed = []
    try:
        lines = file.read().split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name}: is not UTF-8: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            given = {f"{name}_" if name in ("and", "not") else name: value for name, value in given.items()}
            if unknown := [name for name in given if name not in options]:
                raise ValueError(f"{unknown[0]!r} is unknown; use {', '.join(name.strip('_') for name in options)}")
            if not isinstance(given.get("query"), str | None):
                raise ValueError("the query is no string")
        except (ValueError, AttributeError) as error:
            reason = error if isinstance(error, ValueError) else "is no object"
            raise ValueError(f"{file.name}, line {number}: {reason}: {line.strip()[:200]}") from error
        parsed.append((number, {**options, **given}))

    def answer(part: Sequence[tuple[int, dict[str, Any]]]) -> None:
        shared = {name: value for name, value in part[0][1].items() if name != "query"}
        asked = [values["query"] for _, values in part]
        try:
            found = index.search_batch(asked, moments=True, **shared)
        except (ValueError, TypeError, AttributeError, OSError) as error:
            if len(part) == 1:
                raise ValueError(f"{file.name}, line {part[0][0]}: {error}") from error
            for line in part:  # to blame the right one
                answer([line])
        else:
            for query, results in zip(asked, found, strict=True):
                print(json.dumps({"query": query, "results": results_json(results)}))

    for _, alike in groupby(parsed, key=lambda line: {**line[1], "query": None}):
        alike = list(alike)
        for start in range(0, len(alike), _BATCH):
            answer(alike[start : start + _BATCH])


def _open_or_create(
    index_path: str, checkpoint: str | None, clip_length: float | None, clip_stride: float | None
) -> VideoIndex:
    model = processor = None
    if checkpoint is not None:
        model, processor = load_checkpoint(checkpoint)
    clips: dict[str, Any] = {"clip_length": clip_length, "clip_stride": clip_stride}
    given = {name: value for name, value in clips.items() if value is not None}
    try:
        index = VideoIndex.open(index_path, model, processor)
    except FileNotFoundError:
        if model is None or processor is None:
            raise ValueError(f"{index_path} is a new index: say with which model, --model CHECKPOINT") from None
        try:
            index = VideoIndex.create(index_path, model, processor, **given)
        except FileExistsError:  # another process was faster
            index = VideoIndex.open(index_path, model, processor)
    info = index.info()
    for name, value in given.items():
        if info[name] != value:
            raise ValueError(
                f"--{name.replace('_', '-')} {value:g}: {index_path} has clips made with {info[name]:g}; leave it "
                "out, or make another index"
            )
    if torch.cuda.is_available():
        index.model.to("cuda")  # pyright: ignore[reportArgumentType]
    return index


def print_errors(index: VideoIndex) -> None:
    """A line for each video of which something could not be read."""
    for path, error in index.errors().items():
        print(error if error.startswith(path) else f"{path}: {error}")
