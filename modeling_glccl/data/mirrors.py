"""Copies of the benchmarks on the Hub, whose columns, configurations and archives differ -> the same rows."""

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, cast

import datasets
from datasets import config
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
SPLITS = {"train": ("train",), "validation": ("validation", "val"), "test": ("test", "test_1k", "val1", "val_1")}


def load_mirror(
    builder: "VideoBenchmark",
    repo_id: str,
    config_name: str | None = None,
    split: str | None = None,
    columns: dict[str, str] | None = None,
    revision: str | None = None,
) -> datasets.Dataset:
    """The split of the builder, its columns named and its captions laid out as from local files.

    A caption may be a string or a list, and a video a path, its bytes, or both in a struct. Bytes are written to files
    and archives extracted once: below `data_dir` if there is one, else in the cache of `datasets`.

    Args:
        builder, repo_id: of the benchmark, and the dataset on the Hub, or its copy in a folder.
        config_name: its configuration; by default the one that known mirrors of the benchmark have for the split.
        split: its split; by default the one named like ours.
        columns: our names (video_id, caption, video, duration) -> its own, where they are not recognised.
    """
    configs = datasets.get_dataset_config_names(repo_id, revision=revision)
    usual = builder.mirror_config()
    config_name = usual if config_name is None and usual in configs else config_name
    names = datasets.get_dataset_split_names(repo_id, config_name, revision=revision)
    wanted = [split] if split else [name for name in SPLITS[builder.split] if name in names][:1]
    listed = builder.mirror_list()
    if not split and (listed is not None or (not wanted and usual and config_name == usual and len(names) == 1)):
        wanted = names
    if not wanted or not set(wanted) <= set(names):
        raise ValueError(
            f"{repo_id} has no split for {builder.name} {builder.split}"
            f"{f' in its configuration {config_name}' if config_name else ''}: it has splits {', '.join(names)} and "
            f"configurations {', '.join(configs)}. Choose with hub={{'config_name': ..., 'split': ...}}"
        )
    parts = [datasets.load_dataset(repo_id, config_name, split=name, revision=revision) for name in wanted]
    table = _renamed(datasets.concatenate_datasets(cast(list[datasets.Dataset], parts)), repo_id, columns or {})
    captions, first = {}, {}
    # A mirror may have a row for each caption. The bytes of videos are not read on the way.
    light = table.select_columns([name for name in table.column_names if name != "video.bytes"])
    for number, row in enumerate(cast(list[dict[str, Any]], light)):
        if texts := row["caption"]:
            video_id = _video_id(row)
            captions.setdefault(video_id, []).extend([texts] if isinstance(texts, str) else texts)
            first.setdefault(video_id, (number, row.get("duration")))
    ids = captions if listed is None else filter(captions.__contains__, listed)
    videos = [builder.mirrored(video_id, captions[video_id], first[video_id][1]) for video_id in ids]
    if not builder.with_videos:
        return builder.table(videos, VideoFiles())

    folder = Path(config.HF_DATASETS_CACHE) / "videos" / f"{builder.name}-{Hasher.hash([repo_id, revision])}"
    if builder.data_dir is not None:
        folder = builder.root / builder.videos_dir
    given: dict[str, str] = {}  # an absolute path, or a name in an archive
    for video_id, *_ in videos if "video.path" in table.column_names else ():
        row = table[first[video_id][0]]
        name = PurePosixPath((row["video.path"] or "").replace("\\", "/"))
        if (content := row["video.bytes"]) is not None:
            suffix = name.suffix.lower() if name.suffix.lower() in VIDEO_SUFFIXES else ".mp4"
            target = safe_path(folder, video_id + suffix, repo_id).absolute()
            if not target.exists() or target.stat().st_size != len(content):
                write_whole(target, content)
            given[video_id] = str(target)
        else:
            there = os.path.isabs(row["video.path"] or "") and os.path.isfile(row["video.path"])
            given[video_id] = row["video.path"] if there else name.name
    files = VideoFiles()
    if not all(os.path.isabs(given.get(video.video_id, "")) for video in videos):
        repository = Path(repo_id).absolute()
        if not repository.is_dir():
            patterns = [*ARCHIVE_PATTERNS, *(f"*{suffix}" for suffix in VIDEO_SUFFIXES)]
            repository = Path(
                snapshot_download(repo_id, repo_type="dataset", revision=revision, allow_patterns=patterns)
            )
        for archive in find_archives(repository, *filter(Path.is_dir, repository.iterdir()), folder):
            extract(archive, folder)
        files = VideoFiles(folder, repository)
    found = {video_id: path if os.path.isabs(path) else files.find(path) for video_id, path in given.items()}
    for video_id, path in found.items():
        if path:
            files.add(video_id, path)
    return builder.table(videos, files)


def _renamed(table: datasets.Dataset, repo_id: str, columns: dict[str, str]) -> datasets.Dataset:
    """The rows under our names: caption and, if there, video_id, duration, video.path and video.bytes."""
    if unknown := set(columns) - set(COLUMNS):
        raise ValueError(f"columns: {sorted(unknown)[0]!r} must be one of {', '.join(COLUMNS)}")
    found, theirs = {}, ", ".join(table.column_names)
    for ours, usual in COLUMNS.items():
        names = [columns[ours]] if ours in columns else usual
        if name := next((name for name in names if name in table.column_names), None):
            found[name] = ours
        elif ours in columns or ours == "caption":
            raise ValueError(
                f"{repo_id} has no column {' or '.join(names)} for {ours!r}; it has {theirs}. "
                f"Name it with hub={{'columns': {{{ours!r}: ...}}}}"
            )
    if not {"video_id", "video"} & set(found.values()):
        raise ValueError(
            f"{repo_id} has no column of video ids among {theirs}; name it with hub={{'columns': {{'video_id': ...}}}}"
        )
    return flat_videos(table.select_columns(list(found)).rename_columns(found), "video")


def flat_videos(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """With columns `{column}.path` and `{column}.bytes` in place of paths, bytes or structs, if they are there."""
    if column in table.column_names:
        if table.features[column] == datasets.Value("large_string"):
            table = table.cast_column(column, datasets.Value("string"))
        table = table.cast_column(column, datasets.Video(decode=False))
    return table.flatten().with_format(None)  # flatten leaves the format with the old columns


def _video_id(row: dict[str, Any]) -> str:
    """The id, else the name of the video's file without .mp4."""
    if "video_id" in row:
        return str(row["video_id"])
    if row["video.path"] is None:
        raise ValueError(
            "a row has neither an id nor a path of its video; name the column of ids with hub={'columns'}"
        )
    return PurePosixPath(row["video.path"].replace("\\", "/")).name.removesuffix(".mp4")
