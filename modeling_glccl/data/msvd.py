"""MSVD: 1,970 short YouTube clips with about 40 captions each."""

import json
from collections.abc import Iterator
from pathlib import Path

from .benchmark import AnnotatedVideo, Canonical, VideoBenchmark
from .files import find_annotation, read_lines, read_plain_pickle

FILE_NAMES = {"train": "train", "validation": "val", "test": "test"}


class MSVD(VideoBenchmark):
    """One row per caption; in the test every caption is a query (multi-caption protocol)."""

    title = "MSVD"

    def annotation_files(self) -> list[Path]:
        """The list of the split and the captions, as JSON or pickle."""
        return [
            find_annotation(self.root, f"{FILE_NAMES[self.split]}_list.txt"),
            find_annotation(self.root, "captions.json", "captions_msvd.json", "raw-captions.pkl"),
        ]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order of the list. The pickle holds captions as lists of words."""
        path = files[1]
        captions = read_plain_pickle(path) if path.suffix == ".pkl" else json.loads(path.read_bytes())
        for video_id in read_lines(files[0]):
            if video_id in captions:
                yield AnnotatedVideo(
                    video_id,
                    [text if isinstance(text, str) else " ".join(text) for text in captions[video_id]],
                )

    def canonical(self) -> Canonical:
        """The usual split."""
        sizes = {"train": (1200, 48_774), "validation": (100, 4290), "test": (670, 27_763)}
        return Canonical(f"MSVD {self.split}", *sizes[self.split])


BENCHMARK = MSVD
load = MSVD.load
