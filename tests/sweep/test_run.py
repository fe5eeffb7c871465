"""What is refused before anything is spent."""

import pytest

from wlsweep.config import load_sweep
from wlsweep.errors import WlsweepError
from wlsweep.sweep.run import refuse_doomed


def test_the_shipped_search_spaces_ask_for_nothing_that_the_lock_files_lack():
    for name in ("demo", "abstracts", "iclr19", "evidence", "full36", "extended", "oracle"):
        refuse_doomed(load_sweep(f"search_spaces/{name}.toml"))


def test_an_attention_kernel_that_is_not_installed_is_refused_with_the_way_out():
    sweep = load_sweep("search_spaces/iclr19.toml")
    flash = sweep.model_copy(update={"model": sweep.model.model_copy(update={"attention": "flash_attention_2"})})
    with pytest.raises(WlsweepError, match=r'flash_attn is not installed.*"sdpa" needs no package'):
        refuse_doomed(flash)
