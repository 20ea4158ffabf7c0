"""ActivityNet Captions as paragraph retrieval: all sentences of a video are one text; tested on val_1."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .benchmark import AnnotatedVideo, Canonical, VideoBenchmark
from .files import MAX_SECONDS, VideoFiles, entry, expect, find_annotation, read_json

FILE_NAMES = {"train": ("train.json", "train_ids.json"), "test": ("val_1.json", "val_ids.json")}


@dataclass
class ActivityNet(VideoBenchmark):
    """One row per annotated video; its window is 0 to the duration, rounded up."""

    id_lists: bool = False  # True: only videos that the lists of ids name too, in the lists' order: 10,007 and 4,916

    title = "ActivityNet Captions"
    splits = ("train", "test")
    split_aliases: ClassVar = {"val_1": "test", "val": "test", "validation": "test"}

    def annotation_files(self) -> list[Path]:
        """The annotations and, if asked for, the list of ids."""
        names = FILE_NAMES[self.split]
        return [find_annotation(self.root, name) for name in names[: 1 + self.id_lists]]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order of the annotations; ids of the list without annotations are left out."""
        annotations = read_json(files[0], dict)
        ids = read_json(files[1], list) if self.id_lists else annotations
        for video_id in ids:
            if annotation := annotations.get(video_id):
                place = f"{files[0]}, {video_id}"
                sentences = entry(annotation, "sentences", list, place)
                text = _joined([expect(sentence, str, place) for sentence in sentences])
                duration = entry(annotation, "duration", (int, float), place)
                yield AnnotatedVideo(video_id, [text], 0.0, _end(duration, place))

    def locate(self, video: AnnotatedVideo, files: VideoFiles) -> tuple[str | None, AnnotatedVideo]:
        """v_XXXX, or XXXX, as the files are often named."""
        return files.find(video.video_id) or files.find(video.video_id.removeprefix("v_")), video

    def mirrored(self, video_id: str, captions: list[str], duration: float | None) -> AnnotatedVideo:
        """Sentences of a list are joined to a paragraph; without a duration the whole video counts."""
        end = None if duration is None else _end(duration, f"the mirror's row of {video_id}")
        return AnnotatedVideo(video_id, [_joined(captions)], 0.0, end)

    def canonical(self) -> Canonical:
        """All annotated videos, or those on the lists of ids too."""
        every = {"train": 10_009, "test": 4917}
        listed = {"train": 10_007, "test": 4916}
        videos = (listed if self.id_lists else every)[self.split]
        return Canonical(f"ActivityNet Captions {'train' if self.split == 'train' else 'val_1'}", videos, videos)


def _end(duration: float, place: str) -> float:
    if not 0 < duration <= MAX_SECONDS:
        raise ValueError(f"{place}: duration is {duration}; expected seconds, at most {MAX_SECONDS:,.0f}")
    return float(math.ceil(duration))


def _joined(sentences: list[str]) -> str:
    """One text; most sentences have leading spaces."""
    return " ".join(sentence.strip() for sentence in sentences)


BENCHMARK = ActivityNet
