"""transformers' suite of pipelines, with text-video retrieval as one of its tasks."""

import json
import os
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from checkpoints import save_tiny_checkpoint
from suites import suite

from modeling_glccl import GLCCLModel, GLCCLProcessor
from modeling_glccl.pipeline_glccl import TextVideoRetrievalPipeline

pytestmark = pytest.mark.slow

TASK = "text-video-retrieval"
MODELS = tempfile.TemporaryDirectory()
SUMMARY = {"GLCCLModel": {"tokenizer_classes": ["CLIPTokenizer"], "processor_classes": []}}
(Path(MODELS.name) / "reports").mkdir()
(Path(MODELS.name) / "reports" / "tiny_model_summary.json").write_text(json.dumps(SUMMARY))
with mock.patch.dict(os.environ, TRANSFORMERS_TINY_MODEL_PATH=MODELS.name):
    common = suite("test_pipeline_mixin")
common.pipeline_test_mapping[TASK] = {"test": f"{__name__}.RetrievalPipelineTester"}


class PipelineOverVideos(TextVideoRetrievalPipeline):
    """With candidates of its own: the suite calls a pipeline with inputs alone."""

    def __call__(self, inputs, **kwargs):
        videos = [np.full((3, 20, 20, 3), value, np.uint8) for value in (0, 90, 250)]
        return super().__call__(inputs, videos=videos, **kwargs)


class RetrievalPipelineTester:
    """What the suite asks for of a task's tests."""

    def get_test_pipeline(self, model, tokenizer, dtype):
        processor = GLCCLProcessor.from_pretrained(model.name_or_path)
        assert tokenizer.get_vocab() == processor.tokenizer.get_vocab()
        return PipelineOverVideos(model.to(getattr(torch, dtype)), processor), ["a red ball", "ball"]

    def run_pipeline_test(self, pipeline, examples):
        for results in (pipeline(examples[0]), *pipeline(examples)):
            assert [{*result} for result in results] == 3 * [{"index", "id", "score"}]
            assert sorted(result["index"] for result in results) == [0, 1, 2]
        orders = [[result["id"] for result in results] for results in pipeline(examples)]
        assert orders == [[result["id"] for result in pipeline(example)] for example in examples]


class GLCCLPipelineTest(common.PipelineTesterMixin, unittest.TestCase):
    pipeline_model_mapping = {TASK: GLCCLModel}  # noqa: RUF012

    def test_text_video_retrieval(self):
        self.run_task_tests(TASK)

    def test_text_video_retrieval_fp16(self):
        self.run_task_tests(TASK, dtype="float16")

    @classmethod
    def setUpClass(cls):
        save_tiny_checkpoint(Path(MODELS.name) / "glccl" / "GLCCLModel", ["a red ball bounces", "ball"] * 4)


for name in dir(GLCCLPipelineTest):
    if name.startswith("test_pipeline_"):  # of other tasks, which would all be skipped
        setattr(GLCCLPipelineTest, name, None)
