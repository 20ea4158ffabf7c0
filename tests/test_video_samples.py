"""What an MP4 file says that it holds: FFmpeg makes room for all of it as soon as it opens the file."""

import io
import struct

import av
import numpy as np
import pytest
from videos import frame_image, write_video

from modeling_glccl import video_streams_glccl as video_streams
from modeling_glccl.video_decoding_glccl import decode_video
from modeling_glccl.video_streams_glccl import VideoDecodeError

MANY = 80_000_000


def claim(content: bytes, **places: int) -> bytes:
    """The file with that number at an offset from the name of each box."""
    changed = bytearray(content)
    for box, offset in places.items():
        place = changed.index(box.encode()) + offset
        changed[place : place + 4] = MANY.to_bytes(4, "big")
    return bytes(changed)


def with_sound(path, codec: str) -> bytes:
    with av.open(path, "w") as container:
        sound, stream = container.add_stream(codec, rate=48000, layout="mono"), container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_image(number))))
        container.mux(stream.encode(None))
        samples = np.zeros((1, 19_200), np.float32 if codec == "aac" else np.int16)
        frame = av.AudioFrame.from_ndarray(samples, "fltp" if codec == "aac" else "s16", "mono")
        frame.sample_rate = 48000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["video", "double", "compressed sound", "plain sound", "fragment", "deep"])
def test_more_samples_than_memory_holds_are_refused_before_ffmpeg_opens_the_file(tmp_path, kind, monkeypatch):
    if kind == "compressed sound":
        content = claim(with_sound(tmp_path / "a.mp4", "aac"), stsz=12)
    elif kind == "plain sound":  # all samples in one chunk, each a tick long
        content = claim(with_sound(tmp_path / "a.mov", "pcm_s16le"), stsz=12)
        assert decode_video(content, 20).frames.shape[0] == 10  # half an hour of sound, say, is no index of as much
        place = content.index(b"stsc") + 16
        content = content[:place] + (2**32 - 1).to_bytes(4, "big") + content[place + 4 :]
        chunks = content.index(b"stco") + 8
        content = content[:chunks] + (1000).to_bytes(4, "big") + content[chunks + 4 :]
    elif kind == "fragment":
        options = {"movflags": "frag_keyframe+empty_moov"}
        content = claim(write_video(tmp_path / "a.mp4", 10, container_options=options).read_bytes(), trun=8)
    else:
        content = claim(write_video(tmp_path / "a.mov", 10, codec="rawvideo").read_bytes(), stsz=12, stts=12, stsc=16)
        if kind == "deep":
            content = content.replace(b"moov", b"udta")
        if kind == "double":  # FFmpeg takes the first
            end = content.index(b"stsz") + 16
            content = content[:end] + struct.pack(">I4sIII", 20, b"stsz", 0, 1, 10) + content[end:]
    opened = []
    monkeypatch.setattr(av, "open", lambda *args, **options: opened.append(args))
    for source in (content, io.BytesIO(content)):
        with pytest.raises(VideoDecodeError, match=r"says that it holds more than 6,500,000 samples; cut it into"):
            decode_video(source)
    assert not opened


def test_a_file_of_boxes_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video_streams, "MAX_SAMPLES", 1000)
    content = write_video(tmp_path / "a.mp4", 10).read_bytes()
    assert len(decode_video(content).frames) == 10
    with pytest.raises(VideoDecodeError, match="more than 1,000 samples"):
        decode_video(content + struct.pack(">I4s", 8, b"free") * 1000)
    for length in (0, 1, 7):  # to the end of the file, in 64 bits, and impossible
        assert len(decode_video(content + struct.pack(">I4s", length, b"free")).frames) == 10
