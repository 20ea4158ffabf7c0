"""LSMDC: clips of movies with a sentence each."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from .benchmark import AnnotatedVideo, VideoBenchmark
from .files import find_annotation, read_lines

FILE_NAMES = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
FIELDS = 6  # clip id, four times in the movie, sentence


class LSMDC(VideoBenchmark):
    """One row per sentence; in the test each clip has one.

    The times are those of the movie, of which the clips are cut, and no window of the clip.
    """

    title = "LSMDC"
    sizes: ClassVar = {"test": (1000, 1000)}  # the public one; the other splits have been used in several sizes

    def annotation_files(self) -> list[Path]:
        """The table of the split."""
        return [find_annotation(self.root, FILE_NAMES[self.split])]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Clips in the order of the table: separated by tabs, without a header, quotes as in the text."""
        sentences: dict[str, list[str]] = {}
        for number, line in enumerate(read_lines(files[0]), start=1):
            values = line.split("\t")
            if len(values) != FIELDS:
                raise ValueError(
                    f"{files[0]}, line {number}: {len(values)} fields between tabs, not {FIELDS}: {line!r}"
                )
            sentences.setdefault(values[0].strip(), []).append(values[-1])
        for clip, captions in sentences.items():
            yield AnnotatedVideo(clip, captions)


BENCHMARK = LSMDC
