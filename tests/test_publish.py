"""Publishing to a server on this machine that speaks the Hub's API, and loading from there in new processes."""

import json
import shutil

import pytest
import torch
from checkpoints import save_tiny_checkpoint
from families import save_plain
from hub_server import READ_TOKEN, TOKEN
from huggingface_hub import HfApi, constants
from remote_code import nearly_equal, run_without_package
from videos import write_video

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.cli import main
from modeling_glccl.peers import XCLIPModel
from modeling_glccl.publish import collect, push

CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# A model\n"
CAPTIONS = ["a red ball bounces", "a blue square slides"]


@pytest.fixture
def checkpoint(checkpoint, tmp_path):
    """A copy that a test may change, with a card."""
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    (folder / "README.md").write_text(CARD)
    return folder


def save_in_shards(folder):
    GLCCLModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="100KB")
    (folder / "model.safetensors").unlink()


def test_everything_goes_up_in_one_commit_and_nothing_else(hub, checkpoint, tmp_path):
    (checkpoint / "training_state").mkdir()
    (checkpoint / "training_state" / "optimizer.bin").write_bytes(b"state")
    (checkpoint / "notes.txt").write_text("private")
    (tmp_path / "handler.py").write_text("# handler")
    files = collect(checkpoint, more=[tmp_path / "handler.py"])
    commit, changed = push(files, "someone/model")

    repository = hub.repositories["model", "someone/model"]
    assert changed
    assert repository.branches["main"] == commit.oid
    assert len(repository.messages) == 2  # the first one is the server's own
    assert not {"notes.txt", "training_state"} & files.keys()
    expected = {file.name: file.read_bytes() for file in checkpoint.iterdir() if file.name in files}
    assert repository.files() == expected | {".gitattributes": b"", "handler.py": b"# handler"}
    assert not repository.private


def test_a_second_push_makes_a_commit_only_of_what_changed(hub, checkpoint):
    first, _ = push(collect(checkpoint), "someone/model", private=True)
    assert hub.repositories["model", "someone/model"].private
    again, changed = push(collect(checkpoint), "someone/model", private=True)
    assert not changed
    assert again.oid == first.oid

    # Written again in shards: neither the old weights nor code that is no longer used may stay.
    committed = hub.repositories["model", "someone/model"].commits[first.oid]
    committed["old_glccl.py"] = committed["README.md"]
    GLCCLModel.from_pretrained(checkpoint).save_pretrained(checkpoint, max_shard_size="100KB")
    with pytest.raises(ValueError, match=r"holds model\.safetensors and model\.safetensors\.index\.json"):
        collect(checkpoint)
    (checkpoint / "model.safetensors").unlink()
    _, changed = push(collect(checkpoint), "someone/model")
    assert changed
    files = hub.repositories["model", "someone/model"].files()
    assert "model.safetensors" not in files
    assert "old_glccl.py" not in files
    assert set(json.loads(files["model.safetensors.index.json"])["weight_map"].values()) <= set(files)
    assert len(hub.repositories["model", "someone/model"].messages) == 3


LOAD = """
import json, sys, torch
from transformers import AutoModel, AutoProcessor, pipeline

video, *revisions = sys.argv[1:]
answers = {}
for revision in revisions:
    trust = {"trust_remote_code": True, "revision": revision}
    model = AutoModel.from_pretrained("someone/model", **trust)
    processor = AutoProcessor.from_pretrained("someone/model", **trust)
    pipe = pipeline("text-video-retrieval", model="someone/model", device="cpu", **trust)
    with torch.no_grad():
        logits = model(**processor(text=["a red ball"], videos=[video])).logits_per_text
    answers[revision] = [logits.item(), pipe("a red ball", videos=[video])[0]["score"]]
print(json.dumps(answers))
"""


def logit(folder, video):
    model, processor = GLCCLModel.from_pretrained(folder), GLCCLProcessor.from_pretrained(folder)
    with torch.no_grad():
        return model(**processor(text=["a red ball"], videos=[video])).logits_per_text.item()


@pytest.mark.slow
def test_it_loads_in_another_process_at_every_revision(hub, checkpoint, tmp_path, monkeypatch):
    video = str(write_video(tmp_path / "video.mp4", 12))
    first, _ = push(collect(checkpoint), "someone/model")
    expected = {first.oid: logit(checkpoint, video)}
    save_tiny_checkpoint(checkpoint, CAPTIONS, seed=1)
    _, changed = push(collect(checkpoint), "someone/model", revision="second/try")
    assert changed
    expected |= {"main": expected[first.oid], "second/try": logit(checkpoint, video)}
    assert expected["main"] != expected["second/try"]

    (tmp_path / "client").mkdir()
    monkeypatch.delenv("HF_TOKEN")
    environment = hub.environment(tmp_path / "client" / "cache", token=None)
    printed = run_without_package(LOAD, tmp_path / "client", video, *expected, **environment)
    assert nearly_equal(json.loads(printed), {revision: [value, value] for revision, value in expected.items()})


def test_an_interrupted_push_goes_on_where_it_stopped(hub, checkpoint):
    save_in_shards(checkpoint)
    hub.fail("POST", "/commit/", 500, "the lights went out")
    with pytest.raises(OSError, match="the lights went out"):
        push(collect(checkpoint), "someone/model")
    sent = hub.paths("PUT")
    assert len(sent) > 2
    assert hub.repositories["model", "someone/model"].files().keys() == {".gitattributes"}
    _, changed = push(collect(checkpoint), "someone/model")
    assert changed
    assert hub.paths("PUT") == sent  # no weights were sent twice


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        ("hf_wrong", "someone/model", "refuses the token .* make a new one"),
        (None, "someone/model", "no token: run `hf auth login`"),
        (READ_TOKEN, "someone/model", "token may not write to someone/model"),
        (TOKEN, "others/model", "token may not write to others/model"),
        (TOKEN, "model", "must be of the form owner/name"),
        (TOKEN, "some one/model", "some one/model"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub, checkpoint, token, repo_id, message, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises((OSError, ValueError), match=message):
        push(collect(checkpoint), repo_id)
    assert not hub.repositories


def test_a_missing_token_is_noticed_before_anything_is_made(checkpoint, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["publish", str(checkpoint), "someone/model", "--push"]) == 1
    assert main(["data", "export", "shapes", str(tmp_path / "out"), "--push", "someone/shapes"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("no token: run `hf auth login`") == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("repo_id", ["bad name/with space", "owner", "a/b/c"])
def test_a_name_that_the_hub_cannot_have_is_refused_without_uploading(checkpoint, repo_id, tmp_path, capsys):
    assert main(["publish", str(checkpoint), repo_id]) == 1
    assert main(["data", "export", "shapes", str(tmp_path / "out"), "--push", repo_id]) == 1
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 2)
    assert all(repo_id in line for line in told.err.splitlines())


def test_a_full_disk_at_the_hub_is_explained_and_what_arrived_is_not_sent_again(hub, checkpoint):
    save_in_shards(checkpoint)
    hub.quota = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors")) // 2
    with pytest.raises(OSError, match=r"(?s)safetensors'.*storage limit is reached.*goes on from there"):
        push(collect(checkpoint), "someone/model")
    assert hub.repositories["model", "someone/model"].files().keys() == {".gitattributes"}
    arrived, sent = set(hub.objects), len(hub.paths("PUT"))
    assert arrived
    hub.quota = None
    _, changed = push(collect(checkpoint), "someone/model")
    assert changed
    assert not arrived & {path.removeprefix("/lfs/") for path in hub.paths("PUT")[sent:]}


def test_what_is_public_already_is_not_pushed_to_as_private(hub, checkpoint):
    HfApi().create_repo("someone/model", private=False)
    with pytest.raises(ValueError, match="someone/model is public already"):
        push(collect(checkpoint), "someone/model", private=True)
    assert hub.repositories["model", "someone/model"].files().keys() == {".gitattributes"}


def test_no_connection_is_explained(checkpoint, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        push(collect(checkpoint), "someone/model")


def test_incomplete_checkpoints_are_refused(checkpoint, capsys):
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        collect("someone/model")
    with pytest.raises(FileNotFoundError, match=r"handler\.py is not a file"):
        collect(checkpoint, more=["handler.py"])
    (checkpoint / "pipeline_glccl.py").unlink()
    (checkpoint / "README.md").unlink()
    # Checked before the card's example is run.
    assert main(["publish", str(checkpoint), "someone/model"]) == 1
    assert "saved without its code" in capsys.readouterr().err
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks README\.md, model\.safetensors"):
        collect(checkpoint)


def test_a_plain_clip_and_another_head_are_no_glccl_to_publish(tmp_path, capsys):
    save_plain("clip", tmp_path / "clip")
    save_tiny_checkpoint(tmp_path / "xclip", CAPTIONS, XCLIPModel, csc_weight=0)
    capsys.readouterr()  # the progress of saving
    for name in ("clip", "xclip"):
        assert main(["publish", str(tmp_path / name), "someone/model"]) == 1
        error = capsys.readouterr().err
        assert f"of the type {name!r}, and only GLCCL's are published" in error.replace("glccl_xclip", "xclip")
        assert error.count("\n") == 1


def test_no_code_of_the_folder_runs(checkpoint, tmp_path, capsys):
    """Not while the card's example is run, whatever the folder's settings name."""
    for code in [*checkpoint.glob("*_glccl.py"), checkpoint / "hostile_glccl.py"]:
        code.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Hostile: pass\n")
    hostile = "hostile_glccl.Hostile"
    pipelines = {"text-video-retrieval": {"impl": hostile, "pt": ["AutoModel"], "type": "multimodal"}}
    for name, auto_map, more in (
        ("config.json", {"AutoConfig": hostile, "AutoModel": hostile}, {"custom_pipelines": pipelines}),
        ("processor_config.json", {"AutoProcessor": hostile, "AutoVideoProcessor": hostile}, {}),
        ("tokenizer_config.json", {"AutoTokenizer": [hostile, hostile]}, {}),
    ):
        settings = json.loads((checkpoint / name).read_text()) | {"auto_map": auto_map} | more
        (checkpoint / name).write_text(json.dumps(settings))
    (checkpoint / "README.md").unlink()
    video = write_video(tmp_path / "video.mp4", 12)
    assert main(["publish", str(checkpoint), "someone/model", "--query", "a red ball", "--video", str(video)]) == 0
    assert "video.mp4: score" in capsys.readouterr().out
    assert not (tmp_path / "ran").exists()


def test_the_command_uploads_only_when_told_to(hub, checkpoint, monkeypatch, capsys):
    (checkpoint / "notes.txt").write_text("private")
    assert main(["publish", str(checkpoint), "someone/model"]) == 0
    assert not hub.requests
    printed = capsys.readouterr().out
    for expected in (
        "model.safetensors",
        "modeling_glccl.py",
        "# A model",
        "left out  notes.txt",
        "was uploaded. With",
    ):
        assert expected in printed
    assert main(["publish", str(checkpoint), "someone/model", "--push", "--private", "--revision", "v1"]) == 0
    commit = f"{hub.url}/someone/model/commit/"
    assert commit in capsys.readouterr().out
    assert hub.repositories["model", "someone/model"].private
    assert "model.safetensors" in hub.repositories["model", "someone/model"].files("v1")
    assert main(["publish", str(checkpoint), "someone/model", "--push", "--revision", "v1"]) == 0
    assert f"Nothing has changed since {commit}" in capsys.readouterr().out
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["publish", str(checkpoint), "someone/model", "--push"]) == 1
    assert "glccl publish: error: " in capsys.readouterr().err
