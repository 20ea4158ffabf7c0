"""The pipeline: ranks, moments, feature files; in this process and from a saved folder alone, as remote code."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from families import save_plain
from paths import REPOSITORY
from peer_models import PEERS, peer_model
from PIL import Image
from remote_code import nearly_equal, run_without_package
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoModel, pipeline
from videos import write_video

from modeling_glccl import GLCCLModel, GLCCLProcessor, TextVideoRetrievalPipeline, features_glccl
from modeling_glccl.checkpoints import load_checkpoint

CAPTIONS = ["a red ball bounces", "a blue square slides to the left", "two green stars spin"]


@pytest.fixture(scope="module")
def pipe(checkpoint):
    return pipeline("text-video-retrieval", model=str(checkpoint), device="cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    counts = (30, 2, 12, 50, 3, 25, 40)
    return [str(write_video(folder / f"{i}.mp4", count, fps=10)) for i, count in enumerate(counts)]


@pytest.fixture(scope="module")
def logits(checkpoint, paths):
    """[captions, videos], by model and processor themselves."""
    model, processor = GLCCLModel.from_pretrained(checkpoint), GLCCLProcessor.from_pretrained(checkpoint)
    with torch.no_grad():
        return model(**processor(text=CAPTIONS, videos=paths)).logits_per_text


def test_videos_are_ranked_by_the_models_scores(pipe, paths, logits):
    for batch_size in (1, 3, 7):
        ranked = pipe(CAPTIONS, videos=paths, batch_size=batch_size, top_k=None)
        for row, results in zip(logits, ranked, strict=True):
            assert [result["index"] for result in results] == row.argsort(descending=True).tolist()
            assert [result["id"] for result in results] == [paths[result["index"]] for result in results]
            scores = [result["score"] for result in results]
            torch.testing.assert_close(torch.tensor(scores), row.sort(descending=True).values, atol=1e-4, rtol=1e-5)


def test_one_query_gives_one_list_as_long_as_the_settings_say(pipe, checkpoint, paths, capsys):
    (several,) = pipe([CAPTIONS[0]], videos=paths, top_k=2)
    assert pipe(CAPTIONS[0], videos=paths, top_k=2) == several
    assert len(several) == 2
    assert pipe((text for text in CAPTIONS), videos=paths) == pipe(CAPTIONS, videos=paths)
    assert pipe([], videos=paths) == []
    made = pipeline("text-video-retrieval", model=str(checkpoint), device="cpu", top_k=2, moments=True, batch_size=2)
    capsys.readouterr()
    results = made(CAPTIONS[0], videos=paths[:3])
    assert len(results) == 2
    assert "start" in results[0]
    assert len(made(CAPTIONS[0], videos=paths[:3], top_k=None)) == 3
    assert capsys.readouterr().err == ""
    made(CAPTIONS[0], videos=paths[:2], batch_size=1, progress=True)
    shown = capsys.readouterr().err
    assert "videos:" in shown
    assert "texts:" in shown


def test_texts_are_ranked_for_a_video_and_for_several(pipe, paths, logits):
    ranked = pipe(paths, texts=CAPTIONS, batch_size=2)
    assert len(ranked) == len(paths)
    for column, results in zip(logits.T, ranked, strict=True):
        assert [result["text"] for result in results] == [CAPTIONS[i] for i in column.argsort(descending=True)]
        assert [CAPTIONS[result["index"]] for result in results] == [result["text"] for result in results]
    (best,) = pipe(paths[3], texts=CAPTIONS, top_k=1, moments=True)
    assert best["text"] == ranked[3][0]["text"]
    video = pipe(best["text"], videos=[paths[3]], moments=True)[0]
    assert (best["start"], best["end"]) == (video["start"], video["end"])
    with pytest.raises(ValueError, match="texts is an empty list"):
        pipe(paths[0], texts=[])


def test_candidates_may_be_bytes_arrays_and_images(pipe, paths):
    array = np.random.default_rng(0).integers(0, 255, (5, 20, 30, 3), np.uint8)
    images = [Image.fromarray(frame) for frame in array]
    content = Path(paths[0]).read_bytes()
    ranked = pipe(CAPTIONS[0], videos=[array, images, content, paths[0]], moments=True)
    found = {result["id"]: result for result in ranked}
    assert set(found) == {"0", "1", "2", paths[0]}
    assert found["0"]["score"] == pytest.approx(found["1"]["score"], abs=1e-4)
    assert found["2"]["score"] == pytest.approx(found[paths[0]]["score"], abs=1e-4)
    assert found["0"]["start"] is found["0"]["end"] is None
    assert found["2"]["start"] == found[paths[0]]["start"] is not None
    assert len(pipe(CAPTIONS[0], videos=array)) == len(pipe(CAPTIONS[0], videos=images)) == 1


def test_a_feature_file_ranks_as_the_videos_do(pipe, paths, tmp_path):
    file = tmp_path / "index.safetensors"
    names = [f"clip {i}" for i in range(len(paths))]
    pipe.save_index(file, paths, ids=names, batch_size=3)
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.safetensors"]
    expected = pipe(CAPTIONS, videos=paths, batch_size=3, moments=True)
    for videos in (file, str(file), pipe.index(file)):
        ranked = pipe(CAPTIONS, videos=videos, moments=True)
        for results, wanted in zip(ranked, expected, strict=True):
            assert [{**r, "id": paths[names.index(r["id"])]} for r in results] == wanted
    with safe_open(file, "pt") as content:
        assert set(content.keys()) == {"frames", "frame_mask", "timestamps", "durations"}
        assert content.get_tensor("frames").shape == (7, 4, 32)
        assert json.loads(content.metadata()["ids"]) == names
    assert pipe(file, texts=CAPTIONS) == pipe(paths, texts=CAPTIONS, batch_size=3)


def test_moments_are_the_frames_that_the_weights_favour(pipe, paths, monkeypatch):
    index = pipe.index(paths[:1])
    assert len(repr(index)) < 80  # and no tensor's numbers
    assert index.timestamps[0].tolist() == pytest.approx([0.3, 1.1, 1.8, 2.6])
    assert index.durations.tolist() == pytest.approx([3.0])

    def weights(text, video):
        return type("Weights", (), {"sentence": torch.tensor([[[0.1, 0.5, 0.3, 0.1]]])})

    monkeypatch.setattr(pipe.model, "frame_weights", weights)
    (found,) = pipe(CAPTIONS[0], videos=index, moments=True)
    assert (found["start"], found["end"]) == pytest.approx((0.7, 2.2))


def test_what_comes_after_the_end_is_not_read(pipe, paths):
    whole, cut, longer = (pipe.index(paths[:1], end=end) for end in (None, 1.0, 9.0))
    assert cut.timestamps.max() < 1
    assert cut.durations.tolist() == whole.durations.tolist() == pytest.approx([3.0])
    assert torch.equal(longer.features.frames, whole.features.frames)


@pytest.mark.parametrize("head", PEERS)
def test_every_peer_is_ranked_by_its_own_scores(head, pipe, paths, tmp_path):
    processor, paths = pipe.processor, paths[:4]
    model = peer_model(head, clip_config=pipe.model.config.clip_config, max_words=32)
    made = TextVideoRetrievalPipeline(model, processor=processor)
    with torch.no_grad():
        expected = model(**processor(text=CAPTIONS, videos=paths)).logits_per_text
    made.save_index(tmp_path / "features.safetensors", paths, batch_size=3)
    for videos in (paths, str(tmp_path / "features.safetensors")):
        for row, results in zip(expected, made(CAPTIONS, videos=videos, top_k=None, batch_size=2), strict=True):
            scores = torch.tensor([result["score"] for result in sorted(results, key=lambda r: r["index"])])
            torch.testing.assert_close(scores, row, atol=1e-4, rtol=0)


def test_queries_and_documents_are_encoded_and_scored(pipe, paths, logits):
    """By the pipeline and by the model with a processor; features, and vectors for a database."""
    queries, documents = pipe.encode_query(CAPTIONS, batch_size=2), pipe.encode_document(paths, batch_size=3)
    close = {"atol": 1e-4, "rtol": 1e-5}
    torch.testing.assert_close(pipe.similarity(queries, documents), logits, **close)
    pairs = pipe.similarity_pairwise(queries.select([0, 1, 2] * 4), documents.select([0, 1, 2] * 4))
    torch.testing.assert_close(pairs, logits.diagonal().repeat(4), **close)
    with pytest.raises(ValueError, match="3 texts and 7 videos are no pairs"):
        pipe.similarity_pairwise(queries, documents)
    torch.testing.assert_close(
        pipe.similarity_pairwise(queries, pipe.index(paths[:3])), logits[:, :3].diagonal(), **close
    )
    with torch.no_grad():
        loaded = pipe.model.similarity(pipe.model.encode_query(CAPTIONS), pipe.model.encode_document(paths))
    torch.testing.assert_close(loaded, logits, **close)

    texts, videos = pipe.encode_query(CAPTIONS, pooled=True), pipe.encode_document(paths, pooled=True, device="cpu")
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(videos.norm(dim=1), torch.ones(7))
    torch.testing.assert_close(pipe.similarity(texts, videos), texts @ videos.T)
    torch.testing.assert_close(pipe.similarity_pairwise(texts, videos[:3]), (texts * videos[:3]).sum(1))
    torch.testing.assert_close(pipe.encode_document(paths[1], pooled=True), videos[1], **close)
    torch.testing.assert_close(pipe.encode_query(CAPTIONS[1], pooled=True), texts[1], **close)
    assert pipe.encode_query(CAPTIONS[1]).num_rows == 1
    with pytest.raises(ValueError, match="3 texts and 7 videos are no pairs"):
        pipe.similarity_pairwise(texts, videos)
    for wrong in ((queries, videos), (texts, documents), (documents, queries), (queries, queries), (None, documents)):
        for score in (pipe.similarity, pipe.similarity_pairwise):
            with pytest.raises(ValueError, match="similarity takes features of texts and then of videos"):
                score(*wrong)
    with pytest.raises((RuntimeError, AssertionError)):
        pipe.encode_query(CAPTIONS, device="nonsense:1")
    assert pipe.device == torch.device("cpu")
    with pytest.raises(ValueError, match="texts is an empty list"):
        pipe.encode_query([])


def test_pooled_vectors_rank_videos_of_one_frame_as_linear_scores_do(pipe, paths):
    """With one frame GLCCL's four scores are linear but for the aggregation over words, which one word leaves out."""
    text = pipe.encode_query(CAPTIONS)
    text.word_mask[:, 1:] = False
    frames = pipe.encode_document(paths)
    frames.frame_mask[:, 1:] = False
    scale = pipe.model.clip.logit_scale.exp().item()
    vectors = pipe.model.query_vectors(text) @ pipe.model.pool(frames).T
    torch.testing.assert_close(scale * vectors, pipe.similarity(text, frames), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "pass the candidates"),
        ({"videos": ["a.mp4"], "texts": ["a"]}, ValueError, "pass the candidates"),
        ({"videos": []}, ValueError, "empty list"),
        ({"videos": ["nothing/here.mp4"]}, ValueError, "nothing/here.mp4: no such file"),
        ({"videos": "nothing.safetensors"}, FileNotFoundError, "no feature file nothing.safetensors"),
        ({"videos": ["a.mp4"], "top_k": 0}, ValueError, "top_k=0"),
        ({"videos": ["a.mp4"], "topk": 1}, TypeError, "does not know topk"),
    ],
)
def test_wrong_use_is_explained(pipe, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(CAPTIONS[0], **arguments)


def test_wrong_files_are_named(pipe, paths, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        pipe.save_index(tmp_path / "index.bin", paths)
    with pytest.raises(ValueError, match="2 ids for 7 videos"):
        pipe.save_index(tmp_path / "index.safetensors", paths, ids=["a", "b"])
    with pytest.raises(ValueError, match=r"starts with video 2 .*test_pipeline\.py"):
        pipe(CAPTIONS[0], videos=[*paths[:3], __file__], batch_size=2)
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"garbage")
    weights = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, weights)
    for file in (garbage, weights):
        with pytest.raises(ValueError, match=f"{file.name} is not a feature file"):
            pipe(CAPTIONS[0], videos=file)
    wide = tmp_path / "wide.safetensors"
    tensors = {"frames": torch.zeros(1, 4, 64), "frame_mask": torch.ones(1, 4, dtype=torch.bool)}
    times = {"timestamps": torch.zeros(1, 4), "durations": torch.zeros(1)}
    save_file(tensors | times, wide, {"ids": '["a"]'})
    with pytest.raises(ValueError, match="written by another model"):
        pipe(CAPTIONS[0], videos=wide)
    save_file(tensors | times | {"frames": torch.zeros(1, 4, 32)}, wide, {"ids": "1"})
    with pytest.raises(ValueError, match="is damaged: it has no id, times or duration of some"):
        pipe(CAPTIONS[0], videos=wide)


def test_a_full_disk_keeps_the_older_feature_file(pipe, paths, tmp_path, monkeypatch):
    file = tmp_path / "index.safetensors"
    pipe.save_index(file, paths[:1])
    before = file.read_bytes()

    def full(tensors, path, metadata):
        path.write_bytes(b"a part")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(features_glccl, "save_file", full)
    with pytest.raises(OSError, match=r"index\.safetensors could not be written: .*No space left"):
        pipe.save_index(file, paths)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("index.safetensors", before)]


def test_the_installed_package_asks_for_no_trust(checkpoint, pipe, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda prompt: pytest.fail(prompt))
    for trust in ({}, {"trust_remote_code": True}):
        assert type(AutoModel.from_pretrained(checkpoint, **trust)) is GLCCLModel
        made = pipeline("text-video-retrieval", model=str(checkpoint), device="cpu", **trust)
        assert type(made) is TextVideoRetrievalPipeline
        assert type(made.model) is GLCCLModel
        assert type(made.processor) is GLCCLProcessor


def test_a_folder_holds_what_is_needed_and_nothing_else(checkpoint, pipe, tmp_path):
    code = {path.name for path in (REPOSITORY / "modeling_glccl").glob("*_glccl.py")}
    weights = {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    weights.add("modules.json")
    assert {str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*")} == code | weights
    pipe.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == code | weights
    for name in code | {"model.safetensors"}:
        assert (tmp_path / name).read_bytes() == (checkpoint / name).read_bytes()


REMOTE = """
import json, os, sys, torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

folder, video = sys.argv[1:]
trust, answers = {"trust_remote_code": True}, []
for folder in (folder, "."):  # the second is what the first saved, from inside the folder itself
    autos = AutoConfig, AutoModel, AutoProcessor, AutoVideoProcessor
    config, model, processor, video_processor = (auto.from_pretrained(folder, **trust) for auto in autos)
    with torch.no_grad():
        logits = model(**processor(text=["a red ball bounces"], videos=[video])).logits_per_text
    pipe = pipeline("text-video-retrieval", model=folder, device="cpu", **trust)
    pipe.save_index("../index.safetensors", [video], ids=["a"])
    answers.append({
        "classes": [type(thing).__name__ for thing in (config, model, processor, video_processor, pipe)],
        "logits": logits.tolist(),
        "ranked": pipe("a red ball bounces", videos="../index.safetensors", moments=True),
        "texts": pipe(video, texts=["a red ball bounces"]),
    })
    pipe.save_pretrained("again")
    os.chdir("again")
print(json.dumps(answers))
assert "modeling_glccl" not in sys.modules
"""


@pytest.mark.slow
def test_the_examples_of_the_readme_run(checkpoint, paths, tmp_path):
    """On videos of these names, with a checkpoint at the place of the repository's, and of OpenAI's."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for place in ("hub/models/glccl-shapes", "openai/clip-vit-base-patch32"):
        shutil.copytree(checkpoint, tmp_path / place)
    for name, path in zip(("a.mp4", "b.mkv", "c.webm", "b.mp4"), paths, strict=False):
        shutil.copy(path, tmp_path / name)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def printed(after: str) -> str:
        example = readme.partition(after)[2].partition("```python\n")[2].partition("```")[0]
        command = [sys.executable, "-c", example]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        return ran.stdout.strip().splitlines()[-1]

    assert re.fullmatch(r"(a.mp4|b.mkv|c.webm) tensor\(\[\[.*\]\]\)", printed("# GLCCL"))
    assert set(ast.literal_eval(printed("## On the Hub"))) == {"index", "id", "score", "start", "end"}


def test_without_the_package_a_moved_folder_loads_and_saves_again(checkpoint, pipe, paths, tmp_path):
    moved = tmp_path / "another name-1.0"
    shutil.copytree(checkpoint, moved)
    (here := tmp_path / "inside").mkdir()
    outside, inside = json.loads(run_without_package(REMOTE, here, moved, paths[0]))
    assert nearly_equal(outside, inside)
    assert {file.name for file in (here / "again").glob("*.*")} == {file.name for file in checkpoint.iterdir()}

    text = ["a red ball bounces"]
    with torch.no_grad():
        logits = pipe.model(**pipe.processor(text=text, videos=[paths[0]])).logits_per_text
    assert nearly_equal(outside["logits"], logits.tolist())
    assert nearly_equal(outside["ranked"], [{**pipe(text[0], videos=[paths[0]], moments=True)[0], "id": "a"}])
    assert nearly_equal(outside["texts"], pipe(paths[0], texts=text))
    classes = "GLCCLConfig GLCCLModel GLCCLProcessor GLCCLVideoProcessor TextVideoRetrievalPipeline"
    assert " ".join(outside["classes"]) == classes


def test_a_plain_clip_makes_a_zero_shot_pipeline(paths, tmp_path):
    folder = save_plain("clip", tmp_path)
    model, processor = load_checkpoint(folder)
    made = pipeline("text-video-retrieval", model=str(folder))
    assert made.model.config.zero_shot
    with torch.no_grad():
        expected = model(**processor(text=["a red ball"], videos=paths)).logits_per_text[0]
    found = sorted(made("a red ball", videos=paths, top_k=None), key=lambda result: result["index"])
    torch.testing.assert_close(torch.tensor([result["score"] for result in found]), expected, atol=1e-4, rtol=0)
