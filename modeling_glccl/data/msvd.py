"""MSVD: 1,970 short YouTube clips with about 40 captions each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from .benchmark import FILE_NAMES, AnnotatedVideo, VideoBenchmark
from .files import expect, find_annotation, read_json, read_lines, read_plain_pickle


class MSVD(VideoBenchmark):
    """One row per caption; in the test every caption is a query (multi-caption protocol)."""

    title = "MSVD"
    sizes: ClassVar = {"train": (1200, 48_774), "validation": (100, 4290), "test": (670, 27_763)}

    def annotation_files(self) -> list[Path]:
        """The list of the split and the captions, as JSON or pickle."""
        return [
            find_annotation(self.root, f"{FILE_NAMES[self.split]}_list.txt"),
            find_annotation(self.root, "captions.json", "captions_msvd.json", "raw-captions.pkl"),
        ]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order of the list. The pickle holds captions as lists of words."""
        path = files[1]
        captions = expect(read_plain_pickle(path), dict, str(path)) if path.suffix == ".pkl" else read_json(path, dict)
        for video_id in read_lines(files[0]):
            if video_id in captions:
                place = f"{path}, {video_id}"
                texts = expect(captions[video_id], (list, tuple), place)
                yield AnnotatedVideo(video_id, [_text(text, place) for text in texts])


def _text(value: Any, place: str) -> str:
    """A caption, or the words of one, as text."""
    if isinstance(value, str):
        return value
    return " ".join(expect(word, str, place) for word in expect(value, (str, list, tuple), place))


BENCHMARK = MSVD
