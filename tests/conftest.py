"""Settings for all tests."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# An example that takes longer than usual says that the machine is busy, not that the code is wrong.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
