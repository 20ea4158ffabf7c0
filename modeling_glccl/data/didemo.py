"""DiDeMo as paragraph retrieval: all descriptions of a video are one text."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .benchmark import FILE_NAMES, AnnotatedVideo, VideoBenchmark
from .files import VideoFiles, entry, find_annotation, read_json, read_lines


@dataclass
class DiDeMo(VideoBenchmark):
    """One row per video of the list: its descriptions joined by one space, in the order of the JSON file.

    The annotations are about the first 30 seconds; the window is that of published loaders, 0 to 31.
    """

    # The JSON files name some videos twice, under different extensions. False (as published loaders) takes the
    # descriptions under the exact name in the list, True those under either.
    merge_by_stem: bool = False

    title = "DiDeMo"
    # One paragraph a video. Papers count 8,395 training videos, the list in use has 8,392.
    sizes: ClassVar = {"train": (8392, 8392), "validation": (1065, 1065), "test": (1004, 1004)}
    window = (0.0, 31.0)

    def annotation_files(self) -> list[Path]:
        """The list of names and the JSON file of the moments."""
        name = FILE_NAMES[self.split]
        return [find_annotation(self.root, f"{name}_list.txt"), find_annotation(self.root, f"{name}_data.json")]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order in which the JSON file first describes them."""
        names = read_lines(files[0])
        key = _stem if self.merge_by_stem else str
        name_of = {key(name): name for name in names}
        descriptions: dict[str, list[str]] = {}
        for number, moment in enumerate(read_json(files[1], list)):
            place = f"{files[1]}, moment {number}"
            if name := name_of.get(key(entry(moment, "video", str, place))):
                descriptions.setdefault(name, []).append(entry(moment, "description", str, place))
        for name, texts in descriptions.items():
            yield AnnotatedVideo(name, [" ".join(texts)], *self.window)

    def locate(self, video: AnnotatedVideo, files: VideoFiles) -> tuple[str | None, AnnotatedVideo]:
        """Exact name, then that name with .mp4 added, then the only file of that name with another extension."""
        return files.find(video.video_id) or files.find_stem(_stem(video.video_id)), video

    def mirrored(self, video_id: str, captions: list[str], duration: float | None) -> AnnotatedVideo:
        """Captions of a list are joined to a paragraph."""
        return AnnotatedVideo(video_id, [" ".join(captions)], *self.window)


def _stem(name: str) -> str:
    """The name without its extension, which for 193 videos is a bare dot; no name has another dot."""
    return name.partition(".")[0]


BENCHMARK = DiDeMo
