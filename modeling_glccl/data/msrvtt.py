"""MSR-VTT with the 1k-A test split (JSFusion) and its training splits of 9,000 or 7,010 videos."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .benchmark import AnnotatedVideo, Canonical, VideoBenchmark
from .files import entry, find_annotation, read_csv, read_json


@dataclass
class MSRVTT(VideoBenchmark):
    """Training: every (video, caption). Test: 1,000 videos with one sentence each, of the list's own.

    The test sentences are those of the list; 35 of them are not among the video's captions in the JSON files.
    """

    train_list: str = "9k"  # everything but the 1k-A test videos; "7k": the official training and validation videos

    title = "MSR-VTT"
    splits = ("train", "test")
    split_aliases: ClassVar = {}

    def __post_init__(self):
        if self.train_list not in ("9k", "7k"):
            raise ValueError(f"train_list={self.train_list!r} must be '9k' or '7k'")

    def annotation_files(self) -> list[Path]:
        """The list of the split and, for training, the JSON files with the captions."""
        if self.split == "test":
            return [find_annotation(self.root, "MSRVTT_JSFUSION_test.csv")]
        split_list = find_annotation(self.root, f"MSRVTT_train.{self.train_list}.csv")
        captions = find_annotation(self.root, "MSRVTT_data.json", "train_val_videodatainfo.json")
        if captions.name == "MSRVTT_data.json" or self.train_list == "7k":
            return [split_list, captions]
        return [split_list, captions, find_annotation(self.root, "test_videodatainfo.json")]

    def read(self, files: list[Path]) -> Iterator[AnnotatedVideo]:
        """Videos in the order of the list, captions in that of the JSON."""
        rows = [(row, f"{files[0]}, {place}") for place, row in read_csv(files[0])[1]]
        if self.split == "test":
            for row, place in rows:
                yield AnnotatedVideo(entry(row, "video_id", str, place), [entry(row, "sentence", str, place)])
            return
        captions: dict[str, list[str]] = {}
        for path in files[1:]:
            sentences = entry(read_json(path, dict), "sentences", list, str(path))
            for number, sentence in enumerate(sentences):
                place = f"{path}, sentence {number}"
                caption = entry(sentence, "caption", str, place)
                captions.setdefault(entry(sentence, "video_id", str, place), []).append(caption)
        for row, place in rows:
            if (video_id := entry(row, "video_id", str, place)) in captions:
                yield AnnotatedVideo(video_id, captions[video_id])

    def mirror_config(self) -> str:
        """As in friedrichor/MSR-VTT."""
        return "test_1k" if self.split == "test" else f"train_{self.train_list}"

    def canonical(self) -> Canonical:
        """1k-A, or the training split of that size."""
        if self.split == "test":
            return Canonical("MSR-VTT 1k-A test", 1000, 1000)
        videos = {"9k": 9000, "7k": 7010}[self.train_list]
        return Canonical(f"MSR-VTT {self.train_list} train", videos, 20 * videos)


BENCHMARK = MSRVTT
