"""Indexing on a Ray cluster of several nodes, one of which dies."""

import secrets
import sys
import threading
import time
from pathlib import Path

import pytest
from search_data import assert_same_contents
from videos import write_video

from modeling_glccl import GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.search import VideoIndex, ingest

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch):
    """A head that computes nothing and two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    # Ray lets its workers wait for whatever else the machine does.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    node = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
    cluster.workers = [cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(30):
        write_video(folder / f"v{i:02}.mp4", 30 + i, fps=5)
    (folder / "v99.mp4").write_bytes(b"no video")
    return folder


class NotingVideoProcessor(GLCCLVideoProcessor):
    """Slow, and notes which node prepares which video."""

    notes: Path

    def windows(self, video, windows):
        with self.notes.open("a") as file:
            file.write(f"{ray.get_runtime_context().get_node_id()} {video}\n")
        time.sleep(0.5)
        return super().windows(video, windows)


def test_a_node_that_dies_loses_and_doubles_nothing(cluster, folder, tmp_path, model, processor, monkeypatch):
    in_peace = VideoIndex.create(tmp_path / "peace.index", model, processor)
    in_peace.update(folder, progress=False)
    noting = NotingVideoProcessor(size=16, crop_size=16, max_frames=processor.video_processor.max_frames)
    noting.notes = tmp_path / "notes"
    noting.notes.touch()
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    index = VideoIndex.create(tmp_path / "ray.index", model, GLCCLProcessor(processor.tokenizer, noting))
    monkeypatch.setattr(ingest, "_COMMIT_VIDEOS", 4)

    def notes() -> list[list[str]]:
        return [line.split(" ", 1) for line in noting.notes.read_text().splitlines()]

    finished = threading.Event()

    def kill_a_busy_node():
        while len(notes()) < 6 and not finished.wait(0.05):
            pass
        workers = {worker.node_id: worker for worker in cluster.workers}
        killed.append(notes()[-1][0])
        cluster.remove_node(workers[killed[0]], allow_graceful=False)

    killed: list[str] = []
    killer = threading.Thread(target=kill_a_busy_node)
    killer.start()
    try:
        report = index.update(folder, engine="ray", num_workers=2, batch_size=4, progress=False)
    finally:
        finished.set()
        killer.join()
    assert (report.added, report.failed, report.unchanged) == (30, 1, 0)
    assert_same_contents(index, in_peace)
    # It was killed in the middle: the other node did again what it had begun.
    paths = [path for _, path in notes()]
    again = {path for path in paths if paths.count(path) > 1}
    assert again
    assert {node for node, path in notes() if path in again} == {worker.node_id for worker in cluster.workers}
    assert index.update(folder, engine="ray", num_workers=2, progress=False).unchanged == 31
