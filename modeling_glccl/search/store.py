"""The LanceDB tables of an index: one row per clip, written batch by batch, each batch in one commit."""

import errno
import json
import os
import secrets
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from os import PathLike
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from filelock import FileLock
from lancedb import DBConnection
from lancedb.index import FTS, BTree
from lancedb.table import Table

from ..arguments import check_index
from ..atomic import write_whole
from .clips import ClipSettings

OK, ERROR, GONE = "ok", "error", "gone"
# A change of the schema, or of what a column means, needs a new version, or old indexes pass for current ones.
VERSION = 1
MAX_SHARDS = 1000
# Rows below which scanning a column is as fast as looking it up.
_INDEXED_ROWS = 10_000
# Small files, one per commit, beyond which they are merged; more in the middle of a run, as merging writes them anew.
_FRAGMENTS, _FRAGMENTS_GROWING = 64, 1024
# Readers take a new snapshot for every search, so nobody needs old ones for long.
_KEPT_VERSIONS = timedelta(minutes=10)
_ABOUT: dict[str, Any] = {"model": dict, "fingerprint": str, "created": str, "max_frames": int, "width": int}
_ABOUT |= {"clip_length": float | int, "clip_stride": float | int, "clip_kind": str, "shards": int}
_MODEL: dict[str, Any] = {"checkpoint": str | None, "weights": str, "config": dict, "processor": dict}
# The newest file of versions of each table, and checksums of the lists of deleted rows, as the last writer left them.
_NEWEST = "newest.json"
_MOVED = "the index is no longer there; if it was moved, open it under its new path"


@dataclass
class ClipFeatures:
    """What the index keeps of one clip."""

    start: float  # seconds in the video
    end: float
    frame_times: np.ndarray  # float64 [n], seconds in the video of its real frames
    frames: np.ndarray  # float16 [Nf, D], the frame features that count

    @property
    def pooled(self) -> np.ndarray:
        """float16 [D], the mean of the frames, of norm 1; zeros where they cancel each other."""
        mean = self.frames.astype(np.float32).mean(axis=0)
        return (mean / (np.linalg.norm(mean) or 1)).astype(np.float16)


@dataclass
class VideoRecord:
    """One video as it goes into the store."""

    video_id: str
    path: str
    size: int = 0  # of the file, as mtime_ns: by them a change is noticed
    mtime_ns: int = 0
    sha256: str = ""  # of the content; empty if it could not be read
    duration: float = 0.0  # seconds
    clips: list[ClipFeatures] = field(default_factory=list)  # none if the video could not be read
    error: str = ""  # why it, or some of its clips, could not be read
    moved_from: str | None = None  # id under which the store has had the same content so far

    @property
    def status(self) -> str:
        """Whether there is anything to search."""
        return OK if self.clips else ERROR


class Store:
    """The tables below one path or object store URI: `clips`, `words` and, in one row of JSON, `about`.

    Writers of one machine take turns through a file lock. An object store has none: let one process write there.
    """

    def __init__(self, uri: str | PathLike[str], storage_options: dict[str, str] | None = None):
        self.uri = os.fspath(uri)
        check_index(self.uri)
        local = "://" not in self.uri
        with explained(self.uri):
            gone = _check_newest(self.uri) if local else None
            self._connection = lancedb.connect(self.uri, storage_options=storage_options)
            about = _read_about(self._connection)
            if about is None:
                raise FileNotFoundError(
                    f"{self.uri}: holds no index; `glccl index` or VideoIndex.create makes one there"
                )
            if gone:
                raise ValueError(f"{gone} is gone")
            if about["version"] != VERSION:
                raise ValueError(
                    f"{self.uri}: was made by another release (format {about['version']}, this one reads {VERSION}); "
                    "index the videos anew"
                )
            about = {"clip_kind": "fixed", "shards": 0, **about}  # older indexes know no other
            wrong = [name for name, kind in _ABOUT.items() if not isinstance(about.get(name), kind)]
            wrong = wrong or [name for name, kind in _MODEL.items() if not isinstance(about["model"].get(name), kind)]
            wrong = wrong or ([] if 0 <= about["shards"] <= MAX_SHARDS else ["shards"])
            if wrong or self.open_clips().schema != _schema(about):
                raise ValueError(f"its description of itself is wrong in {', '.join(wrong) or 'max_frames or width'}")
            self.about = about
            self.clip_settings = ClipSettings(about["clip_length"], about["clip_stride"], about["clip_kind"])

    @classmethod
    def create(
        cls, uri: str | PathLike[str], about: dict[str, Any], storage_options: dict[str, str] | None = None
    ) -> "Store":
        """Makes the tables where there is no index yet; raises FileExistsError where there is one."""
        uri = os.fspath(uri)
        if "://" not in uri:
            os.makedirs(uri, exist_ok=True)
        with writing(uri):
            if _read_about(lancedb.connect(uri, storage_options=storage_options)) is not None:
                raise FileExistsError(f"{uri}: there is an index already; open it, or delete it first")
            # Itself last: until its `about` can be read there is no index, and a call that was killed can be repeated.
            about = {**about, "id": secrets.token_hex(8)}
            shards = [(place, {**about, "shards": 0, "shard": n}) for n, place in enumerate(shard_uris(uri, about))]
            for place, what in [*shards, (uri, about)]:
                connection = lancedb.connect(place, storage_options=storage_options)
                if (clips := _open_table(connection, "clips")) and (count := clips.count_rows()):
                    raise ValueError(
                        f"{place}: holds {count} clips, but its table 'about' is lost; index anew elsewhere"
                    )
                connection.create_table("clips", schema=_schema(about), mode="overwrite")
                content = pa.table({"json": [json.dumps({**what, "version": VERSION})]})
                connection.create_table("about", content, mode="overwrite")
        return cls(uri, storage_options)

    def change_checkpoint(self, checkpoint: str) -> None:
        """Writes down where the model now lies."""
        with writing(self.uri):
            self.about["model"]["checkpoint"] = checkpoint
            self._connection.open_table("about").update(values={"json": json.dumps(self.about)})

    def open_clips(self) -> Table:
        """The table of clips as it is now; it stays so, whatever is written later."""
        table = _open_table(self._connection, "clips")
        if table is None:
            raise FileNotFoundError(f"{self.uri}: {_MOVED}")
        return table

    def open_words(self) -> Table | None:
        """The table of what is said, as it is now; None where no release has looked for it yet."""
        return _open_table(self._connection, "words")

    def rows(self, columns: Sequence[str], condition: str) -> Iterable[dict[str, Any]]:
        """The clips for which an SQL condition holds."""
        with explained(self.uri):
            yield from _rows_of(self.open_clips(), columns, condition)

    def word_rows(self, columns: Sequence[str], condition: str) -> list[dict[str, Any]]:
        """The rows of what is said for which an SQL condition holds."""
        with explained(self.uri):
            table = self.open_words()
            return [] if table is None else list(_rows_of(table, columns, condition))

    def count(self, condition: str) -> int:
        """How many clips there are for which an SQL condition holds."""
        with explained(self.uri):
            return self.open_clips().count_rows(condition)

    def videos(self, columns: Sequence[str], condition: str = "true") -> Iterable[dict[str, Any]]:
        """The first row of every video, read or not, for which an SQL condition holds."""
        # Rows on their way out have no path; they stay where a commit was killed before its last step.
        return self.rows(columns, f"clip = 0 AND status != '{GONE}' AND ({condition})")

    def read(self, video_id: str, sha256: str | None = None) -> VideoRecord | None:
        """A video as it was written, if it could be read, and has that content."""
        condition = f"status = '{OK}' AND {is_in('video_id', [video_id])}"
        condition += "" if sha256 is None else f" AND {is_in('sha256', [sha256])}"
        columns = ["path", "duration", "error", "clip", "start", "end", "frame_times", "frames", "num_frames"]
        rows = sorted(self.rows(columns, condition), key=lambda row: row["clip"])
        if not rows:
            return None
        shape = self.about["max_frames"], self.about["width"]
        record = VideoRecord(video_id, rows[0]["path"], duration=rows[0]["duration"], error=rows[0]["error"])
        for row in rows:
            frames = np.array(row["frames"], np.float16).reshape(shape)[: row["num_frames"]]
            record.clips.append(ClipFeatures(row["start"], row["end"], np.array(row["frame_times"]), frames))
        return record

    def commit(self, records: Sequence[VideoRecord]) -> list[VideoRecord]:
        """Writes videos, all or none, in the place of what the store had under their ids; returns the records written:
        without those that another process has written meanwhile from the same content."""
        with writing(self.uri):
            ids = [record.video_id for record in records] + [r.moved_from for r in records if r.moved_from]
            known: dict[str | None, list[dict[str, Any]]] = {}
            state = ["status", "path", "sha256", "mtime_ns", "error"]
            for row in self.rows(["video_id", "video_key", "clip", *state], is_in("video_id", ids)):
                known.setdefault(row["video_id"], []).append(row)
            written, rows, replaces, leaves = [], [], False, False
            for record in records:
                stored = known.get(record.video_id, ())
                if any(all(row[name] == getattr(record, name) for name in state) for row in stored):
                    continue
                written.append(record)
                # Popped: of two files that have the content of one that is gone, one takes its place.
                old = [row for name in (record.video_id, record.moved_from) for row in known.pop(name, ())]
                new = self._rows(record, old[0]["video_key"] if old else secrets.randbits(62))
                surplus = {(row["video_key"], row["clip"]) for row in old}
                surplus -= {(row["video_key"], row["clip"]) for row in new}
                rows += new + [{"video_key": key, "clip": clip, "status": GONE} for key, clip in sorted(surplus)]
                replaces, leaves = replaces or bool(old), leaves or bool(surplus)
            if not rows:
                return []
            self._delete_words(
                {row["video_key"] for row in rows} - {row["video_key"] for row in rows if "path" in row}
            )
            self.write(pa.Table.from_pylist(rows, schema=_schema(self.about)), replaces)
            if leaves:
                self.delete(f"status = '{GONE}'")
            return written

    def write(self, rows: pa.Table, replaces: bool) -> None:
        """Adds rows, or puts them in the place of those with their `video_key` and `clip`; by the one whose turn it
        is, as `delete`."""
        if replaces:
            # One commit for rows that change, appear and leave: no reader or kill ever sees half of it.
            merge = self.open_clips().merge_insert(["video_key", "clip"])
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows, on_bad_vectors="null")
        else:
            self.open_clips().add(rows)

    def delete(self, condition: str) -> None:
        """Deletes the clips for which an SQL condition holds."""
        self.open_clips().delete(condition)

    def remove(self, video_ids: Sequence[str]) -> int:
        """Deletes videos; returns how many there were."""
        with writing(self.uri):
            found = {row["video_key"] for row in self.rows(["video_key"], is_in("video_id", video_ids))}
            self._delete_words(found)
            self.delete(is_in("video_id", video_ids))
        return len(found)

    def write_words(self, words: Mapping[int, Sequence[dict[str, Any]]]) -> None:
        """Puts rows in the place of all that the index has of what is said in some videos, by `video_key`."""
        with writing(self.uri):
            keys = {row["video_key"] for row in self.rows(["video_key"], is_in("video_key", words))}
            data = pa.Table.from_pylist([row for key in keys for row in words[key]], schema=_WORDS)
            table = self.open_words()
            if table is None:
                table = self._connection.create_table("words", schema=_WORDS, mode="overwrite")
            if not table.list_indices():
                table.create_index("text", config=FTS())
            if table.count_rows(is_in("video_key", keys)):
                merge = table.merge_insert(["video_key", "cue"])
                merge = merge.when_matched_update_all().when_not_matched_insert_all()
                merge.when_not_matched_by_source_delete(is_in("video_key", keys)).execute(data)
            else:
                table.add(data)

    def _delete_words(self, video_keys: Iterable[int]) -> None:
        # Before the clips: a kill in between leaves a video without words, which are read again, and none without it.
        if video_keys and (words := self.open_words()) is not None:
            words.delete(is_in("video_key", video_keys))

    def compact(self, growing: bool = False) -> None:
        """Merges small files once there is enough to gain, and brings the lookup indexes up to date.

        In the middle of a long run (`growing`) the indexes come first: without them every lookup opens all files that
        the run has written so far, and its time grows with the square of the number of videos.
        """
        with explained(self.uri):
            stats: Any = self.open_clips().stats()  # a dict, unlike what its annotation says
        fragments = stats["fragment_stats"]["num_small_fragments"]
        merge = fragments >= (_FRAGMENTS_GROWING if growing else _FRAGMENTS)
        if not (merge or growing):
            return
        with writing(self.uri):
            table = self.open_clips()
            if table.count_rows() >= _INDEXED_ROWS:
                for column in ("video_id", "video_key", "size"):
                    table.create_index(column, config=BTree(), replace=True)
            if merge:
                table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def compact_words(self, *, growing: bool = False) -> None:
        """Brings the full-text index up to date, and merges small files, once a search has many rows to read without.

        In the middle of a long run (`growing`) there may be more of them: the work grows with the table.
        """
        with writing(self.uri):
            if (table := self.open_words()) is None:
                return
            index = table.index_stats("text_idx")
            if index and index.num_unindexed_rows > 1000 + index.num_indexed_rows // (4 if growing else 100):
                table.create_index("video_key", config=BTree(), replace=True)
                table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def bytes_on_disk(self) -> int | None:
        """Of the whole index; None in an object store."""
        if "://" in self.uri:
            return None
        # With the files that another process deletes meanwhile: of theirs the sizes are not known any more.
        total = 0
        for folder, _, names in os.walk(self.uri):
            for name in names:
                with suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total

    def _rows(self, record: VideoRecord, video_key: int) -> list[dict[str, Any]]:
        more = {"video_key": video_key, "fingerprint": self.about["fingerprint"], "status": record.status}
        video, rows = vars(record) | more, []
        for number, clip in enumerate(record.clips):
            count = len(clip.frames)
            frames = np.zeros((self.about["max_frames"], self.about["width"]), np.float16)
            frames[:count] = clip.frames
            changed = {"clip": number, "num_frames": count, "frames": frames.ravel(), "pooled": clip.pooled}
            rows.append(video | vars(clip) | changed)
        return rows or [{**video, "clip": 0, "num_frames": 0}]


def shard_uris(uri: str, about: dict[str, Any]) -> list[str]:
    """Where the shards of an index lie, if it has any."""
    return [f"{uri.rstrip('/')}/shard-{number:04}" for number in range(about.get("shards", 0))]


def is_in(column: str, values: Iterable[str | int]) -> str:
    """The SQL condition that a column has one of the values."""
    literals = [str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'" for value in values]
    return f"{column} IN ({', '.join(literals)})" if literals else "false"


def _schema(about: dict[str, Any]) -> pa.Schema:
    return pa.schema(
        {
            "video_key": pa.int64(),
            "clip": pa.int32(),
            "video_id": pa.string(),
            "path": pa.string(),
            "size": pa.int64(),
            "mtime_ns": pa.int64(),
            "sha256": pa.string(),
            "duration": pa.float64(),
            "start": pa.float64(),
            "end": pa.float64(),
            "frame_times": pa.list_(pa.float64()),
            "num_frames": pa.int32(),
            "frames": pa.list_(pa.float16(), about["max_frames"] * about["width"]),
            "pooled": pa.list_(pa.float16(), about["width"]),
            "fingerprint": pa.string(),
            "status": pa.string(),
            "error": pa.string(),
        }
    )


_WORDS = pa.schema(
    {
        "video_key": pa.int64(),  # as in the table of clips: it stays where a video is moved
        "cue": pa.int32(),  # from 1; 0 is the state of the video, which has no text
        "start": pa.float64(),
        "end": pa.float64(),
        "text": pa.string(),
        "stamp": pa.string(),  # what it was read from: content of the video, sizes and times of subtitle files
        "source": pa.string(),
        "error": pa.string(),
    }
)


def _rows_of(table: Table, columns: Sequence[str], condition: str) -> Iterator[dict[str, Any]]:
    for batch in table.search().where(condition).select(list(columns)).to_batches():
        yield from batch.to_pylist()


def _open_table(connection: DBConnection, name: str) -> Table | None:
    """A table as it is now; None where it is not, or where a kill left no more than its folder."""
    try:
        return connection.open_table(name)
    except ValueError as error:
        if "was not found" in str(error):
            return None
        raise


def _read_about(connection: DBConnection) -> dict[str, Any] | None:
    table = _open_table(connection, "about")
    return None if table is None else json.loads(table.to_arrow()["json"][0].as_py())


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """The turn of one writer."""
    local = "://" not in uri
    if local and not os.path.isdir(uri):  # LanceDB and FileLock would make it anew
        raise FileNotFoundError(f"{uri}: {_MOVED}")
    with explained(uri), FileLock(os.path.join(uri, ".lock")) if local else nullcontext():
        yield
        if local:
            write_whole(Path(uri, _NEWEST), json.dumps(_newest(uri)).encode())


def _newest(uri: str) -> dict[str, str | int]:
    """The newest file of versions of each table, and a checksum of each list of deleted rows, by its path."""
    found: dict[str, str | int] = {}
    for table in Path(uri).glob("*.lance"):
        # The names count down; a file that is just being written has another ending.
        if names := [file.name for file in table.glob("_versions/*.manifest")]:
            found[table.name] = min(names)
        for path in table.glob("_deletions/*"):
            with suppress(FileNotFoundError):  # another process has just merged it away
                if path.is_file():  # reading a device might never end
                    found[path.relative_to(uri).as_posix()] = zlib.crc32(path.read_bytes())
    return found


def _check_newest(uri: str) -> str | None:
    """The newest description of a table that is gone: the table would open as it was before. Raises ValueError for a
    damaged list of deleted rows: a wrong length there would end the process, as LanceDB asks for so much memory."""
    path = Path(uri, _NEWEST)
    try:
        written = json.loads(path.read_text()) if path.is_file() else {}  # before looking, as others may write now
        now = _newest(uri)
        damaged = [name for name, known in written.items() if "/" in name and now.get(name, known) != known]
        tables = {table: name for table, name in written.items() if "/" not in table}
        gone = [f"{table}/_versions/{name}" for table, name in tables.items() if now.get(table, "9" * 20) > name]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: is damaged ({error}); if all else is whole, delete it") from error
    if damaged:
        raise ValueError(f"{damaged[0]} is damaged")
    return next(iter(gone), None)


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """A full disk, and files that are damaged or gone, as an error that says so.

    LanceDB reports them in the middle of a long message, in errors of many types.
    """
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
            raise OSError(
                errno.ENOSPC,
                f"no space left for the index {uri}: what was written before is intact; make room and run it again",
            ) from error
        if uri in str(error) and isinstance(error, ValueError | OSError):
            raise
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{uri}: a file of the index is damaged or gone ({type(error).__name__}: {reason}); index the videos "
            "anew in another folder"
        ) from error
