"""Kernels beyond PyTorch's own: taken where they are there, refused in one sentence where not."""

import pytest
from torch.nn import attention

from wlsweep.errors import SharedFailure, WlsweepError
from wlsweep.spec.config import load_sweep
from wlsweep.train.kernels import set_up_kernels


def train(**changes):
    return load_sweep("demo").train.model_copy(update=changes)


class Handle:
    def remove(self):
        pass


def test_the_flash_attention_that_is_asked_for_is_activated(monkeypatch):
    before = dict(attention._registry._FLASH_ATTENTION_IMPLS)
    monkeypatch.setitem(attention._registry._FLASH_ATTENTION_IMPLS, "FA3", Handle)
    try:
        set_up_kernels(train(flash_attention="FA3"))
        assert attention.current_flash_attention_impl() == "FA3"
    finally:
        attention.restore_flash_attention_impl()
    assert "FA3" in before, "PyTorch knows FA3 by that name"


@pytest.mark.parametrize("version", ["FA3", "FA4"])
def test_one_that_is_not_installed_stops_the_sweep_with_advice(version):
    with pytest.raises(SharedFailure, match=f'train.flash_attention = "{version}".*install the package'):
        set_up_kernels(train(flash_attention=version))


def test_on_cpus_it_is_refused_before_anything_is_spent():
    with pytest.raises(WlsweepError, match=r"flash_attention.*gpu"):
        load_sweep("demo", settings=["train.flash_attention=FA3"])


def test_what_compiles_needs_a_compiler(monkeypatch, tmp_path):
    set_up_kernels(train())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SharedFailure, match=r"compile_elementwise needs a C\+\+ compiler"):
        set_up_kernels(train(compile_elementwise=True))


def test_kernels_change_no_fingerprint():
    plain = load_sweep("iclr19")
    other = load_sweep("iclr19", settings=["train.flash_attention=FA3", "train.compile_elementwise=true"])
    assert other.fingerprint() == plain.fingerprint()
