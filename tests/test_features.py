"""Features of texts and videos: rows, slots, files."""

import pytest
import torch
from models import random_features
from safetensors.torch import load_file, save_file

from modeling_glccl.features_glccl import GLCCLTextFeatures, GLCCLVideoFeatures
from modeling_glccl.peers.glscl import GLSCLVideoFeatures
from modeling_glccl.peers.xclip import XCLIPVideoFeatures


def videos(frames: list[int], seed: int = 0) -> GLCCLVideoFeatures:
    video = random_features([2], frames, seed=seed)[1]
    return GLCCLVideoFeatures(frames=video.frames.float(), frame_mask=video.frame_mask)


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_rows_are_selected_in_order_and_masks_keep_their_type_when_numbers_change():
    video = videos([3, 1, 4])
    chosen = video.select([2, 0])
    assert torch.equal(chosen.frames, video.frames[[2, 0]])
    assert torch.equal(chosen.frame_mask, video.frame_mask[[2, 0]])
    assert (video.num_rows, video.num_slots) == (3, 4)
    half = video.to("cpu", torch.float16)
    assert (half.frames.dtype, half.frame_mask.dtype) == (torch.float16, torch.bool)


def test_printed_they_are_shapes():
    assert repr(videos([3, 1])) == "<GLCCLVideoFeatures: frames [2, 3, 32], frame_mask [2, 3]>"
    for features in (GLCCLTextFeatures, GLSCLVideoFeatures, XCLIPVideoFeatures):
        assert features.__repr__ is GLCCLVideoFeatures.__repr__


def test_padding_adds_slots_that_do_not_count_and_trimming_takes_them_away():
    video = videos([3, 2])
    padded = video.pad(6)
    assert padded.frames.shape[:2] == (2, 6)
    assert not padded.frame_mask[:, 3:].any()
    assert same(padded.trim(), video)
    assert same(padded.pad(3), video)
    with pytest.raises(ValueError, match="2 slots are less than the features count"):
        video.pad(2)


def test_parts_with_other_slots_become_one_and_gradients_flow():
    parts = [videos([3, 2]), videos([5], seed=1)]
    parts[0].frames.requires_grad_()
    joined = GLCCLVideoFeatures.concatenate(parts)
    assert joined.frame_mask.sum(1).tolist() == [3, 2, 5]
    joined.frames.sum().backward()
    assert parts[0].frames.grad.eq(1).all()


def test_peers_keep_what_they_add(tmp_path):
    video = videos([3, 2])
    own = XCLIPVideoFeatures(**video, clip_frames=video.frames + 1)
    assert own.pad(5).clip_frames.shape[1] == 5
    concepts = GLSCLVideoFeatures(**video, concepts=torch.ones(2, 7, 32))
    assert concepts.pad(5).concepts.shape == (2, 7, 32)
    for features in (own, concepts, GLSCLVideoFeatures(**video)):
        features.save(tmp_path / "f.safetensors")
        loaded, more, _ = type(features).load(tmp_path / "f.safetensors")
        assert same(loaded, features)
        assert more == {}


def test_a_file_comes_back_with_what_lies_beside_the_features(tmp_path):
    video = videos([3, 2])
    video.save(tmp_path / "f.safetensors", {"ids": "[1, 2]"}, durations=torch.tensor([1.0, 2.0]))
    loaded, more, metadata = GLCCLVideoFeatures.load(tmp_path / "f.safetensors")
    assert same(loaded, video)
    assert more["durations"].tolist() == [1.0, 2.0]
    assert metadata["ids"] == "[1, 2]"
    assert [file.name for file in tmp_path.iterdir()] == ["f.safetensors"]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "f.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no feature file .*f\.safetensors"):
        GLCCLVideoFeatures.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a feature file, or damaged"):
        GLCCLVideoFeatures.load(path)
    videos([3, 2]).save(path)
    tensors = load_file(path)
    with pytest.raises(ValueError, match="has no tensor 'clip_frames'"):
        XCLIPVideoFeatures.load(path)
    save_file(tensors | {"frames": tensors["frames"][:1]}, path)
    with pytest.raises(ValueError, match=r"is damaged: frames \[1, 3, 32\]"):
        GLCCLVideoFeatures.load(path)
    save_file(tensors | {"frame_mask": torch.tensor(True)}, path)
    with pytest.raises(ValueError, match=r"is damaged: frames \[2, 3, 32\]"):
        GLCCLVideoFeatures.load(path)
