"""An index in an object store: a local server that speaks S3."""

import urllib.request

import pytest
from search_data import CAPTIONS, assert_same_contents

from modeling_glccl.search import VideoIndex

pytestmark = pytest.mark.slow

moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")


@pytest.fixture
def storage_options():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    urllib.request.urlopen(urllib.request.Request(f"{url}/videos", method="PUT")).close()  # makes the bucket
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret", "aws_region": "us-east-1"}
    yield {"aws_endpoint": url, "allow_http": "true", **keys}
    server.stop()


def test_an_index_lives_in_an_object_store(storage_options, index, videos, model, processor):
    uri = "s3://videos/my.index"
    remote = VideoIndex.create(uri, model, processor, storage_options=storage_options)
    for folder in (index, remote):
        folder.update(videos, progress=False)
    assert_same_contents(remote, index)
    opened = VideoIndex.open(uri, model, processor, storage_options=storage_options)
    for query in CAPTIONS:
        assert [r.path for r in opened.search(query, moments=True)] == [r.path for r in index.search(query)]
    (videos / "v0.mp4").rename(videos / "renamed.mp4")
    (videos / "v1.mp4").write_bytes(b"no video")
    report = opened.update(videos, progress=False)
    assert (report.moved, report.failed, report.unchanged) == (1, 1, 3)
    assert len(remote) == len(remote.search("a dog")) == 4
    assert opened.remove([str(videos / "renamed.mp4")]) == 1
    with pytest.raises(FileExistsError):
        VideoIndex.create(uri, model, processor, storage_options=storage_options)
    with pytest.raises(FileNotFoundError):
        VideoIndex.open("s3://videos/none.index", model, processor, storage_options=storage_options)
