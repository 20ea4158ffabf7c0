"""VATEX, English captions, with the split of HGR (25,991 / 1,500 / 1,500 videos)."""

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .benchmark import FILE_NAMES, AnnotatedVideo, Canonical, VideoBenchmark
from .files import VideoFiles, entry, find_annotation, read_json, read_lines

# In HGR's split the official training videos are the training set, the official validation videos the other two.
OFFICIAL = {"train": "vatex_training_v1.0.json", "validation": "vatex_validation_v1.0.json"}


class VATEX(VideoBenchmark):
    """One row per caption; in the test every caption is a query against all videos."""

    title = "VATEX"

    def annotation_files(self) -> list[Path]:
        """The list of the split and a file with captions, in any of the forms in which they circulate."""
        names = ("ref_captions.json", "vatex_data.json", OFFICIAL["train" if self.split == "train" else "validation"])
        return [
            find_annotation(self.root, f"{FILE_NAMES[self.split]}_list.txt"),
            find_annotation(self.root, *names),
        ]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order of the list."""
        path = files[1]
        content = read_json(path, (list, dict))  # of {videoID, enCap}; clip -> captions; or clip -> {enCap}
        if isinstance(content, list):
            places = (f"{path}, record {number}" for number in range(len(content)))
            content = {entry(record, "videoID", str, next(places)): record for record in content}
        captions = {
            clip: value if isinstance(value, list) else entry(value, "enCap", list, f"{path}, {clip}")
            for clip, value in content.items()
        }
        for video_id in read_lines(files[0]):
            if video_id in captions:
                yield AnnotatedVideo(video_id, captions[video_id])

    def locate(self, video: AnnotatedVideo, files: VideoFiles) -> tuple[str | None, AnnotatedVideo]:
        """The clip; else the whole YouTube video it was cut from, and in that the clip's seconds."""
        path, clip = files.find(video.video_id), re.fullmatch(r"(.+)_(\d+)_(\d+)", video.video_id)
        if clip is None or (path and Path(path).stem != clip[1]):
            return path, video
        return path or files.find(clip[1]), video._replace(start=float(clip[2]), end=float(clip[3]))

    def mirror_list(self) -> list[str] | None:
        """HGR's list, where `data_dir` has it: mirrors split otherwise."""
        with suppress(FileNotFoundError):  # also where there is no `data_dir`
            return read_lines(find_annotation(self.root, f"{FILE_NAMES[self.split]}_list.txt"))
        return None

    def canonical(self) -> Canonical:
        """HGR's split, ten captions each."""
        videos = {"train": 25_991, "validation": 1500, "test": 1500}[self.split]
        return Canonical(f"VATEX HGR {self.split}", videos, 10 * videos)


BENCHMARK = VATEX
