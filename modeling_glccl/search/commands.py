"""`glccl index`, `glccl search`, `glccl cut` and `glccl duplicates`."""

import json
import math
import os
import sys
import time
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from ..checkpoints import load_checkpoint
from ..video_files import find_videos, harmless
from .cut import cut_moment
from .index import VideoIndex
from .ingest import IngestReport
from .rendering import clock, doubts, results_html, results_json, results_table
from .searcher import SearchResult
from .shot_list import Shot, check_shot_list, write_shot_list
from .words import find_sidecars, load_speech, sidecar_states

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
    watch: float | None,
    device: str,
    precision: str,
    **options: Any,
) -> None:
    """Makes an index of folders or brings one up to date, once or again and again, or lists its errors; the options
    are those of `VideoIndex.create` and `VideoIndex.add`."""
    if errors:
        index = VideoIndex.open(index_path)
        print_errors(index)
        print(f"videos with errors: {len(index.errors())}")
        return
    if not folders:
        raise ValueError("which folder of videos? glccl index VIDEO_DIR --index MY.INDEX --model CHECKPOINT")
    files = all(Path(path).is_file() for path in folders)
    if files and watch:
        raise ValueError(f"{folders[0]}: --watch is for folders")
    if not files:  # before the model is loaded
        for found in map(find_videos, folders):
            for note in (found if watch else found.check()).notes():
                print(note)
    made_with = {name: options.pop(name) for name in ("clip_length", "clip_stride", "clips", "shards", "runtime")}
    if not os.path.exists(index_path):  # what cannot be done leaves no empty index behind
        if options["engine"] == "ray":
            from . import ray_engine  # noqa: F401
        if options["speech"] is not None:
            load_speech(options["speech"])
    index = _open_or_create(index_path, checkpoint, made_with, device=device, precision=precision)
    if watch:
        print(f"looking every {watch:g} s for videos in {', '.join(folders)}; Ctrl-C ends it", flush=True)
        for settled in _settled(folders, watch):
            report = index.update(folders, only=settled, remove_missing=remove_missing, progress=False, **options)
            if any(count for name, count in asdict(report).items() if name not in ("unchanged", "seconds")):
                _print_report(index, report)
    elif files:
        _print_report(index, index.add(folders, **options))
    else:
        _print_report(index, index.update(folders, remove_missing=remove_missing, **options))


def _settled(folders: Sequence[str], seconds: float) -> Iterator[set[str]]:
    """Absolute paths of the videos that are as they were at the look before, whenever these have become others, or
    their subtitle files have.

    Looks that often; a file that is still being written waits. Polls, as network drives do not tell of changes.
    """
    before, settled, problem = {}, None, ""
    while True:
        try:
            now, find = {}, cache(find_sidecars)
            for path in (path for folder in folders for path in find_videos(os.path.abspath(folder)).check().videos):
                status = os.stat(path)
                subtitles = sidecar_states(path, find(os.path.dirname(path)))
                now[path] = status.st_size, status.st_mtime_ns, subtitles
            problem = ""
        except (OSError, ValueError) as error:  # a drive that is away for a while, a file that has just gone
            if str(error) != problem:
                print(problem := str(error), file=sys.stderr, flush=True)
        else:
            same = {path: state for path, state in now.items() if before.get(path) == state}
            if before and same != settled:
                settled = same
                yield set(same)
            before = now
        time.sleep(seconds)


def _print_report(index: VideoIndex, report: IngestReport) -> None:
    counts = {name: count for name, count in asdict(report).items() if count and name != "seconds"}
    done = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{index.path}: {len(index)} videos ({done}) in {report.seconds:.1f} s", flush=True)
    if report.failed:
        print(f"{report.failed} could not be read: glccl index --index {index.path} --errors")


def search_command(
    query: str | None, index_path: str, *, queries: TextIO | None, device: str, precision: str, **options: Any
) -> None:
    """Searches an index for one query, for those of a file or, without either, for those that are typed.

    The options are those of `VideoIndex.search` and `_search`.
    """
    shown = {name: options.pop(name) for name in ("as_json", "html_path", "open_page", "shot_list")}
    if queries is not None and (shown["html_path"] or shown["open_page"] or shown["shot_list"]):
        raise ValueError("--queries prints lines of JSON: leave out --html, --open and --shot-list")
    if shown["shot_list"]:
        check_shot_list(shown["shot_list"])
    index = VideoIndex.open(index_path, device=device, precision=precision)
    options["ids"] = options["ids"] or None
    if queries is not None:
        return answer_lines(index, queries, {**options, "query": query})
    if query is not None or any(options[name] is not None for name in ("words", *EXAMPLES)):
        return _search(index, query, options, **shown)
    prompt = "> " if sys.stdin.isatty() and not shown["as_json"] else ""
    if prompt:
        print(f"{len(index)} videos; a sentence a line, an empty line ends")
    with suppress(EOFError):
        while typed := input(prompt).strip():
            try:
                _search(index, typed, options, **shown)
            except ValueError as error:
                print(error)
    return None


def _search(
    index: VideoIndex,
    query: str | None,
    options: dict[str, Any],
    *,
    as_json: bool,
    html_path: Path | None,
    open_page: bool,
    shot_list: Path | None,
) -> None:
    """Prints a table or JSON, and writes what else is asked."""
    query, title, results = _find(index, query, options)
    if as_json:
        print(json.dumps(results_json(results), indent=2))
    elif results:
        table, folder = results_table(title, results)
        Console(markup=False, highlight=False, emoji=False).print(table)
        print(f"in {folder}")
        for line in doubts(query, results, index.processor):
            print(line)
    elif len(index):
        asked = {f"a {name} of": options[f"min_{name}"] for name in ("score", "confidence")}
        least = " and ".join(f"{text} {value:g}" for text, value in asked.items() if value is not None)
        print(f"nothing fits: no video has {least or 'such words'}")
    else:
        print(f"{index.path} is empty")
    if html_path or open_page:
        page = html_path or Path(f"{Path(index.path).name}.html")
        page.write_text(results_html(query, results, index.processor, title), encoding="utf-8")
        if not as_json:
            print(f"wrote {page}")
        if open_page:
            webbrowser.open(page.absolute().as_uri())
    if shot_list:
        moments = [(result, result.moment) for result in results if result.moment]
        shots = [Shot(result.path, moment.start, moment.end, result.score) for result, moment in moments]
        write_shot_list(shot_list, title, shots)
        if not as_json:
            print(f"wrote {shot_list}")


def _find(index: VideoIndex, query: str | None, options: dict[str, Any]) -> tuple[str | None, str, list[SearchResult]]:
    """The query as it can be written, what is searched for in words, and what is found."""
    query = query and query.encode(errors="replace").decode()  # a terminal may give what is no UTF-8
    (results,) = index.search_batch([query], moments=True, **options)
    examples = [f"like {options[name]}" for name in EXAMPLES if options[name]]
    others = [f"{name.strip('_')} {text}" for name in ("and_", "not_") for text in options[name]]
    said = [f'"{options["words"]}" is said'] if options["words"] else []
    return query, ", ".join([*([] if query is None else [query]), *others, *examples, *said]), results


def cut_command(
    query: str | None,
    index_path: str,
    output: Path,
    *,
    padding: float,
    exact: bool,
    shot_list: Path | None,
    device: str,
    precision: str,
    **options: Any,
) -> None:
    """Writes the moment of every result of a search to a folder; what cannot be cut is named and stops nothing."""
    if shot_list:
        check_shot_list(shot_list)
    index = VideoIndex.open(index_path, device=device, precision=precision)
    _, title, results = _find(index, query, {**options, "ids": options["ids"] or None})
    output.mkdir(parents=True, exist_ok=True)
    shots = []
    for rank, result in enumerate(results, 1):
        assert result.moment is not None
        start, end = max(0.0, result.moment.start - padding), min(result.duration, result.moment.end + padding)
        source = Path(result.path)
        name = f"{rank:02}_{source.stem}_{start:.1f}-{end:.1f}{'.mp4' if exact else source.suffix}"
        try:
            cut = cut_moment(source, start, end, output / name, exact)
        except (ValueError, OSError) as error:
            print(harmless(str(error) if result.path in str(error) else f"{result.path}: {error}"), file=sys.stderr)
        else:
            shots.append(Shot(result.path, start, end, result.score))
            print(harmless(f"{cut.path}: {clock(cut.start)} - {clock(cut.end)} of {result.path}"))
    if shot_list:
        write_shot_list(shot_list, title, shots)
        print(f"wrote {shot_list}")
    if failed := len(results) - len(shots):
        raise ValueError(f"{failed} of {len(results)} moments could not be cut")


def duplicates_command(index_path: str, *, threshold: float, as_json: bool) -> None:
    """Prints the groups of near-duplicate videos of an index."""
    index = VideoIndex.open(index_path)
    groups = index.duplicates(threshold)
    if as_json:
        print(json.dumps([[asdict(video) for video in group] for group in groups], indent=2))
        return
    for number, group in enumerate(groups, 1):
        print(f"{number}.")
        for video in group:
            print(f"  {video.score:.3f}  {clock(video.duration):>9}  {harmless(video.path)}")
    print(f"{sum(map(len, groups))} of {len(index)} videos in {len(groups)} groups of near-duplicates")


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
            json.dumps(given, ensure_ascii=False).encode()  # raises for half a character
            for name, value in given.items():
                _check(name, value)
        except (ValueError, AttributeError, RecursionError) as error:
            reason = "is no object" if isinstance(error, AttributeError) else error
            raise ValueError(f"{file.name}, line {number}: {reason}: {line.strip()[:200]}") from error
        # null is as if it was not there.
        parsed.append((number, options | {name: value for name, value in given.items() if value is not None}))

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


def _check(name: str, value: Any) -> None:
    """Raises ValueError for what JSON can hold and an option of the command line cannot."""
    if name == "k":
        right, expected = type(value) is int, "a whole number"
    elif name == "no_words":
        right, expected = isinstance(value, bool), "true or false"
    elif name.startswith(("min_", "max_")):
        right, expected = type(value) in (int, float) and math.isfinite(value), "a number"
    else:
        several = name in ("and_", "not_", "ids")
        texts, expected = value if several and isinstance(value, list) else [value], "a text"
        expected += " or a list of texts" * several
        right = all(isinstance(text, str) for text in texts)
    if not right and value is not None:
        raise ValueError(f"{name.strip('_')} is {value!r}; expected {expected}")


def _open_or_create(index_path: str, checkpoint: str | None, settings: dict[str, Any], **place: Any) -> VideoIndex:
    model = processor = None
    if checkpoint is not None:
        model, processor = load_checkpoint(checkpoint)
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        index = VideoIndex.open(index_path, model, processor, **place)
    except FileNotFoundError:
        if model is None or processor is None:
            raise ValueError(f"{index_path} is a new index: say with which model, --model CHECKPOINT") from None
        try:
            index = VideoIndex.create(index_path, model, processor, **given, **place)
        except FileExistsError:  # another process was faster
            index = VideoIndex.open(index_path, model, processor, **place)
    info = index.info()
    for name, value in given.items():
        if (made_with := info["clip_kind" if name == "clips" else name]) != value:
            raise ValueError(
                f"--{name.replace('_', '-')} {value}: {index_path} was made with {made_with}; leave it out, "
                "or make another index"
            )
    return index


def print_errors(index: VideoIndex) -> None:
    """A line for each video of which something could not be read."""
    for path, error in index.errors().items():
        print(harmless(error if error.startswith(path) else f"{path}: {error}"))
