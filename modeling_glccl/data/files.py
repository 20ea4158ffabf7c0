"""Annotation and video files of a benchmark that somebody downloaded, in the layouts in which they circulate."""

import csv
import io
import json
import os
import pickle
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..video_files import VIDEO_SUFFIXES, walk_files

# Where annotations lie beside `videos/`: in the folder itself, or one level down.
ANNOTATION_FOLDERS = ("", "anns", "data", "msrvtt_data")


def find_annotation(root: Path, *names: str) -> Path:
    """The first of `names` that exists in `root` or one level down.

    Raises:
        FileNotFoundError: none does; names the files and folders.
    """
    path = find_optional_annotation(root, *names)
    if path is None:
        folders = ", ".join(folder or "." for folder in ANNOTATION_FOLDERS)
        raise FileNotFoundError(f"{root}: no {' or '.join(names)} there (looked in {folders}); see docs/data.md")
    return path


def find_optional_annotation(root: Path, *names: str) -> Path | None:
    """As [`find_annotation`]; None where there is none."""
    candidates = (root / folder / name for name in names for folder in ANNOTATION_FOLDERS)
    return next((path for path in candidates if path.is_file()), None)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: another encoding; names the file and what it looks like.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise ValueError(
            f"{path}: {'UTF-16' if utf_16 else f'byte {error.start} is not UTF-8'}; expected UTF-8: save it so"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path}: holds zero bytes, as UTF-16 or a damaged file does; expected UTF-8: save it so")
    return text


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, without the empty ones. Only \\n ends a line: U+2028 is text."""
    lines = (line.removesuffix("\r") for line in read_text(path).split("\n"))
    return [line for line in lines if line.strip()]


def parse_json(text: str, place: str | Path) -> Any:
    """The value that a text in JSON stands for.

    Raises:
        ValueError: it is no JSON; names the place and shows where it begins to go wrong.
    """
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        position = getattr(error, "pos", 0)
        raise ValueError(f"{place}: no JSON: {error}, at {text[position : position + 40]!r}; expected JSON") from error


def read_csv(path: Path) -> tuple[list[str], Iterator[tuple[str, dict[str, Any]]]]:
    """The names of the columns of a CSV with a header, and its rows, each with its line; an empty value is None.

    Raises:
        ValueError: another encoding or form; names the file and the line, as reading the rows does.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    expected = "expected values between commas, with double quotes around texts that contain commas or quotes"

    def lines() -> Iterator[list[str]]:
        try:
            yield from reader
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}; {expected}") from error

    rows = lines()
    header = next(rows, [])
    if double := [name for name, count in Counter(header).items() if count > 1]:
        raise ValueError(f"{path}, line 1: two columns are named {double[0]!r}")

    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for values in rows:
            if len(values) != len(header) and values:
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(values)} values, the header has {len(header)}; {expected}"
                )
            if values:
                yield (
                    f"line {reader.line_num}",
                    {name: value or None for name, value in zip(header, values, strict=True)},
                )

    return header, records()


def read_json(path: Path, kind: type | tuple[type, ...]) -> Any:
    """The content of a JSON file, which is of this type (list, dict).

    Raises:
        ValueError: it is not; names the file.
    """
    return expect(parse_json(read_text(path), path), kind, str(path))


def expect(value: Any, kind: type | tuple[type, ...], place: str) -> Any:
    """The same value, if it is of this type.

    Raises:
        ValueError: it is not; names the place, the value and the type.
    """
    if not isinstance(value, kind):
        expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{place}: {str(value)[:60]!r} is of type {type(value).__name__}; expected {expected}")
    return value


def entry(record: Any, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """`record[key]`, if the record is a dict and the value of this type.

    Raises:
        ValueError: one of them is not so; names the place, what is there and what was expected.
    """
    if key not in expect(record, dict, place):
        raise ValueError(f"{place}: no {key!r} among {', '.join(map(repr, record)) or 'nothing'}; expected it there")
    return expect(record[key], kind, f"{place}, {key}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(
            f"it refers to {module}.{name}, but captions are plain strings, lists and dicts; do not use it"
        )


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain strings, numbers, lists, tuples and dicts: nothing that could run code when it is read.

    Raises:
        ValueError: the pickle refers to any class or function, or is damaged.
    """
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except (ValueError, EOFError, IndexError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: cannot be read as captions: {error}") from error


class VideoFiles:
    """The files below some folders, listed once; hidden ones are left out.

    Args:
        folders: searched in this order; those that do not exist count as empty.

    Where a name stands twice, the first in the order of folders and paths is used, with a warning.
    """

    def __init__(self, *folders: Path):
        self.folders = folders
        self._by_name: dict[str, str] = {}
        self._by_id: dict[str, str] = {}
        self._by_stem: dict[str, list[str]] = {}
        doubles = []
        for path in walk_files(*folders):
            name = os.path.basename(path)
            if name in self._by_name:
                doubles.append(path)
                continue
            self._by_name[name] = path
            base, suffix = os.path.splitext(name)
            # MP4 comes before other suffixes: it is what re-encoded copies are.
            if suffix == ".mp4" or (suffix.lower() in VIDEO_SUFFIXES and base not in self._by_id):
                self._by_id[base] = path
            self._by_stem.setdefault(name.partition(".")[0], []).append(path)
        if doubles:
            warnings.warn(
                f"{len(doubles)} file names stand twice, for instance {doubles[0]}: "
                f"{self._by_name[os.path.basename(doubles[0])]} is used",
                stacklevel=2,
            )

    def __len__(self) -> int:
        return len(self._by_name)

    def listing(self) -> list[str]:
        """All paths, in a fixed order."""
        return sorted(self._by_name.values())

    def find(self, video_id: str) -> str | None:
        """The path of the file named `video_id`, else of the one named so apart from a suffix such as .mp4."""
        return self._by_name.get(video_id) or self._by_id.get(video_id)

    def find_stem(self, stem: str) -> str | None:
        """The path of the only file whose name up to its first dot is `stem`."""
        paths = self._by_stem.get(stem, ())
        return paths[0] if len(paths) == 1 else None
