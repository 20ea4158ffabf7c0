"""`glccl export onnx`: the folder it writes finds what the model finds, without torch."""

import runpy
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import torch
from checkpoints import save_tiny_checkpoint
from families import save_plain

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.checkpoints import load_checkpoint
from modeling_glccl.cli import main
from modeling_glccl.peers import CLIP4ClipModel

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TEXTS = ["a red ball rolls", "two dogs", "Two DOGS run &amp; a red ball rolls, rolls, rolls"]


def make_checkpoint(kind, folder):
    if kind == "glccl":
        save_tiny_checkpoint(folder, TEXTS, layers=1)  # tracing takes as long as there are
    elif kind == "release, no GLIM":
        save_tiny_checkpoint(folder, TEXTS, mask_padding=False, glim_global=False, glim_local=False)
        processor = GLCCLProcessor.from_pretrained(folder)
        processor.mask_padding = False
        processor.save_pretrained(folder)
    else:
        save_plain(kind, folder)
    if kind not in ("clip", "metaclip_2", "siglip"):
        model = GLCCLModel.from_pretrained(folder)
        torch.manual_seed(3)
        with torch.no_grad():  # not identities, so that no transposition goes unnoticed
            for weight in model.interaction.parameters():
                weight += 0.1 * torch.randn(weight.shape)
        model.save_pretrained(folder)
    return folder


def load_searcher(folder):
    spec = spec_from_file_location("search", folder / "search.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Searcher(folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    make_checkpoint("glccl", folder / "checkpoint")
    assert main(["export", "onnx", str(folder / "checkpoint"), str(folder / "exported")]) == 0
    return folder


def videos(counts=(1, 3, 9)):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (count, 16, 16, 3), np.uint8) for count in counts]


def assert_same_scores(checkpoint, folder):
    model, processor = load_checkpoint(checkpoint)
    searcher = load_searcher(folder)
    with torch.no_grad():
        batch = processor(TEXTS, videos())
        text = model.get_text_features(batch["input_ids"])
        video = model.get_video_features(batch["pixel_values_videos"], batch["padding_mask_videos"])
        expected = torch.stack(model.get_scores(text, video).to_tuple()).permute(1, 2, 0)
    found = [
        [searcher.score(searcher.encode_text(text), searcher.encode_video(video)) for video in videos()]
        for text in TEXTS
    ]
    torch.testing.assert_close(torch.tensor(np.array(found)).float(), expected, rtol=1e-4, atol=1e-4)


def test_scores_of_the_folder_are_those_of_the_model(exported):
    assert_same_scores(exported / "checkpoint", exported / "exported")
    assert sorted(path.name for path in exported.iterdir()) == ["checkpoint", "exported"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["release, no GLIM", "clip", "metaclip_2", "siglip"])
def test_scores_of_other_kinds_of_checkpoints(kind, tmp_path, capsys):
    make_checkpoint(kind, tmp_path / "checkpoint")
    assert main(["export", "onnx", str(tmp_path / "checkpoint"), str(tmp_path / "exported")]) == 0
    assert "video.onnx: differs from torch by" in capsys.readouterr().out
    assert_same_scores(tmp_path / "checkpoint", tmp_path / "exported")


def test_the_script_needs_no_torch(exported, tmp_path, monkeypatch):
    for number, frames in enumerate(videos((2, 5))):
        np.save(tmp_path / f"{number}.npy", frames)
    script = exported / "exported" / "search.py"
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    files = [str(tmp_path / f"{number}.npy") for number in range(2)]
    done = subprocess.run(
        [sys.executable, "-c", code, script, TEXTS[0], *files], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert {path for _, path in rows} == set(files)
    assert float(rows[0][0]) >= float(rows[1][0])
    for wrong in (str(tmp_path / "none.npy"), __file__):
        monkeypatch.setattr(sys, "argv", [str(script), TEXTS[0], files[0], wrong])
        with pytest.raises(SystemExit, match=f"^{wrong}: "):
            runpy.run_path(str(script), run_name="__main__")


def test_the_script_refuses_frames_of_another_size(exported):
    searcher = load_searcher(exported / "exported")
    for frames in (np.zeros((3, 32, 32, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"must be uint8 \[T, 16, 16, 3\]"):
            searcher.encode_video(frames)
    with pytest.raises(ValueError, match="has no word"):
        searcher.encode_text(" ")


def test_features_that_differ_leave_no_folder(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("modeling_glccl.onnx_export.TOLERANCE", -1.0)
    made = exported / "exported" / "text.onnx"  # tracing takes long
    monkeypatch.setattr(torch.onnx, "export", lambda tower, inputs, path, **options: shutil.copy(made, path))
    assert main(["export", "onnx", str(exported / "checkpoint"), str(tmp_path / "new")]) == 1
    assert "text.onnx: onnxruntime" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_refusals_come_before_any_work(exported, tmp_path, capsys, monkeypatch):
    def refused(*arguments):
        assert main(["export", "onnx", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    checkpoint = exported / "checkpoint"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert "is no empty folder" in refused(checkpoint, tmp_path / "full")
    save_tiny_checkpoint(tmp_path / "peer", TEXTS, CLIP4ClipModel, csc_weight=0)
    assert "of the type 'glccl_clip4clip'" in refused(tmp_path / "peer", tmp_path / "new")
    monkeypatch.delitem(sys.modules, "modeling_glccl.onnx_export", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert '[onnx]"' in refused(checkpoint, tmp_path / "new")
    assert not (tmp_path / "new").exists()
