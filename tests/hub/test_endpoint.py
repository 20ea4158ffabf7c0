"""The Inference Endpoints handler, with the checkpoint's folder on sys.path as the endpoint has it."""

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib

import pytest
from hostile import HANGING, LISTS, encoded, hanging, nothing_opened
from paths import REPOSITORY
from remote_code import nearly_equal
from transformers import pipeline
from videos import write_video

from modeling_glccl import decoding_process_glccl, video_processing_glccl

HANDLER = REPOSITORY / "hub" / "endpoint" / "handler.py"
TEXTS = ["a red ball bounces", "a blue square slides"]


@pytest.fixture(scope="module")
def checkpoint(checkpoint, tmp_path_factory):
    """A checkpoint with a feature file of three videos, and the videos beside it."""
    folder = shutil.copytree(checkpoint, tmp_path_factory.mktemp("endpoint") / "checkpoint")
    videos = folder.parent / "videos"
    videos.mkdir()
    for name, frames in (("a", 10), ("b", 20), ("c", 30)):
        write_video(videos / f"{name}.mp4", frames, fps=10)
    pipe = pipeline("text-video-retrieval", model=str(folder), device="cpu")
    pipe.save_index(folder / "index.safetensors", sorted(videos.iterdir()), ids=["a", "b", "c"])
    (videos / "notes.txt").write_text("no video")
    shutil.copy(HANDLER, folder)
    return folder


@pytest.fixture(scope="module")
def videos(checkpoint):
    return checkpoint.parent / "videos"


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return pipeline("text-video-retrieval", model=str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def make(checkpoint, videos):
    """Makes handlers, with limits as environment variables."""
    spec = importlib.util.spec_from_file_location("glccl_handler", HANDLER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(**limits):
        with pytest.MonkeyPatch.context() as environment:
            for name, value in ({"GLCCL_VIDEO_ROOT": str(videos)} | limits).items():
                environment.setenv(name, str(value))
            return module.EndpointHandler(str(checkpoint))

    return make


@pytest.fixture(scope="module")
def handler(make):
    """With the usual limits, which tests leave as they are."""
    return make()


def test_a_query_ranks_the_feature_file(handler, pipe, checkpoint):
    expected = pipe(TEXTS[0], videos=checkpoint / "index.safetensors")
    assert handler({"inputs": TEXTS[0]}) == {"results": expected}
    named = {"inputs": {"query": TEXTS[0]}, "parameters": {"index": "index.safetensors"}}
    assert handler(named) == {"results": expected}
    answer = handler({"inputs": {"query": TEXTS}, "parameters": {"top_k": 1, "moments": True}})
    assert answer == {"results": pipe(TEXTS, videos=checkpoint / "index.safetensors", top_k=1, moments=True)}
    assert set(answer["results"][0][0]) == {"index", "id", "score", "start", "end"}
    assert json.loads(json.dumps(answer)) == answer


def test_a_query_ranks_videos_that_are_sent_or_lie_below_the_root(handler, pipe, videos):
    sent = [encoded(videos / "a.mp4", id="first"), {"path": "b.mp4"}, {"path": str(videos / "c.mp4"), "id": 7}]
    answer = handler({"inputs": {"query": TEXTS[0], "videos": sent}, "parameters": {"moments": True}})
    expected = pipe(TEXTS[0], videos=sorted(map(str, videos.glob("*.mp4"))), moments=True, batch_size=1)
    names = ["first", "1", "7"]
    for found, wanted in zip(answer["results"], expected, strict=True):
        assert found == wanted | {"id": names[wanted["index"]], "score": pytest.approx(wanted["score"], abs=1e-4)}
    best = handler({"inputs": {"query": TEXTS[0], "videos": sent}, "parameters": {"top_k": 1}})["results"]
    assert [found["id"] for found in best] == [answer["results"][0]["id"]]


def test_texts_and_videos_are_embedded(handler, pipe, videos):
    features = pipe.forward(pipe.preprocess({"text": TEXTS}))
    plain, full = (
        handler({"inputs": {"texts": TEXTS}, "parameters": parameters})["embeddings"]
        for parameters in ({}, {"words": True})
    )
    assert plain == [{"text": text, "sentence": features.sentence[i].tolist()} for i, text in enumerate(TEXTS)]
    assert [len(embedding["words"]) for embedding in full] == features.word_mask.sum(1).tolist()
    (video,) = handler({"inputs": {"videos": [encoded(videos / "b.mp4")]}})["embeddings"]
    index = pipe.index([videos / "b.mp4"])
    assert video["frames"] == index.features.frames[0].tolist()
    assert video["timestamps"] == pytest.approx(index.timestamps[0].tolist())
    assert video["duration"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({}, "bad_request", "send {"),
        ([], "bad_request", "send {"),
        ({"inputs": {}}, "bad_request", "needs query, texts or videos"),
        ({"inputs": {"querry": "a"}}, "bad_request", r"\['querry'\]; known are"),
        ({"inputs": "a", "parameters": {"k": 1}}, "bad_request", r"\['k'\]; known are"),
        ({"inputs": "a", "parameters": {"top_k": 0}}, "bad_request", "top_k=0"),
        ({"inputs": "a", "parameters": {"top_k": "9" * 5000}}, "bad_request", "^top_k='9{993}$"),
        ({"inputs": {"texts": "a"}}, "bad_request", "list of strings"),
        ({"inputs": {"query": 5}}, "bad_request", "list of strings"),
        ({"inputs": "  "}, "bad_input", "has no word"),
        ({"inputs": {"videos": []}}, "bad_request", "must be a list"),
        ({"inputs": {"videos": [{"url": "http://x"}]}}, "bad_request", "must have base64 or path"),
        ({"inputs": {"videos": [{"base64": "???"}]}}, "bad_input", "base64 of video 0 is damaged"),
        ({"inputs": {"videos": [{"base64": 5}]}}, "bad_request", "must be strings"),
        ({"inputs": {"videos": [encoded(b"no video", id="x")]}}, "bad_input", "^video x: video bytes: is not"),
        ({"inputs": {"videos": [{"path": "notes.txt"}]}}, "bad_input", "^video 0: notes.txt: is not a video"),
        ({"inputs": {"videos": [{"path": "a" * 5000}]}}, "not_found", "no file of this path"),
        ({"inputs": {"videos": [{"path": "a\0.mp4"}]}}, "not_found", "no file of this path"),
        ({"inputs": {"videos": [{"path": "none.mp4"}]}}, "not_found", "no file none.mp4"),
        ({"inputs": {"videos": [{"path": "../checkpoint/config.json"}]}}, "forbidden", "not below the allowed"),
        ({"inputs": {"videos": [{"path": "/etc/passwd"}]}}, "forbidden", "not below the allowed"),
        ({"inputs": "a", "parameters": {"index": "none.safetensors"}}, "not_found", "no feature file none"),
        ({"inputs": "a", "parameters": {"index": "../x.safetensors"}}, "not_found", "no feature file"),
        ({"inputs": "a", "parameters": {"index": "a" * 5000}}, "not_found", "no feature file"),
        ({"inputs": "a", "parameters": {"index": 5}}, "bad_request", "index=5 must be the name"),
        ({"inputs": "a", "parameters": {"index": "model.safetensors"}}, "bad_input", "is not a feature file"),
    ],
)
def test_wrong_requests_get_a_json_error_that_names_no_folder(handler, checkpoint, request_, code, message):
    error = handler(request_)["error"]
    assert error["code"] == code
    assert re.search(message, error["message"]), error["message"]
    assert str(checkpoint.parent) not in error["message"]


def test_limits_get_a_json_error_each(make, videos):
    video = encoded(videos / "a.mp4")
    size = (videos / "a.mp4").stat().st_size
    cases = [
        ({"GLCCL_MAX_VIDEOS": 1}, {"videos": [video, video]}, "too_many", "2 videos; at most 1"),
        ({"GLCCL_MAX_TEXTS": 1}, {"texts": TEXTS}, "too_many", "2 texts; at most 1"),
        ({"GLCCL_MAX_CHARACTERS": 5}, {"query": "a red ball"}, "too_large", "10 characters; at most 5"),
        ({"GLCCL_MAX_REQUEST_BYTES": size + 9}, {"videos": [video, video]}, "too_large", "up to videos[1]"),
        ({"GLCCL_MAX_VIDEO_SECONDS": 1.5}, {"videos": [{"path": "b.mp4"}]}, "too_long", "lasts 2.0 s; at most 1.5 s"),
        ({"GLCCL_VIDEO_ROOT": ""}, {"videos": [{"path": "a.mp4"}]}, "forbidden", ""),
    ]
    for limits, inputs, code, message in cases:
        handler = make(**limits)
        error = handler({"inputs": inputs})["error"]
        assert error["code"] == code
        assert message in error["message"]


def test_links_do_not_lead_out_of_the_root(handler, videos, checkpoint):
    (videos / "link.mp4").symlink_to(checkpoint / "config.json")
    try:
        assert handler({"inputs": {"videos": [{"path": "link.mp4"}]}})["error"]["code"] == "forbidden"
    finally:
        (videos / "link.mp4").unlink()


def test_a_video_that_hangs_its_decoder_costs_its_own_request_alone(make, videos, monkeypatch):
    started = hanging(monkeypatch)
    handler = make()
    assert "embeddings" in handler({"inputs": {"videos": [encoded(videos / "a.mp4")]}})
    handler.limits["GLCCL_TIMEOUT_SECONDS"] = 1
    sent = [encoded(HANGING), encoded(videos / "b.mp4")]  # of which the second has no time left
    error = handler({"inputs": {"videos": sent}})["error"]
    assert error == {"code": "timeout", "message": "not done within 1 seconds: send fewer or shorter videos"}
    handler.limits["GLCCL_TIMEOUT_SECONDS"] = 60
    (killed,) = started
    assert killed.returncode == -signal.SIGKILL
    for name in ("a.mp4", "b.mp4"):
        assert "embeddings" in handler({"inputs": {"videos": [encoded(videos / name)]}})
    assert len(started) == 2  # the new process served both
    assert decoding_process_glccl._idle == started[1:]
    started[1].communicate()


def test_a_request_that_waited_too_long_for_another_is_not_computed(make):
    handler = make(GLCCL_TIMEOUT_SECONDS=0.2)
    computed = []
    handler.pipe.forward = lambda *arguments: computed.append(arguments)
    with handler.turn:
        assert handler({"inputs": TEXTS[0]})["error"]["code"] == "timeout"
    assert computed == []


def test_one_request_too_many_is_answered_at_once(make):
    handler = make(GLCCL_MAX_REQUESTS=2)
    with handler.places, handler.places:
        error = handler({"inputs": TEXTS[0]})["error"]
    assert error == {"code": "busy", "message": "2 requests are being answered: try again later"}
    assert "results" in handler({"inputs": TEXTS[0]})


def test_what_a_library_says_stays_in_the_log(handler, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise RuntimeError("secret")

    monkeypatch.setattr(handler.pipe, "forward", fail)
    error = handler({"inputs": {"texts": TEXTS}})["error"]
    assert error == {"code": "internal", "message": "this is a fault of the server, whose log says more"}
    assert "secret" in caplog.text


@pytest.mark.parametrize("format_", LISTS)
def test_a_list_of_other_files_opens_none_of_them(handler, videos, format_):
    with nothing_opened(format_, videos / "a.mp4") as text:
        error = handler({"inputs": {"videos": [encoded(text)]}})["error"]
        assert error["code"] == "bad_input"


def test_no_more_of_a_long_video_is_decoded_than_tells_that_it_is_too_long(make, videos, monkeypatch):
    long = write_video(videos.parent / "long.mp4", 300, fps=10, key_interval=1000)
    decoded = []

    def spy(*arguments, **options):
        decoded.append(decoding_process_glccl.decode_in_process(*arguments, **options))
        return decoded[-1]

    monkeypatch.setattr(video_processing_glccl, "decode_in_process", spy)
    handler = make(GLCCL_MAX_VIDEO_SECONDS=5)
    error = handler({"inputs": {"videos": [encoded(long)]}})["error"]
    assert (error["code"], error["message"]) == ("too_long", "video 0 lasts 30.0 s; at most 5 s are allowed")
    assert decoded[0].decoded_frames <= 60


ENDPOINT = """
import base64, json, sys
folder = sys.argv[1]
sys.path.insert(0, folder)  # as the Inference Toolkit does
import handler
assert handler.__file__ == folder + "/handler.py"
import importlib.util
assert importlib.util.find_spec("modeling_glccl").origin == folder + "/modeling_glccl.py"
answer = handler.EndpointHandler(folder)
video = base64.b64encode(open(sys.argv[2], "rb").read()).decode()
requests = {"inputs": "a red ball bounces"}, {"inputs": {"videos": [{"base64": video}]}}
print(json.dumps([answer(request) for request in requests]))
assert "modeling_glccl" not in sys.modules
"""


def test_the_checkpoints_folder_may_hide_the_package(checkpoint, videos, handler, tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", ENDPOINT, str(checkpoint), str(videos / "b.mp4")]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    requests = {"inputs": TEXTS[0]}, {"inputs": {"videos": [encoded(videos / "b.mp4")]}}
    assert nearly_equal(json.loads(run.stdout), [handler(request) for request in requests])


def test_files_in_a_cache_are_links_and_serve_as_well(checkpoint, make, handler, tmp_path):
    """The Hub's cache holds links to its blobs."""
    (snapshot := tmp_path / "snapshot").mkdir()
    for file in checkpoint.iterdir():
        if file.is_file():
            (snapshot / file.name).symlink_to(file)
    assert type(handler)(str(snapshot))({"inputs": TEXTS[0]}) == handler({"inputs": TEXTS[0]})


def test_its_requirements_are_those_of_the_package():
    root = HANDLER.parent.parent.parent
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set((HANDLER.parent / "requirements.txt").read_text().split()) < set(wanted)


def test_it_imports_nothing_but_transformers_and_the_standard_library():
    names = set()
    for node in ast.walk(ast.parse(HANDLER.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names - sys.stdlib_module_names == {"transformers"}
