"""Markers of transformers' own test configuration."""

MARKERS = "is_pipeline_test accelerate_tests flash_attn_test flash_attn_3_test flash_attn_4_test torch_compile_test"


def pytest_configure(config):
    for name in MARKERS.split():
        config.addinivalue_line("markers", f"{name}: of transformers' suites")
