"""Indexing on a Ray cluster of several nodes, one of which dies."""

import threading
import time
from pathlib import Path

import pytest
from search_data import assert_same_contents
from videos import write_video

from modeling_glccl.search import VideoIndex

pytest_plugins = ["search_fixtures"]
pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch):
    """A head that computes nothing and two nodes of one processor each."""
    from ray.cluster_utils import Cluster

    # Processes of the nodes import this package and nothing of the tests.
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
    for i in range(80):
        write_video(folder / f"v{i:02}.mp4", 30 + i, fps=5)
    (folder / "v99.mp4").write_bytes(b"no video")
    return folder


def test_a_node_that_dies_loses_and_doubles_nothing(cluster, folder, tmp_path, model, processor):
    in_peace = VideoIndex.create(tmp_path / "peace.index", model, processor)
    in_peace.update(folder, progress=False)
    index = VideoIndex.create(tmp_path / "ray.index", model, processor)
    nodes = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    assert len(nodes) == 3
    decoded = []

    def kill_when_busy():
        while len(index) == 0 and not decoded:
            time.sleep(0.05)
        cluster.remove_node(cluster.workers[0], allow_graceful=False)

    from modeling_glccl.search import ingest

    killer = threading.Thread(target=kill_when_busy)
    ingest._COMMIT_VIDEOS, before = 4, ingest._COMMIT_VIDEOS
    try:
        killer.start()
        report = index.update(folder, engine="ray", num_workers=2, batch_size=4, progress=False)
    finally:
        ingest._COMMIT_VIDEOS = before
        decoded.append(True)
        killer.join()
    assert sum(node["Alive"] for node in ray.nodes()) == 2
    assert (report.added, report.failed, report.unchanged) == (80, 1, 0)
    assert_same_contents(index, in_peace)
    assert index.update(folder, engine="ray", num_workers=2, progress=False).unchanged == 81
