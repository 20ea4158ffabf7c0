"""Copies of the benchmarks on the Hub, whose columns, configurations and archives differ -> the same rows."""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import datasets
from datasets.fingerprint import Hasher
from huggingface_hub import snapshot_download

from .archives import ARCHIVE_PATTERNS, extract, find_archives, safe_path
from .files import VIDEO_SUFFIXES, VideoFiles, write_whole

if TYPE_CHECKING:
    from .benchmark import AnnotatedVideo, VideoBenchmark

COLUMNS = {
    "video_id": ("video_id", "videoID", "video_name", "id"),
    "caption": ("caption", "captions", "enCap", "sentence", "text"),
    "video": ("video", "video_path", "path"),
    "duration": ("duration",),
}
SPLITS = {
    "train": ("train",),
    "validation": ("validation", "val"),
    "test": ("test", "test_1k", "val1", "val_1"),
}


@dataclass
class Mirror:
    """A dataset on the Hub, or in a local folder, that holds a benchmark.

    Args:
        repo_id: its repository or folder.
        config_name: its configuration; by default the one that known mirrors of the benchmark have for the split.
        split: its split; by default the one named like ours.
        columns: our names (video_id, caption, video, duration) -> its own, where they are not recognised.
        revision: of the repository.
    """

    repo_id: str
    config_name: str | None = None
    split: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    revision: str | None = None

    def load(self, builder: "VideoBenchmark") -> datasets.Dataset:
        """The split of the builder, its columns named and its captions laid out as from local files.

        A caption may be a string or a list. A video may be a path, its bytes, or both in a struct; bytes are written
        to files once, archives of the repository are extracted once: below `data_dir` if there is one, else in the
        cache of `datasets`.
        """
        table = self._table(builder)
        columns = self._columns(table)
        videos = list(builder.select_mirrored(self._videos(table.select_columns(_texts(columns)), columns, builder)))
        given, files = {}, None
        if builder.config.with_videos:
            wanted = {video.video_id for video in videos}
            given = self._given(table, columns, builder, wanted)
            complete = all(os.path.isabs(given.get(video_id, "")) for video_id in wanted)
            files = VideoFiles() if complete else self._extracted(builder)
        contents = {column: [] for column in builder.info.features}
        for row in builder.rows(videos, files):
            if path := given.get(row["video_id"]):
                row["video"] = path if os.path.isabs(path) else files.find(path) or row["video"]
            for column, values in contents.items():
                values.append(row[column])
        return datasets.Dataset.from_dict(contents, features=builder.info.features, split=builder.split)

    def _table(self, builder: "VideoBenchmark") -> datasets.Dataset:
        configs = datasets.get_dataset_config_names(self.repo_id, revision=self.revision)
        config = self.config_name
        if config is None and builder.mirror_config() in configs:
            config = builder.mirror_config()
        names = datasets.get_dataset_split_names(self.repo_id, config, revision=self.revision)
        if self.split is not None:
            wanted = [self.split]
        elif builder.mirror_needs_all_splits():
            wanted = names
        else:
            wanted = [name for name in SPLITS[builder.split] if name in names][:1]
            if not wanted and config is not None and config == builder.mirror_config() and len(names) == 1:
                wanted = names
        if not wanted or not set(wanted) <= set(names):
            raise ValueError(
                f"{self.repo_id} has no split for {builder.name} {builder.split}"
                f"{f' in its configuration {config}' if config else ''}: it has splits {', '.join(names)} and "
                f"configurations {', '.join(configs)}. Choose with hub={{'config_name': ..., 'split': ...}}"
            )
        parts = [datasets.load_dataset(self.repo_id, config, split=name, revision=self.revision) for name in wanted]
        table = datasets.concatenate_datasets(parts)
        for name, feature in table.features.items():
            if isinstance(feature, datasets.Video):
                table = table.cast_column(name, datasets.Video(decode=False))
        return table

    def _columns(self, table: datasets.Dataset) -> dict[str, str]:
        if unknown := set(self.columns) - set(COLUMNS):
            raise ValueError(f"columns: {sorted(unknown)[0]!r} must be one of {', '.join(COLUMNS)}")
        found = {}
        for ours, usual in COLUMNS.items():
            names = [self.columns[ours]] if ours in self.columns else usual
            name = next((name for name in names if name in table.column_names), None)
            if name:
                found[ours] = name
            elif ours in self.columns or ours == "caption":
                raise ValueError(
                    f"{self.repo_id} has no column {' or '.join(names)} for {ours!r}; it has "
                    f"{', '.join(table.column_names)}. Name it with hub={{'columns': {{{ours!r}: ...}}}}"
                )
        if "video_id" not in found and "video" not in found:
            raise ValueError(
                f"{self.repo_id} has no column of video ids among {', '.join(table.column_names)}; "
                "name it with hub={'columns': {'video_id': ...}}"
            )
        return found

    def _videos(
        self, table: datasets.Dataset, columns: dict[str, str], builder: "VideoBenchmark"
    ) -> Iterator["AnnotatedVideo"]:
        """One per video: a mirror may have a row for each caption."""
        captions: dict[str, list[str]] = {}
        durations: dict[str, float | None] = {}
        for row in table:
            texts = row[columns["caption"]]
            if texts:
                video_id = _video_id(row, columns)
                captions.setdefault(video_id, []).extend([texts] if isinstance(texts, str) else texts)
                durations[video_id] = row.get(columns.get("duration"))
        for video_id, texts in captions.items():
            yield builder.mirrored(video_id, texts, durations[video_id])

    def _given(
        self, table: datasets.Dataset, columns: dict[str, str], builder: "VideoBenchmark", wanted: set[str]
    ) -> dict[str, str]:
        """Where the mirror says each wanted video is: an absolute path (for bytes too) or a name in an archive."""
        given: dict[str, str] = {}
        if "video" not in columns:
            return given
        for row in table.select_columns([columns[name] for name in ("video_id", "video") if name in columns]):
            video_id, video = _video_id(row, columns), row[columns["video"]]
            if video_id in given or video_id not in wanted or video is None:
                continue
            content, path = _content(video), _path(video) or ""
            if content is not None:
                suffix = PurePosixPath(path).suffix.lower()
                name = video_id + (suffix if suffix in VIDEO_SUFFIXES else ".mp4")
                target = safe_path(self._folder(builder), name, self.repo_id)
                if not target.exists() or target.stat().st_size != len(content):
                    write_whole(target, io.BytesIO(content))
                given[video_id] = str(target.absolute())
            elif os.path.isabs(path) and os.path.isfile(path):
                given[video_id] = path
            elif path:
                given[video_id] = PurePosixPath(path.replace("\\", "/")).name
        return given

    def _extracted(self, builder: "VideoBenchmark") -> VideoFiles:
        """Videos that lie below `data_dir`, in the repository, or in archives of either."""
        folder = self._folder(builder)
        if Path(self.repo_id).is_dir():
            repository = Path(self.repo_id).absolute()
        else:
            patterns = [*ARCHIVE_PATTERNS, *(f"*{suffix}" for suffix in VIDEO_SUFFIXES)]
            repository = Path(
                snapshot_download(self.repo_id, repo_type="dataset", revision=self.revision, allow_patterns=patterns)
            )
        for archive in find_archives(repository, *filter(Path.is_dir, repository.iterdir()), folder):
            extract(archive, folder)
        return VideoFiles(folder, repository)

    def _folder(self, builder: "VideoBenchmark") -> Path:
        """Where videos are written."""
        if builder.config.data_dir is not None:
            return builder.root / builder.config.videos_dir
        name = f"{builder.name}-{Hasher.hash([str(self.repo_id), self.revision])}"
        return Path(datasets.config.HF_DATASETS_CACHE) / "videos" / name


def _texts(columns: dict[str, str]) -> list[str]:
    """The columns to read for captions: not the videos, unless the id is in their path."""
    needed = [columns[name] for name in ("video_id", "caption", "duration") if name in columns]
    return needed if "video_id" in columns else [*needed, columns["video"]]


def _video_id(row: dict[str, Any], columns: dict[str, str]) -> str:
    """The id, else the name of the video's file without .mp4."""
    if "video_id" in columns:
        return str(row[columns["video_id"]])
    path = _path(row[columns["video"]])
    if path is None:
        raise ValueError(
            "a row has neither an id nor a path of its video; name the column of ids with hub={'columns'}"
        )
    return PurePosixPath(path.replace("\\", "/")).name.removesuffix(".mp4")


def _content(video: Any) -> bytes | None:
    return video.get("bytes") if isinstance(video, dict) else video if isinstance(video, bytes) else None


def _path(video: Any) -> str | None:
    return video.get("path") if isinstance(video, dict) else video if isinstance(video, str) else None
