"""The LanceDB tables of an index: one row per clip, written batch by batch, each batch in one commit."""

import errno
import json
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from filelock import FileLock

OK, ERROR, GONE = "ok", "error", "gone"
# A change of the schema, or of what a column means, needs a new version, or old indexes pass for current ones.
VERSION = 1
# Rows below which scanning a column is as fast as looking it up.
_INDEXED_ROWS = 10_000
# Small files, one per commit, beyond which they are merged; more in the middle of a run, as merging writes them anew.
_FRAGMENTS, _FRAGMENTS_GROWING = 64, 1024
# Readers take a new snapshot for every search, so nobody needs old ones for long.
_KEPT_VERSIONS = timedelta(minutes=10)
_MOVED = "the index is no longer there; if it was moved, open it under its new path"


@dataclass
class ClipFeatures:
    """What the index keeps of one clip.

    Args:
        start, end: seconds in the video.
        times: float64 [n], seconds in the video of its real frames.
        frames: float16 [Nf, D], the frame features that count.
    """

    start: float
    end: float
    times: np.ndarray
    frames: np.ndarray

    @property
    def pooled(self) -> np.ndarray:
        """float16 [D], the mean of the frames, of norm 1."""
        mean = self.frames.astype(np.float32).mean(axis=0)
        return (mean / np.linalg.norm(mean)).astype(np.float16)


@dataclass
class VideoRecord:
    """One video as it goes into the store.

    Args:
        video_id: how users call it.
        path: of the file.
        size, mtime_ns: of the file, by which a change is noticed.
        sha256: of its content; empty if it could not be read.
        duration: seconds.
        clips: none if the video could not be read.
        error: why it, or some of its clips, could not be read.
        moved_from: id under which the store has had the same content so far.
    """

    video_id: str
    path: str
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    duration: float = 0.0
    clips: list[ClipFeatures] = field(default_factory=list)
    error: str = ""
    moved_from: str | None = None

    @property
    def status(self) -> str:
        """Of its rows."""
        return OK if self.clips else ERROR


class Store:
    """The tables below one path or object store URI: `clips` and, in one row of JSON, `about`.

    Writers of one machine take turns through a file lock. An object store has none: let one process write there.
    """

    def __init__(self, uri: str | Path, storage_options: dict[str, str] | None = None):
        self.uri = os.fspath(uri)
        self._is_local = "://" not in self.uri
        self._storage_options = storage_options
        if self._is_local and not os.path.isdir(self.uri):
            raise FileNotFoundError(f"{self.uri}: no such index; `glccl index` or VideoIndex.create makes one")
        self._connection = lancedb.connect(self.uri, storage_options=storage_options)
        about = _read_about(self._connection)
        if about is None:
            raise FileNotFoundError(f"{self.uri}: holds no index; `glccl index` or VideoIndex.create makes one there")
        self.about: dict[str, Any] = about
        if self.about["version"] != VERSION:
            raise ValueError(
                f"{self.uri}: was made by another release (format {self.about['version']}, this one reads {VERSION}); "
                "index the videos anew"
            )

    @classmethod
    def create(
        cls,
        uri: str | Path,
        about: dict[str, Any],
        max_frames: int,
        width: int,
        storage_options: dict[str, str] | None = None,
    ) -> "Store":
        """Makes the tables where there is no index yet; raises FileExistsError where there is one."""
        uri = os.fspath(uri)
        if "://" not in uri:
            os.makedirs(uri, exist_ok=True)
        with _lock(uri):
            connection = lancedb.connect(uri, storage_options=storage_options)
            if _read_about(connection) is not None:
                raise FileExistsError(f"{uri}: there is an index already; open it, or delete it first")
            if (clips := _open_table(connection, "clips")) and (count := clips.count_rows()):
                raise ValueError(f"{uri}: holds {count} clips, but its table 'about' is lost; index anew elsewhere")
            with explained(uri):
                connection.create_table("clips", schema=_schema(max_frames, width), mode="overwrite")
                # Last: until it can be read there is no index, and a call that was killed can be repeated.
                content = json.dumps({**about, "version": VERSION, "max_frames": max_frames, "width": width})
                connection.create_table("about", pa.table({"json": [content]}), mode="overwrite")
        return cls(uri, storage_options)

    def lock(self) -> AbstractContextManager:
        """Held while something is written."""
        return _lock(self.uri)

    def open_clips(self) -> Any:
        """The table of clips as it is now; it stays so, whatever is written later."""
        table = _open_table(self._connection, "clips")
        if table is None:
            raise FileNotFoundError(f"{self.uri}: {_MOVED}")
        return table

    def select(self, columns: Sequence[str], column: str, values: Sequence[str | int]) -> list[dict[str, Any]]:
        """The rows whose `column` has one of the values."""
        rows = []
        for start in range(0, len(values), 256):
            condition = f"{column} IN ({', '.join(map(_literal, values[start : start + 256]))})"
            rows += self.open_clips().search().where(condition).select(list(columns)).to_list()
        return rows

    def videos(self, columns: Sequence[str], condition: str = "true") -> Iterator[dict[str, Any]]:
        """The first row of every video, read or not."""
        # Rows on their way out have no path; they stay where a commit was killed before its last step.
        query = self.open_clips().search().where(f"clip = 0 AND status != '{GONE}' AND ({condition})")
        for batch in query.select(list(columns)).to_batches():
            yield from batch.to_pylist()

    def read(self, video_id: str, sha256: str) -> VideoRecord | None:
        """A video as it was written, if it has that content."""
        columns = [
            "path",
            "sha256",
            "duration",
            "error",
            "clip",
            "start",
            "end",
            "frame_times",
            "frames",
            "num_frames",
        ]
        rows = [row for row in self.select(columns, "video_id", [video_id]) if row["sha256"] == sha256]
        if not rows:
            return None
        shape = self.about["max_frames"], self.about["width"]
        record = VideoRecord(video_id, **{name: rows[0][name] for name in ("path", "sha256", "duration", "error")})
        for row in sorted(rows, key=lambda row: row["clip"]):
            frames = np.array(row["frames"], np.float16).reshape(shape)[: row["num_frames"]]
            record.clips.append(ClipFeatures(row["start"], row["end"], np.array(row["frame_times"]), frames))
        return record

    def commit(self, records: Sequence[VideoRecord]) -> list[VideoRecord]:
        """Writes videos, all or none of them, in the place of what the store had under their ids.

        Returns:
            The records written: without those that another process has written meanwhile from the same content.
        """
        with self.lock(), explained(self.uri):
            ids = [record.video_id for record in records] + [r.moved_from for r in records if r.moved_from]
            known: dict[str, list[dict[str, Any]]] = {}
            columns = ["video_id", "video_key", "clip", "path", "mtime_ns", "sha256", "status", "error"]
            for row in self.select(columns, "video_id", ids):
                known.setdefault(row["video_id"], []).append(row)
            written = [record for record in records if not _is_there(record, known.get(record.video_id, []))]
            rows, replaces, leaves = [], False, False
            for record in written:
                # Popped: of two files that have the content of one that is gone, one takes its place.
                old = [row for name in (record.video_id, record.moved_from) for row in known.pop(name, ())]
                new = self._rows(record, old[0]["video_key"] if old else secrets.randbits(62))
                kept = {(row["video_key"], row["clip"]) for row in new}
                surplus = {(row["video_key"], row["clip"]) for row in old} - kept
                rows += new + [self._gone(key, clip) for key, clip in sorted(surplus)]
                replaces, leaves = replaces or bool(old), leaves or bool(surplus)
            if not rows:
                return []
            table = self.open_clips()
            data = pa.Table.from_pylist(rows, schema=table.schema)
            if replaces:
                # One commit for rows that change, appear and leave: no reader or kill ever sees half of it.
                merge = table.merge_insert(["video_key", "clip"])
                merge.when_matched_update_all().when_not_matched_insert_all().execute(data, on_bad_vectors="null")
            else:
                table.add(data)
            if leaves:
                table.delete(f"status = '{GONE}'")
            return written

    def remove(self, video_ids: Sequence[str]) -> int:
        """Deletes videos; returns how many there were."""
        with self.lock(), explained(self.uri):
            found = {row["video_id"] for row in self.select(["video_id"], "video_id", video_ids)}
            for start in range(0, len(video_ids), 256):
                self.open_clips().delete(f"video_id IN ({', '.join(map(_literal, video_ids[start : start + 256]))})")
        return len(found)

    def compact(self, *, growing: bool = False) -> None:
        """Merges small files once there is enough to gain, and brings the lookup indexes up to date.

        In the middle of a long run (`growing`) the indexes come first: without them every lookup opens all files that
        the run has written so far, and its time grows with the square of the number of videos.
        """
        fragments = self.open_clips().stats()["fragment_stats"]["num_small_fragments"]
        merge = fragments >= (_FRAGMENTS_GROWING if growing else _FRAGMENTS)
        if not (merge or growing):
            return
        with self.lock(), explained(self.uri):
            table = self.open_clips()
            if table.count_rows() >= _INDEXED_ROWS:
                for column in ("video_id", "sha256"):
                    table.create_index(column, config=lancedb.index.BTree(), replace=True)
            if merge:
                table.optimize(cleanup_older_than=_KEPT_VERSIONS)

    def bytes_on_disk(self) -> int | None:
        """Of the whole index; None in an object store."""
        if not self._is_local:
            return None
        return sum(file.stat().st_size for file in Path(self.uri).rglob("*") if file.is_file())

    def _rows(self, record: VideoRecord, video_key: int) -> list[dict[str, Any]]:
        common = {
            "video_key": video_key,
            "video_id": record.video_id,
            "path": record.path,
            "size": record.size,
            "mtime_ns": record.mtime_ns,
            "sha256": record.sha256,
            "duration": record.duration,
            "fingerprint": self.about["fingerprint"],
            "status": record.status,
            "error": record.error,
        }
        if not record.clips:
            return [{**common, "clip": 0, "num_frames": 0}]
        rows = []
        for number, clip in enumerate(record.clips):
            frames = np.zeros((self.about["max_frames"], self.about["width"]), np.float16)
            frames[: len(clip.frames)] = clip.frames
            rows.append(
                {
                    **common,
                    "clip": number,
                    "start": clip.start,
                    "end": clip.end,
                    "frame_times": clip.times,
                    "num_frames": len(clip.frames),
                    "frames": frames.ravel(),
                    "pooled": clip.pooled,
                }
            )
        return rows

    def _gone(self, video_key: int, clip: int) -> dict[str, Any]:
        return {"video_key": video_key, "clip": clip, "status": GONE}


def _is_there(record: VideoRecord, rows: list[dict[str, Any]]) -> bool:
    """Whether the store has this very state of the file."""
    state = ("status", "path", "sha256", "mtime_ns", "error")
    return any(all(row[name] == getattr(record, name) for name in state) for row in rows)


def _schema(max_frames: int, width: int) -> pa.Schema:
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
            "frames": pa.list_(pa.float16(), max_frames * width),
            "pooled": pa.list_(pa.float16(), width),
            "fingerprint": pa.string(),
            "status": pa.string(),
            "error": pa.string(),
        }
    )


def _open_table(connection: Any, name: str) -> Any:
    """A table as it is now; None where it is not, or where a kill left no more than its folder."""
    try:
        return connection.open_table(name)
    except ValueError as error:
        if "was not found" in str(error):
            return None
        raise


def _read_about(connection: Any) -> dict[str, Any] | None:
    table = _open_table(connection, "about")
    return None if table is None else json.loads(table.to_arrow()["json"][0].as_py())


def _lock(uri: str) -> AbstractContextManager:
    if "://" in uri:
        return nullcontext()
    if not os.path.isdir(uri):  # LanceDB and FileLock would make it anew
        raise FileNotFoundError(f"{uri}: {_MOVED}")
    return FileLock(os.path.join(uri, ".lock"))


def _literal(value: str | int) -> str:
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """A full disk as an error that says so; LanceDB reports it in the middle of a long message."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
            raise OSError(
                errno.ENOSPC,
                f"no space left for the index {uri}: what was written before is intact; make room and run it again",
            ) from error
        raise
