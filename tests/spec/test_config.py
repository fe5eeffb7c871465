"""Search spaces: what ships loads, what is wrong is refused at once."""

from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.spec.config import Sweep, load_sweep

SHIPPED = sorted(Path("search_spaces").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_search_space_loads_under_its_own_name(path):
    assert load_sweep(path).name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_the_resolved_configuration_reads_back_as_the_same_sweep(path):
    sweep = load_sweep(path)
    again = Sweep.model_validate(sweep.model_dump(mode="json"))
    assert again.conditions == sweep.conditions and again.fingerprint() == sweep.fingerprint()


def test_all_errors_are_reported_at_once_with_their_place(tmp_path):
    text = Path("search_spaces/demo.toml").read_text()
    bad = tmp_path / "bad.toml"
    bad.write_text(
        text.replace("lr = 1.0e-3", "lr = -1\nlearning_rate = 2").replace('dtype = "float32"', 'dtype = "int4"')
    )
    with pytest.raises(WlsweepError) as e:
        load_sweep(bad)
    message = str(e.value)
    assert str(bad) in message
    assert "train.learning_rate: unknown key" in message
    assert "train.lr" in message and "predict.dtype" in message


def test_a_global_batch_that_cannot_be_cut_is_refused(tmp_path):
    bad = tmp_path / "bad.toml"
    bad.write_text(Path("search_spaces/demo.toml").read_text().replace("global_batch = 64", "global_batch = 63"))
    with pytest.raises(WlsweepError, match="global_batch 63 is no multiple of workers 2 x micro_batch 32"):
        load_sweep(bad)


def test_what_does_not_change_results_does_not_change_the_fingerprint(tmp_path):
    text = Path("search_spaces/demo.toml").read_text()
    first = load_sweep("search_spaces/demo.toml").fingerprint()

    def changed(old, new):
        path = tmp_path / "other.toml"
        assert old in text
        path.write_text(text.replace(old, new))
        return load_sweep(path).fingerprint()

    assert changed("micro_batch = 32", "micro_batch = 8") == first
    assert changed("workers = 2", "workers = 1") == first
    assert changed("lr = 1.0e-3", "lr = 2.0e-3") != first
    assert changed("cutoff = 256", "cutoff = 255") != first


def test_a_missing_search_space_names_the_shipped_ones():
    with pytest.raises(WlsweepError, match=r"no such search space; .*shipped one: .*demo"):
        load_sweep("search_spaces/dmo.toml")


def test_a_pool_that_would_not_be_read_is_refused():
    settings = ["data.pool=more.jsonl", "data.source=rows.jsonl", "data.resampling=oversample"]
    with pytest.raises(WlsweepError, match=r'pool = .more.jsonl. would not be read under resampling = "oversample"'):
        load_sweep("abstracts", settings=settings)
    assert load_sweep("abstracts", settings=[*settings, "data.pool="]).data.resampling == "oversample"
    assert load_sweep("abstracts", settings=[*settings, "data.resampling=pool"]).data.pool == "more.jsonl"


def test_the_default_for_system_turns_leaves_fingerprints_as_they_were_before_there_was_a_choice():
    sweep = load_sweep("search_spaces/iclr19.toml")
    assert sweep.fingerprint() == "3b21c046ae402984"
    merged = sweep.model_copy(update={"data": sweep.data.model_copy(update={"system": "merge"})})
    assert merged.fingerprint() != sweep.fingerprint()
    assert sweep.data.notes == [] and "before the text of the user's turn" in merged.data.notes[0]


def test_without_validation_fingerprints_are_those_of_before_and_its_interval_changes_none():
    sweep = load_sweep("iclr19")
    assert sweep.fingerprint() == "3b21c046ae402984"
    held_out = load_sweep("iclr19", settings=["data.validation_share=0.2"])
    assert held_out.fingerprint() != sweep.fingerprint()
    often = load_sweep("iclr19", settings=["data.validation_share=0.2", "train.validate_every=50"])
    assert often.fingerprint() == held_out.fingerprint()
    with pytest.raises(WlsweepError, match="validate_every 15 is no multiple of log_every 10"):
        load_sweep("iclr19", settings=["train.validate_every=15"])
