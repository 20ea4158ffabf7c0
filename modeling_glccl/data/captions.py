"""Your own videos and captions: a table in the folder of the videos, or a dataset on the Hub."""

import hashlib
import json
import math
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, cast

import datasets
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from datasets import config
from datasets.fingerprint import Hasher

from ..atomic import write_whole
from ..video_files import VIDEO_SUFFIXES
from .benchmark import AnnotatedVideo, Canonical, VideoBenchmark, check_captions
from .files import MAX_SECONDS, VideoFiles, parse_json, read_csv, read_text
from .mirrors import flat_videos

TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
PROBLEMS_SHOWN = 10


class IndivisibleError(ValueError):
    """A table without splits has fewer videos than splits are asked for."""


class _Record(NamedTuple):
    """A usable row of the table."""

    file: str
    path: str | None
    captions: list[str]
    start: float | None
    end: float | None
    split: str | None
    place: str

    @property
    def video_id(self) -> str:
        """The file's name and, of a part of it, the window, written as players of web pages do."""
        if self.start is None and self.end is None:
            return self.file
        return f"{self.file}#t={self.start or 0:.10g}{'' if self.end is None else f',{self.end:.10g}'}"


@dataclass
class Captions(VideoBenchmark):
    """One row per caption. Another window of a file is another video; all windows of a file are in one split."""

    videos_dir: str = "."  # the folder that file names start from
    video_column: str | None = None  # with file names, on the Hub with videos; None: "file_name", on the Hub "video"
    caption_column: str | None = None  # with a text or a list of texts; None: "caption" or "captions"
    # Shares of train, validation and test where the table names no split. All rows of a file are in one split; which
    # depends on `split_seed` and the file's name.
    split_ratio: Sequence[float] = (0.8, 0.1, 0.1)
    split_seed: int = 0

    title = "own captions"
    split_aliases: ClassVar = {"val": "validation", "valid": "validation", "dev": "validation"}
    names: ClassVar = {"train": "train", "validation": "validation", "test": "test"} | split_aliases

    def __post_init__(self):
        ratio = self.split_ratio
        numbers = isinstance(ratio, list | tuple) and all(isinstance(share, int | float) for share in ratio)
        if not numbers or len(ratio) != 3 or not all(share >= 0 for share in ratio) or abs(sum(ratio) - 1) > 1e-6:
            raise ValueError(
                f"split_ratio={ratio!r} must be three shares, of train, validation and test, that sum to 1, such as "
                "[0.8, 0.1, 0.1]"
            )

    @classmethod
    def split_names(
        cls, repo_id: str | None = None, hub: dict[str, Any] | None = None, **options: Any
    ) -> Sequence[str]:
        """The splits that the table has, or that it is divided into."""
        captions, hub = cls("train", **options), hub or {}
        found: Any = captions._hub_splits(repo_id, **hub) if repo_id else {}
        if not found:
            records = captions._hub_records(repo_id, **hub) if repo_id else captions._folder_records()
            found = {record.split for record in records}
        return [name for name in cls.splits if name in found]

    @property
    def root(self) -> Path:
        """The folder itself: a sub-folder of any name holds videos."""
        return self.folder

    def canonical(self) -> Canonical:
        """No published results: the table, and how it was divided."""
        return Canonical(f"own captions, {self.split}{self.division}", None, None)

    def build(self) -> datasets.Dataset:
        """The split from the folder."""
        return self._dataset(self._folder_records())

    def load_hub(self, repo_id: str, **hub: Any) -> datasets.Dataset:
        """The split from the Hub; videos that are embedded in the table are written to files once."""
        dataset = self._dataset(self._hub_records(repo_id, **hub))
        for path in {video["path"] for video in dataset["video"]} if self.with_videos else ():
            if path in self.embedded and not os.path.exists(path):
                table, row, column = self.embedded[path]
                write_whole(Path(path), table[row][column])
        return dataset

    def place_of(self, video_id: str) -> str:
        """The first row of the table with this video."""
        return f"{video_id} ({self.places[video_id]})"

    def _dataset(self, records: list[_Record]) -> datasets.Dataset:
        videos: dict[str, AnnotatedVideo] = {}
        files = VideoFiles()  # those that the table names, and no others
        self.places: dict[str, str] = {}
        for record in records:
            if record.split != self.split:
                continue
            if (name := record.video_id) not in videos:
                videos[name] = AnnotatedVideo(name, [], record.start, record.end)
                self.places[name] = record.place
                if record.path:
                    files.add(name, record.path)
            videos[name].captions.extend(record.captions)
        if not videos:
            found = Counter(record.split for record in records)
            raise ValueError(
                f"{self.source}: no row is in split {self.split}; there are "
                f"{', '.join(f'{count:,} in {name}' for name, count in found.items())}. In a recipe an absent split "
                f"is null, such as data.validation_split=null"
            )
        return self.table(videos.values(), files)

    def _folder_records(self) -> list[_Record]:
        """Of the table or, as `datasets` has it too, of one in each folder named like a split, with that split."""
        tables: dict[Path, str | None] = {}
        for name, split in {"": None, **self.names}.items():
            found = [path for table in TABLES if (path := self.root / name / table).is_file()]
            if len(found) > 1:
                raise ValueError(f"{found[0].parent} has {found[0].name} and {found[1].name}: keep one of them")
            tables |= dict.fromkeys(found, split)
            if tables and not name:
                break
        if not tables:
            others = sorted(path.name for path in self.root.iterdir() if path.suffix in (".csv", ".json", ".jsonl"))
            hint = f"; it has {', '.join(others[:5])}: rename or rewrite one" if others else ""
            raise FileNotFoundError(
                f"{self.root}: none of {', '.join(TABLES)} is there{hint}. It needs the columns file_name and caption "
                "(docs/own_data.md)"
            )
        records, self.source = [], str(next(iter(tables)) if len(tables) == 1 else self.root)
        for table, split in tables.items():
            columns, rows = READERS[table.suffix](table)
            locate = partial(_locate, table.parent / self.videos_dir, table.parent.relative_to(self.root))
            records += self._records(table, columns, rows, self.video_column or "file_name", locate, split)
        return self._divided(records)

    def _records(
        self,
        source: Path | str,
        columns: list[str],
        rows: Iterable[tuple[str, dict[str, Any]]],
        video_column: str,
        locate: Callable[[Any], tuple[str, str | None]],
        split: str | None,
    ) -> list[_Record]:
        """The rows of a table, checked; all that is wrong with them becomes one error."""
        caption_column = self.caption_column
        if caption_column is None:
            several = [name for name in ("caption", "captions") if name in columns]
            if len(several) == 2:
                raise ValueError(f"{source} has a column caption and a column captions: choose with caption_column=")
            caption_column = several[0] if several else "caption"
        for option, name in (("video_column", video_column), ("caption_column", caption_column)):
            if name not in columns:
                separated = next((mark for mark in (";", "\t", "|") if len(columns) == 1 and mark in columns[0]), None)
                hint = f"; they are separated by {separated!r}, expected ','" if separated else ""
                raise ValueError(
                    f"{source}: no column {name!r}; it has {', '.join(map(repr, columns)) or 'none'}{hint}. Rename "
                    f"one, or name it with {option}="
                )
        records, problems = [], []
        for place, values in rows:
            try:
                file, path = locate(values.get(video_column))
                start, end = _window(values.get("start"), values.get("end"))
                captions = _captions(values.get(caption_column), isinstance(source, Path) and source.suffix == ".csv")
                named = split
                if "split" in columns:
                    named = self.names.get(str(values.get("split")).strip().lower())
                    if named is None:
                        raise ValueError(f"split is {values.get('split')!r}; expected {', '.join(self.splits)}")
                where = f"{source.name if isinstance(source, Path) else source}, {place}"
                records.append(_Record(file, path, captions, start, end, named, where))
            except ValueError as error:
                name = values.get(video_column)
                problems.append(f"{place}{f', {name}' if isinstance(name, str) and name else ''}: {error}")
        if problems:
            shown = problems[:PROBLEMS_SHOWN] + ["..."] * (len(problems) > PROBLEMS_SHOWN)
            raise ValueError(
                f"{source}: {len(problems):,} of {len(problems) + len(records):,} rows cannot be used\n  "
                + "\n  ".join(shown)
            )
        if not records:
            raise ValueError(f"{source}: no rows")
        return records

    def _divided(self, records: list[_Record]) -> list[_Record]:
        """Every record with its split."""
        self.division = ""
        if records[0].split is None:
            ratio, seed = self.split_ratio, self.split_seed
            self.division = f" (split {':'.join(f'{share:g}' for share in ratio)} with seed {seed})"
            shares = dict(zip(self.splits, ratio, strict=True))
            split_of = _split_files({record.file for record in records}, shares, seed)
            return [record._replace(split=split_of[record.file]) for record in records]
        first: dict[str, _Record] = {}
        for record in records:
            other = first.setdefault(record.file, record)
            if other.split != record.split:
                raise ValueError(
                    f"{self.source}, {record.place}: {record.file} is in {record.split}, but in {other.split} at "
                    f"{other.place}; "
                    "expected one split for all rows of a file: a model is not tested on what it was trained on"
                )
        return records

    def _hub_splits(
        self, repo_id: str, config_name: str | None = None, revision: str | None = None, split: str | None = None
    ) -> dict[str, str]:
        """Our names of the dataset's splits -> its own; empty where its only one, or `split`, is divided by ratio."""
        names = datasets.get_dataset_split_names(repo_id, config_name, revision=revision)
        if split is not None or len(names) == 1:
            return {}
        found = {ours: name for name, ours in self.names.items() if name in names}
        if not found:
            raise ValueError(
                f"{repo_id} has splits {', '.join(names)}; expected {', '.join(self.splits)}, or choose one to divide "
                "with hub={'split': ...}"
            )
        return found

    def _hub_records(
        self, repo_id: str, config_name: str | None = None, revision: str | None = None, split: str | None = None
    ) -> list[_Record]:
        """Sets `embedded`: path -> table, row and column of the videos that are embedded in it."""
        names = self._hub_splits(repo_id, config_name, revision, split)
        if names and self.split not in names:
            raise ValueError(f"{repo_id} has no split {self.split}; it has {', '.join(names.values())}")
        chosen = split or names.get(self.split)
        if chosen is None:
            (chosen,) = datasets.get_dataset_split_names(repo_id, config_name, revision=revision)
        table = cast(datasets.Dataset, datasets.load_dataset(repo_id, config_name, split=chosen, revision=revision))
        self.source = f"{repo_id}, split {chosen}"
        # Another folder for another version of the dataset.
        parent = self.root if self.data_dir is not None else Path(config.HF_DATASETS_CACHE) / "videos"
        folder = parent / f"captions-{Hasher.hash([str(repo_id), table._fingerprint])}"
        columns, column = table.column_names, self.video_column or "video"
        table = flat_videos(table, column)
        content, rows, sizes = f"{column}.bytes", table, iter(())
        if content in table.column_names:
            rows = table.remove_columns(content)
            sizes = iter(pyarrow.compute.call_function("binary_length", [table.data.column(content)]).to_pylist())
        self.embedded: dict[str, tuple[datasets.Dataset, int, str]] = {}
        ids: dict[str, str] = {}
        same_name: Counter[str] = Counter()

        def locate(value: tuple[int, str | None, int | None]) -> tuple[str, str]:
            row, path, size = value
            name = PurePosixPath((path or f"{row}.mp4").replace("\\", "/")).name
            if size is not None:
                suffix = "" if name.lower().endswith(VIDEO_SUFFIXES) else ".mp4"
                path = str(folder / str(size) / f"{name}{suffix}")
                self.embedded.setdefault(path, (table, row, content))
            elif path is None or not os.path.isfile(path):
                raise ValueError(
                    f"the video is {path!r}; expected its bytes, or a file on this machine. Download the files of "
                    "the repository (hf download) and load that folder with data_dir="
                )
            if path not in ids:
                same_name[name] += 1
                ids[path] = name if same_name[name] == 1 else f"{name} ({same_name[name]})"
            return ids[path], path

        numbered = (
            (f"row {row}", values | {column: (row, values.get(f"{column}.path"), next(sizes, None))})
            for row, values in enumerate(cast(list[dict[str, Any]], rows))
        )
        return self._divided(
            self._records(self.source, columns, numbered, column, locate, self.split if names else None)
        )


def _read_jsonl(path: Path) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    records = []
    # Not splitlines: U+2028 within a line is text.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            values = parse_json(line, f"{path}, line {number}")
            if not isinstance(values, dict):
                raise ValueError(f"{path}, line {number}: {line[:60]!r} is no object; expected one such as {{...}}")
            records.append((f"line {number}", values))
    return list(dict.fromkeys(name for _, values in records for name in values)), records


def _read_parquet(path: Path) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
    try:
        rows, size = pyarrow.parquet.read_metadata(path).num_rows, path.stat().st_size
        if rows > 10_000 + size:  # written out, a value that is repeated might fill any memory
            raise ValueError(f"its {size:,} bytes unfold to {rows:,} rows")
        table = pyarrow.parquet.read_table(path)
        return table.column_names, [(f"row {index}", values) for index, values in enumerate(table.to_pylist())]
    except (pyarrow.ArrowException, OSError, ValueError) as error:  # damage shows when it is opened, or later
        raise ValueError(f"{path}: no Parquet file that can be read: {error}") from error


READERS = {".csv": read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}


def _locate(folder: Path, prefix: Path, name: Any) -> tuple[str, str | None]:
    """The normal form of a file name, which must stay inside the folder, and the path of its file, if there is one."""
    expected = "expected a text such as clips/a.mp4"
    if not isinstance(name, str) or not name.strip():
        spaces = ", which is only spaces" if isinstance(name, str) and name else ""
        raise ValueError(f"the file name is {name!r}{spaces}; {expected}")
    file = PurePosixPath(name)
    if file.is_absolute() or ".." in file.parts or "\0" in name:
        raise ValueError(f"the file name leads out of {folder}; expected a name within that folder")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the file name is {name!r}, which is no Unicode text; {expected}") from error
    for form in (str(file), *(unicodedata.normalize(form, str(file)) for form in ("NFC", "NFD"))):
        if (path := folder / form).is_file():  # macOS takes letters and their accents apart
            return str(prefix / file), str(path)
    if name != name.strip():
        raise ValueError(
            f"the file name is {name!r}, with spaces around it, and no file has it; expected {name.strip()!r}"
        )
    return str(prefix / file), None


def _captions(value: Any, is_csv: bool) -> list[str]:
    """One text or a list of them; a CSV holds a list as JSON."""
    if is_csv and isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with suppress(json.JSONDecodeError):  # a text in brackets
            value = json.loads(value)
    return check_captions([value] if isinstance(value, str) or value is None else value)


def _window(start: Any, end: Any) -> tuple[float | None, float | None]:
    """Seconds, or None for "from the first" and "to the last"."""
    values = []
    for name, value in (("start", start), ("end", end)):
        try:
            seconds = None if value is None else math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if seconds is not None and not 0 <= seconds <= MAX_SECONDS:
            expected = f"seconds from 0 to {MAX_SECONDS:,.0f}, or nothing for the whole video"
            raise ValueError(f"{name} is {value!r}; expected {expected}")
        values.append(seconds)
    if values[1] is not None and values[1] <= (values[0] or 0):
        raise ValueError(f"the window ends at {end} and starts at {start or 0}; expected an end after the start")
    return values[0], values[1]


def _split_files(files: set[str], ratio: Mapping[str, float], seed: int) -> dict[str, str]:
    """File -> split.

    Files are ordered by a hash of seed and name, so a folder that grows keeps almost all of them where they were.
    Each split gets two files at least, if there are so many: with one, every retrieval is right.
    """
    names = [name for name, share in ratio.items() if share > 0]
    if len(files) < len(names):
        raise IndivisibleError(
            f"{len(files)} videos cannot be divided into {', '.join(names)}; expected {len(names)} at least, or "
            "another split_ratio, such as [0, 0, 1]"
        )
    largest = max(names, key=ratio.__getitem__)
    least = min(2, len(files) // len(names))
    sizes = {name: max(least, round(len(files) * ratio[name])) for name in names if name != largest}
    sizes[largest] = len(files) - sum(sizes.values())
    order = sorted(files, key=lambda file: hashlib.sha256(f"{seed} {file}".encode()).digest())
    # From the end: the test's files then are the last to change when the folder grows.
    split_of, position = {}, 0
    for name in reversed(names):
        split_of |= dict.fromkeys(order[position : position + sizes[name]], name)
        position += sizes[name]
    return split_of


BENCHMARK = Captions
