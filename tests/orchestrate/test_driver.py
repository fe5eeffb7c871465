"""What is refused before anything is spent."""

from importlib.util import find_spec

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.orchestrate import driver as run


def test_an_engine_that_is_not_installed_is_refused_with_the_way_out(monkeypatch):
    run.refuse_missing_engines()
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "vllm" else find_spec(name))
    with pytest.raises(
        WlsweepError, match=r"lacks engines of the sweep: vllm, needed to predict(.|\n)*pip install torch=="
    ):
        run.refuse_missing_engines()
