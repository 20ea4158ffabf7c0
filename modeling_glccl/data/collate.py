"""Rows of a benchmark -> a batch."""

import sys
from types import TracebackType
from typing import Any

from transformers import BatchFeature

from ..processing_glccl import GLCCLProcessor


def video_inputs(processor: GLCCLProcessor, rows: list[dict[str, Any]], **kwargs: Any) -> BatchFeature:
    """What the processor makes of rows with a `video` and, where only a part counts, `start` and `end`."""
    windows = {
        name: [row[name] for row in rows]
        for name in ("start", "end")
        if any(row.get(name) is not None for row in rows)
    }
    return processor(videos=[row["video"] for row in rows], **windows, **kwargs)


class RetrievalCollator:
    """Turns rows (`caption`, and what [`video_inputs`] reads) into a batch of one text and one video per row.

    It decodes videos in the workers of a DataLoader: it holds nothing but the processor, opens and closes each file
    within the call, and can be pickled, so that any start method of processes will do.
    """

    def __init__(self, processor: GLCCLProcessor):
        self.processor = processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns `inputs`, what the model takes, and `videos`, their files, or ids where they are no files.

        Raises:
            ValueError: a video or caption that cannot be used; a note lists the videos of the batch.
        """
        videos = [row["video"]["path"] if isinstance(row["video"], dict) else row["video"] for row in rows]
        names = [video if isinstance(video, str) else row["video_id"] for video, row in zip(videos, rows, strict=True)]
        try:
            text = self.processor(text=[row["caption"] for row in rows])
            inputs = {**text, **video_inputs(self.processor, rows)}
        except ValueError as error:
            error.add_note(f"in the batch of {', '.join(names)}")
            raise
        return {"inputs": inputs, "videos": names}


def part_quietly(_worker: int) -> None:
    """`worker_init_fn` of every DataLoader: a worker says nothing if the run that it hands tensors to has ended.

    Python's thread that hands them over would print a traceback when nobody takes them.
    """

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, EOFError | ConnectionError):
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = excepthook
