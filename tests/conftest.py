"""Settings for all tests."""

import os

from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# An example that takes longer than usual says that the machine is busy, not that the code is wrong.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")


def pytest_collection_modifyitems(items):
    """Whole sweeps first: processes take files in this order (--no-loadscope-reorder) and would wait for a long last one."""
    items.sort(key=lambda item: "end_to_end" not in item.path.parts)
