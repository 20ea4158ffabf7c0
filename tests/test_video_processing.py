"""Videos of every accepted kind become the same tensors."""

import json
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers.video_utils import VideoMetadata
from videos import frame_image, write_video

from modeling_glccl import GLCCLVideoProcessor, video_processing_glccl
from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_streams_glccl import VideoDecodeError


@pytest.fixture
def processor():
    return GLCCLVideoProcessor(size=32, crop_size=32, max_frames=4)


def transform_one(image, size, image_mean, image_std):
    """The naive twin of the image transform: uint8 [H, W, 3] -> float32 [3, size, size]."""
    height, width, _ = image.shape
    if width < height:
        resized = (size, int(size * height / width))
    else:
        resized = (int(size * width / height), size)
    image = Image.fromarray(image).resize(resized, Image.Resampling.BICUBIC)
    left, top = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    pixels = np.asarray(image)[top : top + size, left : left + size] / np.float32(255)
    return torch.from_numpy((pixels - np.float32(image_mean)) / np.float32(image_std)).permute(2, 0, 1)


def test_image_transform_equals_the_release(reference_dir):
    golden = load_file(reference_dir / "golden" / "image_transform.safetensors")
    cases = sorted({name.split(".")[0] for name in golden})
    assert len(cases) == 5
    for case in cases:
        size = int(golden[f"{case}.size"])
        video = golden[f"{case}.rgb_uint8"][None]
        pixels = GLCCLVideoProcessor(size=size, crop_size=size)(video)["pixel_values_videos"]
        assert torch.equal(pixels[0, 0], golden[f"{case}.pixel_values"])


@pytest.mark.parametrize(("height", "width"), [(48, 64), (97, 61), (32, 32), (20, 31), (33, 200)])
def test_image_transform_equals_its_twin(height, width):
    processor = GLCCLVideoProcessor(size=32, crop_size=32, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4])
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = transform_one(image, 32, [0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    torch.testing.assert_close(processor(image[None])["pixel_values_videos"][0, 0], expected)


@pytest.mark.parametrize("resample", Image.Resampling, ids=lambda resample: resample.name)
@pytest.mark.parametrize("shape", [(700, 301), (257, 640), (513, 32), (32, 512)], ids=str)
def test_an_array_resized_band_by_band_equals_the_whole_image(resample, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    for keep in (True, False):
        crop = GLCCLVideoProcessor(size=32, crop_size=32, resample=resample, keep_aspect_ratio=keep)._crop
        np.testing.assert_array_equal(crop(image), crop(Image.fromarray(image)))


def test_a_strip_gives_its_centre_without_the_rest():
    image = np.random.default_rng(0).integers(0, 256, (2, 4096, 3), dtype=np.uint8)
    identity = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    pixels = GLCCLVideoProcessor(size=32, crop_size=32, **identity)(image[None])["pixel_values_videos"][0, 0]
    expected = transform_one(image, 32, **identity)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1.01 / 255)


def test_a_smaller_crop_is_taken_from_the_centre():
    small, whole = (
        GLCCLVideoProcessor(size=32, crop_size=crop)(frame_image(5, 64, 48)[None])["pixel_values_videos"]
        for crop in (20, 32)
    )
    assert torch.equal(small, whole[..., 6:26, 6:26])


def test_files_arrays_tensors_and_images_give_the_same(tmp_path, processor):
    path = write_video(tmp_path / "a.mkv", 10, codec="ffv1")
    frames = decode_video(path, 10).frames
    expected = processor(path)
    assert expected["pixel_values_videos"].shape == (1, 4, 3, 32, 32)
    assert expected["pixel_values_videos"].dtype == torch.float32
    assert expected["padding_mask_videos"].tolist() == [[1, 1, 1, 1]]
    assert expected["padding_mask_videos"].dtype == torch.int64
    for video in [
        str(path),
        path.read_bytes(),
        memoryview(path.read_bytes()),
        {"path": None, "bytes": path.read_bytes()},
        frames,
        torch.from_numpy(frames),
        torch.from_numpy(frames).permute(0, 3, 1, 2),
        frames[None],
        [Image.fromarray(frame) for frame in frames],
        [[Image.fromarray(frame).convert("RGBA") for frame in frames]],
    ]:
        assert torch.equal(processor(video)["pixel_values_videos"], expected["pixel_values_videos"])
    batch = processor(iter([frames, path, torch.from_numpy(frames), [Image.fromarray(frame) for frame in frames]]))
    assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"].expand(4, -1, -1, -1, -1))


def test_padding_goes_to_the_longest_or_to_max_frames(processor):
    videos = [np.full((count, 40, 40, 3), 200, dtype=np.uint8) for count in (1, 3, 2)]
    batch = processor(videos)
    assert batch["padding_mask_videos"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    padded = batch["pixel_values_videos"][batch["padding_mask_videos"] == 0]
    assert padded.shape == (3, 3, 32, 32)
    assert not padded.any(), "padding is zero after normalisation"
    assert batch["pixel_values_videos"][batch["padding_mask_videos"] == 1].all()

    exact = processor(videos, pad_to_max_frames=True)
    assert exact["padding_mask_videos"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
    assert torch.equal(exact["pixel_values_videos"][:, :3], batch["pixel_values_videos"])
    assert GLCCLVideoProcessor(size=32, crop_size=32, max_frames=7, pad_to_max_frames=True)(videos)[
        "padding_mask_videos"
    ].shape == (3, 7)


def test_each_video_has_its_own_window(tmp_path, processor):
    path = write_video(tmp_path / "a.mp4", 100)
    batch = processor([path, path], start=[0, 2], end=[0.08, None], return_metadata=True)
    first, second = batch["video_metadata"]
    assert first["timestamps"].tolist() == [0, 0.04]
    assert second["timestamps"].tolist() == [2.24, 2.72, 3.24, 3.72]
    assert second["duration"] == pytest.approx(4)
    assert batch["padding_mask_videos"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    same = processor([path, path], start=2, return_metadata=True)["video_metadata"]
    assert [metadata["timestamps"].tolist() for metadata in same] == [[2.24, 2.72, 3.24, 3.72]] * 2
    with pytest.raises(ValueError, match="end has 1 values for 2 videos"):
        processor([path, path], end=[1])


def test_workers_keep_the_order(tmp_path, processor):
    videos = [write_video(tmp_path / f"{i}.mp4", 20 + 7 * i) for i in range(6)]
    videos.insert(2, np.zeros((3, 40, 40, 3), np.uint8))
    alone, pooled = processor(videos), processor(videos, num_workers=3)
    assert torch.equal(alone["pixel_values_videos"], pooled["pixel_values_videos"])
    assert torch.equal(alone["padding_mask_videos"], pooled["padding_mask_videos"])
    with pytest.raises(VideoDecodeError, match=r"videos\[1\]: .*missing\.mp4: no such file"):
        processor([videos[0], tmp_path / "missing.mp4", videos[1]], num_workers=3)


@pytest.mark.parametrize(
    ("video", "problem"),
    [
        (np.zeros((2, 8, 8, 4), np.uint8), r"videos\[0\]: must be .*got \[2, 8, 8, 4\]"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), r"got \[2, 1, 8, 8\]"),
        (np.zeros((8, 8, 3), np.uint8), r"got \[8, 8, 3\]"),
        (np.zeros((2, 0, 8, 3), np.uint8), r"got \[2, 0, 8, 3\]"),
        ([[Image.new("RGB", (0, 8))]], r"PIL images, .*got Image \[0, 8\]"),
        (np.zeros((2, 8, 8, 3), np.float32), "uint8 in 0..255, got float32; convert"),
        (torch.full((2, 8, 8, 3), float("nan")), "got float32 with NaN or infinite values"),
        (np.zeros((2, 8, 8, 3), np.int64), "got int64"),
        (np.zeros((0, 8, 8, 3), np.uint8), "has no frames"),
        ([[np.zeros((8, width, 3), np.uint8) for width in (8, 9)]], r"of one size; got ndarray \[8, 8, 3\], ndarray"),
        ([[]], "has no frames"),
        ([], "empty list"),
        (None, "cannot read a video from NoneType"),
    ],
)
def test_arrays_that_are_no_video_are_refused(processor, video, problem):
    with pytest.raises(ValueError, match=problem):
        processor(video)
    with pytest.raises(ValueError, match="start, end and fps need timestamps"):
        processor(np.zeros((2, 8, 8, 3), np.uint8), start=1)


# What users of transformers' other video processors type


def numbers(batch):
    """The numbers that the frames of the first video show, which are their red values."""
    return (batch["pixel_values_videos"][0, :, 0, 0, 0] * 255).round().int().tolist()


@pytest.fixture
def showing():
    """A processor that leaves pixels as they are, and eight frames whose value is their number."""
    plain = GLCCLVideoProcessor(size=8, crop_size=8, max_frames=4, image_mean=[0] * 3, image_std=[1] * 3)
    return plain, np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)


def test_arrays_are_sampled_by_frame_number(showing):
    processor, video = showing
    video = np.arange(20, dtype=np.uint8)[:, None, None, None] * video[1]
    assert numbers(processor(video)) == [2, 7, 12, 17]
    assert numbers(processor(video, max_frames=5)) == [2, 6, 10, 14, 18]
    assert numbers(processor(video, sampling="release")) == [0, 6, 12, 19]  # one a second, int(linspace(0, 19, 4))


def test_a_list_of_frames_is_one_video(showing):
    processor, video = showing
    for frames in (list(video), [torch.from_numpy(frame).permute(2, 0, 1) for frame in video], [list(video)]):
        assert torch.equal(processor(frames)["pixel_values_videos"], processor(video)["pixel_values_videos"])
    assert processor([list(video), list(video[:3])])["padding_mask_videos"].sum(dim=1).tolist() == [4, 3]
    batch = processor(video[:2], return_tensors="np", return_metadata=True)
    assert isinstance(batch["pixel_values_videos"], np.ndarray)
    assert batch["padding_mask_videos"].tolist() == [[1, 1]]
    assert batch["video_metadata"] == [{"timestamps": None, "duration": None}]


def test_several_videos_may_be_anything_to_iterate_over(showing):
    """Such as a column of pandas, which has keys, too."""
    processor, video = showing

    class Column:
        def keys(self):
            return range(2)

        def __iter__(self):
            return iter([video, video[:3]])

    for videos in (Column(), iter(Column())):
        assert processor(videos)["padding_mask_videos"].sum(dim=1).tolist() == [4, 3]


class Decoder:
    """What is used of torchcodec's VideoDecoder: frames [n, 3, H, W] at indices, and what it knows of the file."""

    def __init__(self, video):
        self.video = torch.from_numpy(video).permute(0, 3, 1, 2)
        self.metadata = SimpleNamespace(average_fps=4.0, duration_seconds=len(video) / 4)

    def __len__(self):
        return len(self.video)

    def get_frames_at(self, indices):
        return SimpleNamespace(data=self.video[indices])


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"num_frames": 2}, [2, 6]),
        ({"do_sample_frames": False, "num_frames": 2}, [*range(8)]),
        ({"fps": 3}, [0, 2, 3, 4, 6, 7]),
        ({"fps": 3, "num_frames": 2}, [2, 6]),
        ({"fps": 0.1}, [4]),
        ({"fps": 8}, [*range(8)]),
        ({"fps": 2, "start": 1}, [5, 7]),
        ({"start": 0.5, "end": 1.25}, [2, 3, 4]),
    ],
)
@pytest.mark.parametrize(
    "metadata", [{"fps": 4}, {"duration": 2.0, "total_num_frames": 8}, [[VideoMetadata(total_num_frames=8, fps=4)]]]
)
def test_frames_are_sampled_by_number_rate_and_time(showing, asked, found, metadata):
    processor, video = showing
    batch = processor(video, video_metadata=metadata, return_metadata=True, **asked)
    assert numbers(batch) == found
    assert batch["video_metadata"][0]["timestamps"].tolist() == [number / 4 for number in found]
    assert batch["video_metadata"][0]["duration"] == 2
    entry = {"array": video, "video_metadata": {"fps": 4}}
    assert numbers(processor(entry, **asked)) == numbers(processor(Decoder(video), **asked)) == found


def test_files_are_sampled_by_rate(tmp_path, processor):
    path = write_video(tmp_path / "a.mp4", 50)
    found = processor(path, fps=4, return_metadata=True)["video_metadata"][0]["timestamps"]
    assert found.tolist() == [0.12, 0.36, 0.6, 0.84, 1.12, 1.36, 1.6, 1.84]
    assert processor(path, do_sample_frames=False)["pixel_values_videos"].shape[1] == 50


def test_frames_that_were_chosen_before_keep_their_times(showing):
    processor, video = showing
    metadata = {"fps": 4, "duration": 10.0, "frames_indices": [0, 4, 8, 12, 16, 20, 24, 28]}
    batch = processor(video, video_metadata=metadata, start=2, end=4.5, return_metadata=True)
    assert numbers(batch) == [2, 3, 4]
    assert batch["video_metadata"][0] == {"timestamps": pytest.approx([2, 3, 4]), "duration": 10}


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"num_frames": 2, "max_frames": 3}, "num_frames=2 and max_frames=3 are two names of one"),
        ({"fps": 2, "sampling": "release"}, "fps=2 and sampling='release' are two rules"),
        ({"fps": 0}, "fps=0 must be a positive number"),
        ({"fps": 2}, "fps need timestamps.*video_metadata="),
        ({"fps": 2, "pad_to_max_frames": True}, "padded to max_frames"),
        ({"video_metadata": {"fps": 0}}, r"videos\[0\]: video_metadata {'fps': 0} must have fps above 0"),
        ({"video_metadata": {"fps": 4, "frames_indices": [1, 2]}}, "where given, one of each of the 8 frames"),
        ({"video_metadata": [{"fps": 4}] * 2}, "video_metadata has 2 values for 1 videos"),
    ],
)
def test_sampling_that_cannot_be_is_refused(showing, asked, problem):
    processor, video = showing
    with pytest.raises(ValueError, match=problem):
        processor(video, **asked)


def test_addresses_are_fetched_where_the_caller_says_so(tmp_path, processor, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 10)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/a.mp4"
        with pytest.raises(VideoDecodeError, match="is a URL; nothing is fetched"):
            processor(url)
        fetched = processor([url], allow_urls=True)["pixel_values_videos"]
        assert torch.equal(fetched, processor(path)["pixel_values_videos"])
        with pytest.raises(VideoDecodeError, match=r"b\.mp4: cannot be fetched \(.*404"):
            processor(url.replace("a.mp4", "b.mp4"), allow_urls=True)
        monkeypatch.setattr(video_processing_glccl, "MAX_URL_BYTES", 100)
        with pytest.raises(VideoDecodeError, match="is larger than 100 bytes"):
            processor(url, allow_urls=True)
        processor.deadline = time.monotonic() + 60  # as on a server
        with pytest.raises(VideoDecodeError, match="is a URL; nothing is fetched"):
            processor(url, allow_urls=True)
        server.shutdown()


def test_save_and_load(tmp_path):
    knobs = {"size": 40, "crop_size": 32, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "max_frames": 5}
    knobs |= {"sampling": "release", "pad_to_max_frames": True, "num_threads": 2}
    GLCCLVideoProcessor(**knobs).save_pretrained(tmp_path)
    loaded = GLCCLVideoProcessor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in knobs} == knobs
    assert GLCCLVideoProcessor.from_pretrained(tmp_path, max_frames=9).max_frames == 9


def test_defaults_are_those_of_clip(tmp_path):
    # What openai/clip-vit-base-patch32 says.
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    sizes = {"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224}}
    config = sizes | {"image_mean": mean, "image_std": std, "resample": 3, "do_center_crop": True, "do_resize": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    loaded, default = GLCCLVideoProcessor.from_pretrained(tmp_path), GLCCLVideoProcessor()
    for name in ("size", "crop_size", "image_mean", "image_std", "max_frames"):
        assert getattr(loaded, name) == getattr(default, name)


@pytest.mark.parametrize(
    ("knobs", "problem"),
    [
        ({"size": 32}, "crop_size=224 must not exceed size=32"),
        ({"size": 2**40}, "size=1099511627776 must be at most 4096"),
        ({"size": {"height": 224, "width": 200}}, "size="),
        ({"size": 0}, "size=0 must be one positive number"),
        ({"max_frames": 0}, "max_frames=0"),
        ({"max_frames": 2.5}, r"max_frames=2\.5 must be a whole number"),
        ({"num_threads": ""}, "num_threads='' must be a whole number from 1 to 64"),
        ({"num_threads": 0}, "num_threads=0 must be"),
        ({"keep_aspect_ratio": ""}, "keep_aspect_ratio='' must be true or false"),
        ({"pad_to_max_frames": "no"}, "pad_to_max_frames='no' must be"),
        ({"sampling": "dense"}, "'dense'"),
    ],
)
def test_bad_knobs_are_refused(knobs, problem):
    with pytest.raises(ValueError, match=problem):
        GLCCLVideoProcessor(**knobs)
