"""transformers' suite of processors, on GLCCL's."""

import unittest
from unittest import mock

import pytest
from suites import skip, suite

from modeling_glccl import GLCCLProcessor, GLCCLVideoProcessor
from modeling_glccl.training.tokenizer import train_clip_tokenizer

common = suite("test_processing_common")
# A setting of video processors that GLCCL's has, where the suite has rescaling; the check of it is below.
common.MODALITY_TEST_SPECS["videos"]["init_time_kwargs"] = {"max_frames": 2}
common.MODALITY_TEST_SPECS["videos"]["call_time_kwargs"] = {"return_tensors": "pt"}

pytestmark = pytest.mark.slow


class GLCCLProcessorTest(common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = GLCCLProcessor
    videos_text_kwargs_max_length = videos_unstructured_max_length = 30  # not above max_words

    @classmethod
    def setUpClass(cls):
        # As of a class of transformers, whose code is not saved beside the files and named in them.
        cls.enterClassContext(mock.patch.object(GLCCLProcessor, "_auto_class", None))
        super().setUpClass()

    @classmethod
    def _setup_tokenizer(cls):
        return train_clip_tokenizer(["lower newer", "upper older longer string"] * 4, vocab_size=600)

    @classmethod
    def _setup_video_processor(cls):
        return GLCCLVideoProcessor(size=20, crop_size=18)

    def _check_modality_outputs(self, inputs, modality):
        assert inputs["pixel_values_videos"].shape[1] == 2


for name, reason in {
    "test_call_arguments_not_in_processor_kwargs": "the signature of __call__ has them: an unknown one is an error",
    "test_call_arguments_default_none": "tensors are torch's by default",
    "test_save_load_pretrained_additional_features": "the video processor always normalises: it has no do_normalize",
    "test_subprocessor_defaults_preserved_by_kwargs_1_videos": "max_words of the processor says how long texts are",
}.items():
    skip(GLCCLProcessorTest, reason, name)
