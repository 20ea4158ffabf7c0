"""Copies of the benchmarks on the Hub, whose columns, configurations and archives differ -> the same rows."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import datasets
from datasets.fingerprint import Hasher
from huggingface_hub import snapshot_download

from ..atomic import write_whole
from ..video_files import VIDEO_SUFFIXES
from .archives import ARCHIVE_PATTERNS, extract, find_archives
from .files import VideoFiles, safe_path

if TYPE_CHECKING:
    from .benchmark import VideoBenchmark

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
        captions, first = {}, {}
        # A mirror may have a row for each caption. The bytes of videos are not read on the way.
        for number, row in enumerate(table.select_columns([n for n in table.column_names if n != "video.bytes"])):
            if texts := row["caption"]:
                video_id = _video_id(row)
                captions.setdefault(video_id, []).extend([texts] if isinstance(texts, str) else texts)
                first.setdefault(video_id, (number, row.get("duration")))
        mirrored = (builder.mirrored(video_id, texts, first[video_id][1]) for video_id, texts in captions.items())
        videos, given, files = list(builder.select_mirrored(mirrored)), {}, None
        if builder.config.with_videos:
            folder = Path(datasets.config.HF_DATASETS_CACHE) / "videos"
            folder /= f"{builder.name}-{Hasher.hash([str(self.repo_id), self.revision])}"
            if builder.config.data_dir is not None:
                folder = builder.root / builder.config.videos_dir
            if "video.path" in table.column_names:
                given = {video.video_id: self._place(table[first[video.video_id][0]], folder) for video in videos}
            complete = all(os.path.isabs(given.get(video.video_id, "")) for video in videos)
            files = VideoFiles() if complete else self._extracted(folder)
        contents = {column: [] for column in builder.info.features}
        for row in builder.rows(videos, files):
            if path := given.get(row["video_id"]):
                row["video"] = path if os.path.isabs(path) else files.find(path) or row["video"]
            for column, values in contents.items():
                values.append(row[column])
        return datasets.Dataset.from_dict(contents, features=builder.info.features, split=builder.split)

    def _table(self, builder: "VideoBenchmark") -> datasets.Dataset:
        """The rows under our names: caption and, if there, video_id, duration, video.path and video.bytes."""
        configs = datasets.get_dataset_config_names(self.repo_id, revision=self.revision)
        config, usual = self.config_name, builder.mirror_config()
        if config is None and usual in configs:
            config = usual
        names = datasets.get_dataset_split_names(self.repo_id, config, revision=self.revision)
        wanted = [name for name in SPLITS[builder.split] if name in names][:1]
        if self.split is not None:
            wanted = [self.split]
        elif builder.mirror_needs_all_splits() or (not wanted and config and config == usual and len(names) == 1):
            wanted = names
        if not wanted or not set(wanted) <= set(names):
            raise ValueError(
                f"{self.repo_id} has no split for {builder.name} {builder.split}"
                f"{f' in its configuration {config}' if config else ''}: it has splits {', '.join(names)} and "
                f"configurations {', '.join(configs)}. Choose with hub={{'config_name': ..., 'split': ...}}"
            )
        parts = [datasets.load_dataset(self.repo_id, config, split=name, revision=self.revision) for name in wanted]
        table = datasets.concatenate_datasets(parts)
        if unknown := set(self.columns) - set(COLUMNS):
            raise ValueError(f"columns: {sorted(unknown)[0]!r} must be one of {', '.join(COLUMNS)}")
        found, theirs = {}, ", ".join(table.column_names)
        for ours, usual in COLUMNS.items():
            names = [self.columns[ours]] if ours in self.columns else usual
            if name := next((name for name in names if name in table.column_names), None):
                found[name] = ours
            elif ours in self.columns or ours == "caption":
                raise ValueError(
                    f"{self.repo_id} has no column {' or '.join(names)} for {ours!r}; it has {theirs}. "
                    f"Name it with hub={{'columns': {{{ours!r}: ...}}}}"
                )
        if not {"video_id", "video"} & set(found.values()):
            raise ValueError(
                f"{self.repo_id} has no column of video ids among {theirs}; "
                "name it with hub={'columns': {'video_id': ...}}"
            )
        table = table.select_columns(list(found)).rename_columns(found)
        if "video" in table.column_names:
            if table.features["video"] == datasets.Value("large_string"):
                table = table.cast_column("video", datasets.Value("string"))
            table = table.cast_column("video", datasets.Video(decode=False))  # path, bytes or struct -> struct
        return table.flatten().with_format(None)  # flatten leaves the format with the old columns

    def _place(self, row: dict[str, Any], folder: Path) -> str:
        """Where the row says its video is: an absolute path (for bytes too), a name in an archive, or ""."""
        path = row["video.path"] or ""
        name = PurePosixPath(path.replace("\\", "/"))
        if row["video.bytes"] is not None:
            suffix = name.suffix.lower() if name.suffix.lower() in VIDEO_SUFFIXES else ".mp4"
            target = safe_path(folder, _video_id(row) + suffix, self.repo_id).absolute()
            if not target.exists() or target.stat().st_size != len(row["video.bytes"]):
                write_whole(target, io.BytesIO(row["video.bytes"]))
            return str(target)
        return path if os.path.isabs(path) and os.path.isfile(path) else name.name

    def _extracted(self, folder: Path) -> VideoFiles:
        """Videos that lie in the folder, in the repository, or in archives of either."""
        repository = Path(self.repo_id).absolute()
        if not repository.is_dir():
            patterns = [*ARCHIVE_PATTERNS, *(f"*{suffix}" for suffix in VIDEO_SUFFIXES)]
            repository = Path(
                snapshot_download(self.repo_id, repo_type="dataset", revision=self.revision, allow_patterns=patterns)
            )
        for archive in find_archives(repository, *filter(Path.is_dir, repository.iterdir()), folder):
            extract(archive, folder)
        return VideoFiles(folder, repository)


def _video_id(row: dict[str, Any]) -> str:
    """The id, else the name of the video's file without .mp4."""
    if "video_id" in row:
        return str(row["video_id"])
    if row["video.path"] is None:
        raise ValueError(
            "a row has neither an id nor a path of its video; name the column of ids with hub={'columns'}"
        )
    return PurePosixPath(row["video.path"].replace("\\", "/")).name.removesuffix(".mp4")
