"""An index made and searched on a GPU finds what one on a CPU finds, whoever reads it."""

import pytest
import torch

pytest.importorskip("lancedb")

from search_data import CAPTIONS, contents
from videos import write_video

from modeling_glccl import runtime
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.search import VideoIndex

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")]


@pytest.fixture
def made(checkpoint, videos, tmp_path, monkeypatch):
    """Two indexes of the same videos in float32, by the device that made them."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for device in ("cpu", "cuda"):
        index = VideoIndex.create(tmp_path / device, *load_checkpoint(checkpoint), device=device, precision="fp32")
        assert index.update(videos, progress=False).added == 5
        assert index.model.device.type == device
    return {device: tmp_path / device for device in ("cpu", "cuda")}


def ranked(index):
    return [[(result.path, result.score) for result in results] for results in index.search_batch(CAPTIONS, k=9)]


def assert_ranked(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert [path for path, _ in one] == [path for path, _ in other]
        assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=tolerance)


def test_features_fingerprint_and_order_are_those_of_the_cpu(made):
    opened = {(by, on): VideoIndex.open(made[by], device=on, precision="fp32") for by in made for on in made}
    expected = ranked(opened["cpu", "cpu"])
    for index in opened.values():
        assert index.info()["fingerprint"] == opened["cpu", "cpu"].info()["fingerprint"]
        assert_ranked(ranked(index), expected, 0.02)  # features are kept in float16
    found, wanted = (contents(opened[device, device]) for device in ("cuda", "cpu"))
    for video_id, clips in wanted.items():
        torch.testing.assert_close(found[video_id][0][-1], clips[0][-1], atol=5e-3, rtol=5e-3)


def test_examples_and_moments_are_those_of_the_cpu(made, videos):
    on = {device: VideoIndex.open(made[device], device=device, precision="fp32") for device in made}
    example = str(videos / "v2.mp4")
    results = {device: index.search(video=example, k=9, moments=True) for device, index in on.items()}
    for found, expected in zip(results["cuda"], results["cpu"], strict=True):
        assert (found.path, found.score) == (expected.path, pytest.approx(expected.score, abs=0.01))
        assert found.frame_weights == pytest.approx(expected.frame_weights, abs=0.01)


def test_an_index_made_on_a_gpu_is_extended_on_a_cpu(made, videos):
    path = write_video(videos / "new.mp4", 20, fps=5)
    for device in ("cpu", "cuda"):
        index = VideoIndex.open(made["cuda"], device=device, precision="fp32")
        report = index.update(videos, progress=False)
        assert (report.added, report.unchanged) == ((1, 5) if device == "cpu" else (0, 6))
        assert len(index) == 6
        assert index.search(video=str(path))[0].path == str(path)


def test_the_default_precision_is_near_and_is_one_model(made, capsys):
    exact = dict(ranked(VideoIndex.open(made["cpu"], device="cpu", precision="fp32"))[0])
    index = VideoIndex.open(made["cpu"])
    assert dict(ranked(index)[0]) == pytest.approx(exact, abs=0.2)
    assert "computing on cuda in " in capsys.readouterr().err
    assert index.model.device.type == "cuda"


def test_int8_frames_are_encoded_on_the_cpu_where_there_is_a_gpu(checkpoint, videos, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(runtime, "HF_HOME", str(tmp_path / "cache"))
    path = tmp_path / "int8"
    with pytest.raises(ValueError, match="computes on a CPU, not on cuda"):
        VideoIndex.create(path, *load_checkpoint(checkpoint), device="cuda", runtime="onnx-int8")
    model, processor = load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="computes on a CPU, not on cuda:0"):
        VideoIndex.create(path, model.to("cuda"), processor, runtime="onnx-int8")
    assert not path.exists()
    index = VideoIndex.create(path, *load_checkpoint(checkpoint), device="auto", precision="fp32", runtime="onnx-int8")
    assert index.update(videos, progress=False).added == 5
    assert index.model.device.type == "cpu"
    opened = VideoIndex.open(path, precision="fp32")
    assert opened.search(CAPTIONS[0])
    assert opened.model.device.type == "cpu"
