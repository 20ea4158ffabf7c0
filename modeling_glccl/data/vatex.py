"""VATEX, English captions, with the split of HGR (25,991 / 1,500 / 1,500 videos)."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from .benchmark import FILE_NAMES, AnnotatedVideo, Canonical, VideoBenchmark
from .files import VideoFiles, entry, find_annotation, find_optional_annotation, read_json, read_lines

# In HGR's split the official training videos are the training set, the official validation videos the other two.
OFFICIAL = {"train": "vatex_training_v1.0.json", "validation": "vatex_validation_v1.0.json"}


class VATEX(VideoBenchmark):
    """One row per caption; in the test every caption is a query against all videos."""

    title = "VATEX"

    def split_list(self) -> Path | None:
        """HGR's list of this split, where `data_dir` has it."""
        if self.config.data_dir is None:
            return None
        return find_optional_annotation(self.root, f"{FILE_NAMES[self.split]}_list.txt")

    def annotation_files(self) -> list[Path]:
        """The list of the split and a file with captions, in any of the forms in which they circulate."""
        names = ("ref_captions.json", "vatex_data.json", OFFICIAL["train" if self.split == "train" else "validation"])
        return [
            find_annotation(self.root, f"{FILE_NAMES[self.split]}_list.txt"),
            find_annotation(self.root, *names),
        ]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order of the list."""
        captions = _captions(files[1])
        for video_id in read_lines(files[0]):
            if video_id in captions:
                yield AnnotatedVideo(video_id, captions[video_id])

    def locate(self, video: AnnotatedVideo, files: VideoFiles) -> tuple[str | None, AnnotatedVideo]:
        """The clip; else the whole YouTube video it was cut from, and in that the clip's seconds."""
        if path := files.find(video.video_id):
            return path, video
        if (clip := re.fullmatch(r"(.+)_(\d+)_(\d+)", video.video_id)) is None:
            return None, video
        return files.find(clip[1]), video._replace(start=float(clip[2]), end=float(clip[3]))

    def mirror_needs_all_splits(self) -> bool:
        """Mirrors split otherwise than HGR: with HGR's list, each video is taken wherever it stands."""
        return self.split_list() is not None

    def select_mirrored(self, videos: Iterable[AnnotatedVideo]) -> Iterable[AnnotatedVideo]:
        """Those on HGR's list, where `data_dir` has it, in its order."""
        if (path := self.split_list()) is None:
            return videos
        by_id = {video.video_id: video for video in videos}
        return [by_id[video_id] for video_id in read_lines(path) if video_id in by_id]

    def canonical(self) -> Canonical:
        """HGR's split, ten captions each."""
        videos = {"train": 25_991, "validation": 1500, "test": 1500}[self.split]
        return Canonical(f"VATEX HGR {self.split}", videos, 10 * videos)


def _captions(path: Path) -> dict[str, list[str]]:
    """Captions by clip, from a list of {videoID, enCap}, or from clip -> captions, or clip -> {enCap}."""
    content = read_json(path, (list, dict))
    if isinstance(content, list):
        content = {
            entry(record, "videoID", str, f"{path}, record {number}"): record for number, record in enumerate(content)
        }
    return {
        clip: value if isinstance(value, list) else entry(value, "enCap", list, f"{path}, {clip}")
        for clip, value in content.items()
    }


BENCHMARK = VATEX
