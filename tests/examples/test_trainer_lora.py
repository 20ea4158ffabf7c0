"""The example of transformers' Trainer and PEFT, on a tiny model and a folder of clips."""

import runpy

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from paths import REPOSITORY
from videos import write_video

from modeling_glccl import GLCCLModel

pytest.importorskip("peft", reason="PEFT is not installed")
CAPTIONS = [f"a {colour} ball" for colour in ("red", "green", "blue", "white", "black", "grey")]


def test_it_trains_and_what_is_merged_scores_as_what_was_trained(tmp_path):
    checkpoint, videos, output = (tmp_path / name for name in ("checkpoint", "videos", "output"))
    save_tiny_checkpoint(checkpoint, CAPTIONS)
    videos.mkdir()
    lines = [f"{write_video(videos / f'{i}.mp4', 8 + i).name},{caption},train" for i, caption in enumerate(CAPTIONS)]
    (videos / "metadata.csv").write_text("\n".join(["file_name,caption,split", *lines]))
    main = runpy.run_path(str(REPOSITORY / "examples" / "trainer_lora.py"))["main"]
    trained, merged = main(
        [*map(str, (checkpoint, videos, output)), "--epochs", "2", "--batch-size", "3", "--rank", "2"]
    )
    torch.testing.assert_close(merged, trained, atol=1e-4, rtol=0)
    before, after = (GLCCLModel.from_pretrained(path).state_dict() for path in (checkpoint, output / "merged"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in changed if name.startswith("clip.")} == {
        f"clip.{tower}_model.encoder.layers.{layer}.self_attn.{part}_proj.weight"
        for tower in ("text", "vision")
        for layer in (0, 1)
        for part in ("q", "k", "v", "out")
    }
    assert any(name.startswith("interaction.") for name in changed)
    assert (output / "adapter" / "adapter_model.safetensors").exists()
