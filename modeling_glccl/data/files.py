"""Annotation and video files of a benchmark that somebody downloaded, in the layouts in which they circulate."""

import csv
import io
import json
import os
import pickle
import pickletools
import unicodedata
import warnings
from collections import Counter
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, TextIO, cast

from ..video_files import VIDEO_SUFFIXES, walk_files, why_no_file

MAX_BYTES = 2**28  # of a file of text: it and what is made of it take some five times as much memory
MAX_SECONDS = 1e6  # of a video: float32, in which tables have them, tells a tenth of a second apart up to there
# Where annotations lie beside `videos/`: in the folder itself, or one level down.
ANNOTATION_FOLDERS = ("", "anns", "data", "msrvtt_data")


def find_annotation(root: Path, *names: str) -> Path:
    """The first of `names` in `root` or one level down; a FileNotFoundError names them if none is there."""
    for path in (root / folder / name for name in names for folder in ANNOTATION_FOLDERS):
        if path.is_file():
            return path
    folders = ", ".join(folder or "." for folder in ANNOTATION_FOLDERS)
    raise FileNotFoundError(f"{root}: no {' or '.join(names)} there (looked in {folders}); see docs/data.md")


def safe_path(folder: Path, name: str, origin: str | Path) -> Path:
    """Where a file of this name goes below `folder`; a ValueError names `origin` if it would lead out of it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or ".." in parts or parts[0].startswith("/") or ":" in parts[0]:
        raise ValueError(f"{origin}: the name {name!r} leads out of {folder}; it is not written")
    return folder.joinpath(*parts)


# What these raise is a ValueError that names the file and the place, and says what is there and what was expected.


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark."""
    if path.exists() and (reason := why_no_file(path)):
        raise ValueError(f"{path}: {reason}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: has {path.stat().st_size:,} bytes; a text of at most {MAX_BYTES:,} is read")
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


def read_csv(path: Path) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    """The columns of a CSV with a header, and its rows, each with its line; an empty value is None."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    expected = "expected values between commas, with double quotes around texts that contain commas or quotes"
    records = []
    try:
        header = next(reader, [])
        if double := [name for name, count in Counter(header).items() if count > 1]:
            raise ValueError(f"{path}, line 1: two columns are named {double[0]!r}")
        for values in filter(None, reader):
            place = f"line {reader.line_num}"
            if len(values) != len(header):
                raise ValueError(f"{path}, {place}: {len(values)} values, the header has {len(header)}; {expected}")
            records.append((place, dict(zip(header, (value or None for value in values), strict=True))))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}; {expected}") from error
    return header, records


def parse_json(text: str, place: str | Path) -> Any:
    """The value that a text in JSON stands for."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # not only JSONDecodeError: a number may have too many digits
        position = getattr(error, "pos", 0)
        raise ValueError(f"{place}: no JSON: {error}, at {text[position : position + 40]!r}; expected JSON") from error


def read_json(path: Path, kind: type | tuple[type, ...]) -> Any:
    """The content of a JSON file, which is of this type (list, dict)."""
    return expect(parse_json(read_text(path), path), kind, str(path))


def expect(value: Any, kind: type | tuple[type, ...], place: str) -> Any:
    """The same value, if it is of this type."""
    if not isinstance(value, kind):
        expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{place}: {str(value)[:60]!r} is of type {type(value).__name__}; expected {expected}")
    return value


def entry(record: Any, key: str, kind: type | tuple[type, ...], place: str) -> Any:
    """`record[key]`, if the record is a dict and the value of this type."""
    if key not in expect(record, dict, place):
        raise ValueError(f"{place}: no {key!r} among {', '.join(map(repr, record)) or 'nothing'}; expected it there")
    return expect(record[key], kind, f"{place}, {key}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(
            f"it refers to {module}.{name}, but captions are plain strings, lists and dicts; do not use it"
        )


def read_plain_pickle(path: Path) -> Any:
    """A pickle of plain strings, numbers, lists, tuples and dicts: nothing that could run code when it is read."""
    content = path.read_bytes()
    try:
        for operation, argument, _ in pickletools.genops(content):
            # The unpickler makes a table as long as the largest place in it, before anything lies there.
            if "PUT" in operation.name and int(cast(str, argument)) > len(content):
                raise ValueError(f"it asks for a table of {argument:,} places, and has {len(content):,} bytes")
        value = _PlainUnpickler(io.BytesIO(content)).load()
        check_unfolded(value, len(content))
    except Exception as error:  # what an unpickler raises depends on which byte is damaged
        raise ValueError(f"{path}: cannot be read as captions: {error}") from error
    return value


def check_unfolded(value: Any, size: int) -> None:
    """Refuses what a file of `size` bytes refers to again and again: written out, it might fill any memory."""
    waiting, limit, parts = [value], 10_000 + size, 0
    while waiting:
        part = waiting.pop()
        parts += 1 + len(part) // 64 if isinstance(part, str | bytes) else 1
        if parts > limit:
            raise ValueError(f"its {size:,} bytes refer to one another and unfold to more than {limit:,} values")
        if isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, list | tuple | set):
            waiting += part


def read_ledger(path: Path) -> dict[str, Any]:
    """What [`add_to_ledger`] wrote; a line at which a call was killed is left out."""
    ledger = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with suppress(ValueError):
            name, state = json.loads(line)
            ledger[name] = state
    return ledger


def add_to_ledger(ledger: TextIO, name: str, state: Any) -> None:
    """A line for what is finished, written before this returns; a later one for the same name counts."""
    ledger.write(f"\n{json.dumps([name, state])}")
    ledger.flush()


def composed(name: str) -> str:
    """A name as most systems write it: macOS takes letters and their accents apart."""
    return unicodedata.normalize("NFC", name)


class VideoFiles:
    """The regular files below some folders, listed once, without hidden ones and folders that do not exist.

    Where a name stands twice, the first in the order of folders and paths is used, with a warning.
    """

    def __init__(self, *folders: Path):
        self._by_name: dict[str, str] = {}
        self._by_id: dict[str, str] = {}
        self._by_stem: dict[str, list[str]] = {}
        doubles = []
        for path in walk_files(*folders):
            name = os.path.basename(path)
            if not os.path.isfile(path):  # a broken link, a pipe: as good as missing
                continue
            name = composed(name)
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
                f"{self._by_name[composed(os.path.basename(doubles[0]))]} is used",
                stacklevel=2,
            )

    def add(self, video_id: str, path: str) -> None:
        """The file of a video, whatever its name is."""
        self._by_name[video_id] = path

    def listing(self) -> list[str]:
        """All paths, in a fixed order."""
        return sorted(self._by_name.values())

    def find(self, video_id: str) -> str | None:
        """The path of the file named `video_id`, else of the one named so apart from a suffix such as .mp4."""
        name = composed(video_id)
        return self._by_name.get(video_id) or self._by_name.get(name) or self._by_id.get(name)

    def find_stem(self, stem: str) -> str | None:
        """The path of the only file whose name up to its first dot is `stem`."""
        paths = self._by_stem.get(stem, ())
        return paths[0] if len(paths) == 1 else None
