"""transformers' suite of video processors, on GLCCL's."""

import unittest

import pytest
from suites import skip, suite
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from modeling_glccl import GLCCLVideoProcessor

common = suite("test_video_processing_common")
common.AutoVideoProcessor = AutoVideoProcessor  # that of the top level refuses to be used without torchvision

pytestmark = pytest.mark.slow


class GLCCLVideoProcessingTester:
    """What the suite asks for of a video processor's test."""

    batch_size, num_frames, num_channels = 5, 8, 3

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        sizes = {"min_resolution": 30, "max_resolution": 80}
        counts = {"batch_size": self.batch_size, "num_frames": self.num_frames, "num_channels": self.num_channels}
        return common.prepare_video_inputs(
            **sizes, **counts, equal_resolution=equal_resolution, return_tensors=return_tensors
        )

    def expected_output_video_shape(self, videos):
        return self.num_frames, 3, 18, 18


class GLCCLVideoProcessingTest(common.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = GLCCLVideoProcessor
    test_cast_dtype = True

    def setUp(self):
        super().setUp()
        self.video_processor_tester = GLCCLVideoProcessingTester()
        self.video_processor_dict = {"size": 20, "crop_size": 18, "max_frames": 12}


for name, reason in {
    "test_video_processor_from_dict_with_kwargs": "size and crop_size are one number each, read from dictionaries",
    "test_call_sample_frames": "a video with fewer frames than are asked for gives those it has, and a mask says so",
    "test_call_numpy_4_channels": "the shape says the order of channels, the processor has mean and deviation",
}.items():
    skip(GLCCLVideoProcessingTest, reason, name)
