"""A process that adds a folder of videos to an index in small commits, and notes in a file what it has done."""

import json
import multiprocessing
import warnings
from pathlib import Path

# Its children start with torch and transformers imported; LanceDB, which has threads, they import themselves.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["modeling_glccl"])


def together(count: int):
    """For that many workers: their `start`."""
    return _context.Barrier(count)


class Worker:
    """Adds `folder` to the index at `path`, which it makes if it has to, `commit_videos` at a time.

    Workers that share a `start` begin together, once all of them are ready.
    """

    def __init__(self, path: Path, checkpoint: Path, folder: Path, notes: Path, commit_videos: int = 2, start=None):
        self._notes = notes
        notes.write_text("")
        arguments = (str(path), str(checkpoint), str(folder), str(notes), commit_videos, start)
        self.process = _context.Process(target=_work, args=arguments)
        self.process.start()

    def acknowledged(self) -> set[str]:
        """Ids of the videos whose commit has returned."""
        marks = [line.removeprefix("acknowledged ") for line in self._lines() if line.startswith("acknowledged ")]
        return {video_id for mark in marks for video_id in json.loads(mark)}

    def _lines(self) -> list[str]:
        # What a kill cut short has no end of line.
        return [line[:-1] for line in self._notes.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _work(path: str, checkpoint: str, folder: str, notes: str, commit_videos: int, start) -> None:
    from modeling_glccl import GLCCLModel, GLCCLProcessor
    from modeling_glccl.search import VideoIndex, ingest, store, words
    from modeling_glccl.search.store import Store

    warnings.simplefilter("ignore")
    ingest._COMMIT_VIDEOS = words._CHUNK = commit_videos
    # So that indexes are made and files merged in the middle of these short runs too.
    ingest._INDEX_COMMITS, store._INDEXED_ROWS, store._FRAGMENTS_GROWING, store._FRAGMENTS = 2, 1, 4, 2
    commit = Store.commit

    with open(notes, "w") as file:

        def noted_commit(store, records):
            written = commit(store, records)
            print("acknowledged", json.dumps([record.video_id for record in records]), file=file, flush=True)
            return written

        Store.commit = noted_commit
        model, processor = GLCCLModel.from_pretrained(checkpoint), GLCCLProcessor.from_pretrained(checkpoint)
        print("ready", file=file, flush=True)
        if start is not None:
            start.wait()
        try:
            index = VideoIndex.create(path, model, processor)
        except FileExistsError:
            index = VideoIndex.open(path, model, processor)
        index.update(folder, batch_size=commit_videos, num_workers=1, progress=False)
