"""A checkpoint as a SentenceTransformer: of the real library, with this package and without it."""

import json
import shutil

import pytest
import torch
from paths import REPOSITORY
from remote_code import nearly_equal, run_without_package
from transformers import pipeline
from videos import write_video

from modeling_glccl import GLCCLModel
from modeling_glccl.publish import collect

sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
CAPTIONS = ["a red ball bounces", "a blue square slides to the left"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    names = ("a.mp4", "b.mkv", "c.webm")  # the library knows the last one's suffix as no video's
    return [str(shutil.move(write_video(folder / f"{i}.mp4", 9 + i), folder / name)) for i, name in enumerate(names)]


@pytest.fixture(scope="module")
def expected(checkpoint, paths):
    pipe = pipeline("text-video-retrieval", model=str(checkpoint), device="cpu")
    return pipe.encode_query(CAPTIONS, pooled=True), pipe.encode_document(paths, pooled=True)


@pytest.fixture
def model(checkpoint):
    return sentence_transformers.SentenceTransformer(str(checkpoint), trust_remote_code=True, device="cpu")


RANK = """
import json, sys
from sentence_transformers import SentenceTransformer

folder, *paths = sys.argv[1:]
answers = []
for place in (folder, "again"):
    model = SentenceTransformer(place, trust_remote_code=True, device="cpu")
    queries, videos = model.encode_query(%r), model.encode_document(paths)
    answers.append([queries.tolist(), videos.tolist(), model.similarity(queries, videos).tolist()])
    if place == folder:
        model.save_pretrained("again", create_model_card=False)
print(json.dumps(answers))
assert "modeling_glccl" not in sys.modules
"""


@pytest.mark.slow
def test_without_the_package_texts_and_videos_are_ranked(checkpoint, paths, expected, tmp_path):
    first, second = json.loads(run_without_package(RANK % CAPTIONS, tmp_path, checkpoint, *paths))
    texts, videos = expected
    assert nearly_equal(first, [texts.tolist(), videos.tolist(), (texts @ videos.T).tolist()])
    assert nearly_equal(first, second)  # what it saved is a checkpoint like the first


def test_inputs_have_the_forms_of_the_library_and_what_it_saves_is_a_checkpoint(
    model, checkpoint, paths, expected, tmp_path
):
    texts, videos = map(torch.Tensor.numpy, expected)
    found = model.similarity(model.encode_query(CAPTIONS), model.encode_document(paths)).numpy()
    assert found == pytest.approx(texts @ videos.T, abs=1e-5)
    model.save_pretrained(str(tmp_path), create_model_card=False)
    assert {file.name for file in checkpoint.iterdir()} < {file.name for file in tmp_path.iterdir()}
    assert isinstance(GLCCLModel.from_pretrained(tmp_path), GLCCLModel)
    assert model.get_embedding_dimension() == 32
    assert model.encode(CAPTIONS[1]) == pytest.approx(texts[1], abs=1e-5)
    assert model.encode([{"video": path} for path in paths]) == pytest.approx(videos, abs=1e-5)
    prompted = model.encode([CAPTIONS[0].removeprefix("a red ")], prompt="a red ")
    assert prompted == pytest.approx(texts[:1], abs=1e-5)
    with pytest.raises(ValueError, match="in two calls"):
        model.encode([CAPTIONS[0], paths[2]])
    with pytest.raises(ValueError, match=r"missing\.mp4"):
        model.encode_document("missing.mp4")


def test_it_trains(model, paths):
    """The gradient of a loss of the library reaches both towers and the temporal encoder."""
    loss = sentence_transformers.sentence_transformer.losses.MultipleNegativesRankingLoss(model)
    batch = [model.preprocess(CAPTIONS), model.preprocess(paths[:2])]
    loss(batch, None).backward()
    towers = model[0].model.clip.text_model, model[0].model.clip.vision_model, model[0].model.temporal
    assert all(any(weight.grad is not None for weight in tower.parameters()) for tower in towers)


def test_modules_of_somebody_else_stay(checkpoint, tmp_path):
    model = GLCCLModel.from_pretrained(checkpoint)
    (tmp_path / "modules.json").write_text("[]")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "modules.json").read_text() == "[]"


def test_the_repositorys_checkpoint_works_here_and_published():
    folder = REPOSITORY / "hub" / "models" / "glccl-shapes"
    model = sentence_transformers.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    assert model.encode("a green heart bounces").shape == (96,)
    published = collect(folder)
    assert published.keys() > {"sentence_transformers_glccl.py"}
    assert json.loads(published["modules.json"])[0]["type"] == "sentence_transformers_glccl.GLCCLModule"
