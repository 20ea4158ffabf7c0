"""`--runtime onnx-int8`: features close to torch's, verified before they are used, and never mixed with torch's."""

import json
import pickle
import sys
from typing import Any

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from search_data import CAPTIONS

from modeling_glccl import GLCCLModel, GLCCLProcessor, runtime
from modeling_glccl.cli import main
from modeling_glccl.runtime import with_runtime
from modeling_glccl.search import VideoIndex
from modeling_glccl.search import index as index_module

pytest.importorskip("onnxscript")
onnx_export = pytest.importorskip("modeling_glccl.onnx_export")
InferenceSession = pytest.importorskip("onnxruntime").InferenceSession
pytest_plugins = ["search_fixtures"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Of one layer: tracing takes as long as there are."""
    folder = tmp_path_factory.mktemp("runtime") / "checkpoint"
    save_tiny_checkpoint(folder, CAPTIONS, layers=1)
    return folder


@pytest.fixture(scope="module")
def model(checkpoint):
    return GLCCLModel.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def processor(checkpoint):
    return GLCCLProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where towers are kept, for all tests of this file."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache, monkeypatch):
    monkeypatch.setattr(runtime, "HF_HOME", str(cache))


def encode(model, pixels):
    with torch.inference_mode():
        return model.get_video_features(pixels, torch.tensor([[1, 1, 0], [1, 0, 0]])).frames


@torch.inference_mode()
def test_texts_are_close_to_those_of_torch(model, processor, cache, monkeypatch):
    texts = processor(text=[*CAPTIONS, "a"])
    expected, served = model.get_text_features(**texts), with_runtime(model, "onnx-int8")
    found = served.get_text_features(**texts)
    assert not torch.equal(found.words, expected.words)
    assert torch.equal(found.word_mask, expected.word_mask)
    for one, other in ((found.sentence, expected.sentence), (found.words, expected.words)):
        assert torch.cosine_similarity(one, other, dim=-1).min() > 0.998
    with pytest.raises(ValueError, match="row 0 of input_ids has no EOS token"):
        served.get_text_features(torch.zeros(1, 3, dtype=torch.int64))
    assert [*cache.rglob("text-int8-*.onnx")]
    monkeypatch.setattr(onnx_export, "quantise_tower", None)  # what was made once is kept
    assert torch.equal(pickle.loads(pickle.dumps(served)).get_text_features(**texts).words, found.words)


def test_frames_are_close_to_those_of_torch_and_the_model_stays_as_it_is(model, monkeypatch):
    pixels = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    expected, served = encode(model, pixels), with_runtime(model, "onnx-int8")
    found = encode(served, pixels)
    assert not torch.equal(found, expected)
    assert torch.cosine_similarity(found[found.any(-1)], expected[found.any(-1)], dim=-1).min() > 0.999
    assert torch.equal(encode(model, pixels), expected)
    assert torch.equal(encode(with_runtime(served, "torch"), pixels), expected)
    monkeypatch.setattr(onnx_export, "quantise_tower", None)  # what was made once is kept
    assert torch.equal(encode(pickle.loads(pickle.dumps(served)), pixels), found)
    assert torch.equal(encode(with_runtime(served, "onnx-int8"), pixels), found)
    # A clip's features are those that it has alone, whatever else is decoded by then.
    brighter = torch.stack([pixels[0], 9 * pixels[1]])
    assert torch.equal(encode(served, brighter)[0], found[0])


def test_a_gpu_that_is_asked_for_leaves_no_index_behind(model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "resolve_device", torch.device)
    path = tmp_path / "my.index"
    with pytest.raises(ValueError, match="computes on a CPU, not on cuda: use device cpu"):
        VideoIndex.create(path, model, processor, device="cuda", precision="fp32", runtime="onnx-int8")
    assert not path.exists()


class OnAGPU(GLCCLModel):
    """Says so until it is moved."""

    device: Any = torch.device("cuda")

    def to(self, device, *more):
        self.device = torch.device(device)
        return super().to(device, *more)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_a_model_on_a_gpu_is_moved_where_that_is_asked_for(checkpoint, processor, videos, tmp_path, device):
    model = OnAGPU.from_pretrained(checkpoint)
    with pytest.raises(ValueError, match="computes on a CPU, not on cuda: use device cpu"):
        VideoIndex.create(tmp_path / "no.index", model, processor, runtime="onnx-int8")
    index = VideoIndex.create(tmp_path / "my.index", model, processor, device=device, runtime="onnx-int8")
    assert model.device.type == "cpu"
    index.update(videos, progress=False)
    assert (len(index), index.errors()) == (5, {})


def test_a_damaged_tower_is_named(model, cache):
    pixels = torch.zeros(2, 3, 3, 16, 16)
    encode(with_runtime(model, "onnx-int8"), pixels)
    (tower,) = cache.rglob("frames-*.onnx")
    content = tower.read_bytes()
    tower.write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=rf"{tower.name}: is damaged; delete it"):
        encode(with_runtime(model, "onnx-int8"), pixels)
    tower.write_bytes(content)


def test_another_tower_is_not_that_of_the_file(model, cache, monkeypatch):
    def differ(model, name, path):
        raise ValueError("frames.onnx differs")

    monkeypatch.setattr(onnx_export, "quantise_tower", differ)
    config = pickle.loads(pickle.dumps(model.config))
    config.clip_config.vision_config.hidden_act = "relu"
    other = GLCCLModel(config).eval()
    other.load_state_dict(model.state_dict())
    with pytest.raises(OSError, match=r"runtime onnx-int8: frames\.onnx differs; use torch"):
        encode(with_runtime(other, "onnx-int8"), torch.zeros(2, 3, 3, 16, 16))
    assert {path.suffix for path in (cache / "glccl").iterdir()} <= {".onnx"}  # nothing is left behind


def test_a_model_that_int8_spoils_is_refused_before_anything_is_encoded(index, videos, model, tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "LEAST_COSINE", 1.1)
    index = VideoIndex.create(tmp_path / "int8.index", model, index.processor, runtime="onnx-int8")
    with pytest.raises(OSError, match=r"cosine to that of torch is 0\.99\d+, less than 1\.1"):
        index.update(videos, progress=False)
    assert (len(index), index.errors()) == (0, {})


def test_an_index_keeps_its_runtime(checkpoint, videos, tmp_path, capsys, index, cache, monkeypatch):
    path = str(tmp_path / "int8.index")
    command = ["index", str(videos), "--index", path]
    assert main([*command, "--model", str(checkpoint), "--runtime", "onnx-int8", "--device", "cpu"]) == 0
    assert main([*command, "--runtime", "torch"]) == 1
    assert f"--runtime torch: {path} was made with onnx-int8" in capsys.readouterr().err
    opened = VideoIndex.open(path, device="cpu")
    assert opened.info()["runtime"] == "onnx-int8"
    assert opened.info()["fingerprint"] != index.info()["fingerprint"]
    example = str(videos / "v1.mp4")
    monkeypatch.setattr(GLCCLModel, "_encode_frames", None)  # from here on torch encodes no frame
    vars(opened.model)["_encode_frames"].__self__.session = InferenceSession(*cache.rglob("frames-*.onnx"))
    assert opened.search(video=example)[0].path == example
    assert opened.search(CAPTIONS[0])
    with pytest.raises(ValueError, match="runtime='onnx' is unknown; use torch or onnx-int8"):
        VideoIndex.create(tmp_path / "new.index", index.model, index.processor, runtime="onnx")
    assert not (tmp_path / "new.index").exists()


def test_evaluate_encodes_with_it(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    encoded = []
    monkeypatch.setattr(
        runtime, "_run", lambda session, values, run=runtime._run: encoded.append(values) or run(session, values)
    )
    sizes = [f"--set={name}" for name in ("num_train=0", "num_validation=0", "num_test=4", "image_size=16")]
    command = ["evaluate", str(checkpoint), "--benchmark=shapes", f"--data-dir={tmp_path}", "--num-workers=0", *sizes]
    assert main([*command, "--device=cpu", "--runtime=onnx-int8", f"--output={tmp_path}"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["runtime"] == "onnx-int8"
    pixels, texts = ([part for part in encoded if part.ndim == ndim] for ndim in (4, 2))
    assert len(torch.cat(pixels)) == runtime.PROBE + 4 * results["settings"]["max_frames"]
    assert sum(map(len, texts)) == runtime.PROBE + 4


def test_serve_makes_its_index_with_it(checkpoint, videos, monkeypatch):
    pytest.importorskip("gradio")
    from modeling_glccl import app

    served = []
    monkeypatch.setattr(app, "build_app", lambda *opened: served.extend(opened))
    monkeypatch.setattr(app, "launch", lambda *_page, **_options: None)
    command = ["serve", str(checkpoint), "--videos", str(videos), "--device", "cpu"]
    assert main([*command, "--runtime", "onnx-int8"]) == 0
    index, _folder = served
    assert index.info()["runtime"] == "onnx-int8"
    assert index.search(CAPTIONS[0])


def test_a_missing_package_and_a_model_elsewhere_are_refused_at_once(model, monkeypatch):
    elsewhere: Any = torch.nn.Module.to(GLCCLModel(model.config), "meta")
    with pytest.raises(ValueError, match="computes on a CPU, not on meta: use device cpu"):
        with_runtime(elsewhere, "onnx-int8")
    monkeypatch.delitem(sys.modules, "modeling_glccl.onnx_export", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
        with_runtime(model, "onnx-int8")
