"""The towers and the scorer under `torch.compile` without a break and `torch.export`: the numbers of eager mode."""

import pytest
import torch
from families import plain_model
from models import random_features, tiny_config, tiny_model, tiny_text, tiny_video
from torch import nn

from modeling_glccl import GLCCLModel

SIZES = torch.export.Dim.DYNAMIC


class TextTower(nn.Module):
    def __init__(self, model: GLCCLModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        text = self.model.get_text_features(input_ids, attention_mask)
        return text.sentence, text.words, text.word_mask


class VideoTower(nn.Module):
    def __init__(self, model: GLCCLModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values_videos, padding_mask_videos):
        video = self.model.get_video_features(pixel_values_videos, padding_mask_videos)
        return video.frames, video.frame_mask


def one_layer(**config) -> GLCCLModel:
    """Tracing takes as long as there are layers."""
    clip = tiny_config().clip_config.to_dict()
    clip["text_config"]["num_hidden_layers"] = clip["vision_config"]["num_hidden_layers"] = 1
    return tiny_model(clip_config=clip, temporal_num_hidden_layers=1, **config)


def siglip_model() -> GLCCLModel:
    """Its text tower has 24 slots, and a text fewer words: eager mode cuts what compiled mode leaves to the mask."""
    clip, _ = plain_model("siglip")
    model = GLCCLModel(tiny_config(clip_config=clip.config.to_dict(), temporal_num_hidden_layers=0)).eval()
    model.clip.load_state_dict(clip.state_dict())
    return model


def noisy_video(lengths: list[int]) -> dict[str, torch.Tensor]:
    """Its padded frames hold what eager mode does not look at, and compiled mode encodes and leaves out later."""
    video = tiny_video(lengths)
    noise = 9 * torch.rand(video["pixel_values_videos"].shape, generator=torch.Generator().manual_seed(5))
    padding = 1 - video["padding_mask_videos"][:, :, None, None, None]
    return video | {"pixel_values_videos": video["pixel_values_videos"] + padding * noise}


def siglip_text(lengths: list[int]) -> dict[str, torch.Tensor]:
    text = tiny_text(lengths, 24)
    words = text["input_ids"] % 20 + 5
    return text | {"input_ids": torch.where(text["input_ids"] == 99, 1, words) * text["attention_mask"]}


VIDEOS = noisy_video([4, 2, 3]), noisy_video([2, 1, 1, 2, 2])
LAST_SLOT = tiny_text([3, 8, 5]), tiny_text([4, 2, 8, 3])
CASES = [
    pytest.param(lambda: TextTower(one_layer()), tiny_text([3, 8, 5]), tiny_text([4, 2, 6, 3]), id="text"),
    pytest.param(lambda: VideoTower(one_layer()), *VIDEOS, id="video"),
    pytest.param(lambda: TextTower(siglip_model()), siglip_text([3, 8, 5]), siglip_text([4, 6]), id="text of SigLIP"),
    *(
        pytest.param(*case, id=name, marks=pytest.mark.slow)
        for name, case in {
            "text, padding counts": (lambda: TextTower(one_layer(mask_padding=False)), *LAST_SLOT),
            "video, padding counts": (lambda: VideoTower(one_layer(mask_padding=False)), *VIDEOS),
            "video of SigLIP": (lambda: VideoTower(siglip_model()), *VIDEOS),
        }.items()
    ),
]


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


def assert_same_features(outputs, expected, atol=1e-5):
    """Same masks and, where they count, same values; eager mode may have cut slots that count in no row."""
    *tensors, mask = expected
    assert torch.equal(outputs[-1][:, : mask.shape[1]], mask)
    assert not outputs[-1][:, mask.shape[1] :].any()
    for values, wanted in zip(outputs[:-1], tensors, strict=True):
        if wanted.ndim == 3:
            values, wanted = values[:, : mask.shape[1]][mask], wanted[mask]
        torch.testing.assert_close(values, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize(("make", "batch", "other"), CASES)
@torch.no_grad()
def test_towers_compile_without_a_break(make, batch, other):
    tower = make()
    compiled = torch.compile(tower, backend="eager", fullgraph=True, dynamic=True)
    for inputs in (batch, other):
        assert_same_features(compiled(**inputs), tower(**inputs))


@pytest.mark.parametrize(("make", "batch", "other"), CASES)
@torch.no_grad()
def test_towers_export_with_dynamic_sizes(make, batch, other):
    tower = make()
    # The number of words is the model's where padding is read.
    sizes = {key: {0: SIZES, 1: torch.export.Dim.AUTO} for key in batch}
    program = torch.export.export(tower, (), batch, dynamic_shapes=sizes).module()
    for inputs in (batch, other):
        assert_same_features(program(**inputs), tower(**inputs))


@pytest.mark.parametrize("way", ["compile", "export"])
@torch.no_grad()
def test_the_graph_holds_the_checks(way):
    model = one_layer()
    text, video = tiny_text([3, 5]), tiny_video([4, 2])
    no_end, no_frame = text["input_ids"].clone(), torch.tensor([[1] * 4, [0] * 4])
    no_end[1, 4] = 5
    wrong = {
        "text": (TextTower(model), text, [{"input_ids": no_end}, {"attention_mask": torch.ones(2, 5).long()}]),
        "video": (
            VideoTower(model),
            video,
            [{"padding_mask_videos": no_frame}, {"pixel_values_videos": video["pixel_values_videos"] * torch.nan}],
        ),
    }
    for tower, good, changes in wrong.values():
        if way == "compile":
            traced = torch.compile(tower, backend="eager", fullgraph=True)
        else:
            traced = torch.export.export(tower, (), good).module()
        assert_same_features(traced(**good), tower(**good))  # of static sizes
        for change in changes:
            with pytest.raises(RuntimeError, match="that GLCCL refuses"):
                traced(**good | change)


@pytest.mark.parametrize(
    ("words", "frames", "scale"), [([5, 5], [3, 3, 3], 3.0), ([2, 5, 5], [1, 3, 3], 60.0)], ids=["one block", "more"]
)
def test_the_scorer_compiles_without_a_break(words, frames, scale):
    """Of one block, and of several with features so large that a shared exponential underflows."""
    model = one_layer()
    text, video = (features.to("cpu", torch.float32) for features in random_features(words, frames, scale=scale))
    states = model.interaction.prepare_text(text), model.interaction.prepare_video(video)

    def score():
        return model.interaction(*states, model.clip.logit_scale).logits

    compiled = torch.compile(score, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(), score(), rtol=1e-5, atol=1e-5)
