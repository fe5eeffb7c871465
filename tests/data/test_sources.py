"""What `plan` refuses of files before anything is spent."""

import pytest

from tests.data.sharegpt import corpus, sharegpt, sweep_of, write_lines
from wlsweep.data.sources import find_inputs, source_counts
from wlsweep.errors import WlsweepError
from wlsweep.spec.config import load_sweep


def counts(source, **more):
    return source_counts(sweep_of({"source": str(source), "resampling": "oversample", **more}))


@pytest.mark.parametrize(
    "name",
    ["validation.jsonl", "Test.jsonl", "test.jsonl.bz2", "valid.json", "dev.csv", "TRAIN.json", "train-00001.jsonl",
     "test_set.json", "test-0-of-2.parquet", "validation-00000-of-00001.parquet"],
)  # fmt: skip
def test_an_unclear_file_beside_the_training_rows_is_refused_with_the_names_there_are(tmp_path, name):
    write_lines(tmp_path / "train.jsonl", corpus(4, 4))
    (tmp_path / name).write_text("")
    with pytest.raises(WlsweepError, match=rf"holds {name}, which would not be read(.|\n)*train\.json, train\.jsonl"):
        counts(tmp_path)


def test_other_files_in_a_folder_and_a_validation_set_beside_a_test_set_do_no_harm(tmp_path):
    write_lines(tmp_path / "train.jsonl", corpus(4, 4))
    for name in ("README.md", "dataset_info.json", "training_notes.txt", "prompt.txt"):
        (tmp_path / name).write_text("")
    assert counts(tmp_path).test_accepts == 1
    write_lines(tmp_path / "test.jsonl", corpus(2, 3, "t"))
    (tmp_path / "validation.jsonl").write_text("")
    assert counts(tmp_path)[1:3] == (2, 3)


def test_a_folder_with_a_test_set_beside_another_one_in_the_search_space_is_refused(tmp_path):
    write_lines(tmp_path / "train.jsonl", corpus(4, 4))
    own = write_lines(tmp_path / "test.jsonl", corpus(2, 3, "t"))
    other = write_lines(tmp_path / "elsewhere.jsonl", corpus(5, 5, "o"))
    with pytest.raises(WlsweepError, match=r"two test sets: .*test\.jsonl (.|\n)*elsewhere\.jsonl"):
        counts(tmp_path, test=str(other))
    assert counts(tmp_path, test=str(own))[1:3] == (2, 3), "the same file named twice is one test set"
    assert counts(tmp_path / "train.jsonl", test=str(other))[1:3] == (5, 5)


@pytest.mark.parametrize(("accepts", "rejects", "lacks"), [(3, 0, "rejects"), (0, 3, "accepts")])
def test_a_test_set_of_one_class_is_refused(tmp_path, accepts, rejects, lacks):
    write_lines(tmp_path / "train.jsonl", corpus(4, 4))
    write_lines(tmp_path / "test.jsonl", corpus(accepts, rejects, "t"))
    with pytest.raises(WlsweepError, match=f"the test set holds 3 rows and no {lacks}"):
        counts(tmp_path)


def test_a_paper_in_train_and_test_is_refused_by_the_plan_too(tmp_path):
    write_lines(tmp_path / "train.jsonl", corpus(4, 4))
    write_lines(tmp_path / "test.jsonl", [*corpus(2, 2, "t"), sharegpt("r1", "Accept")])
    with pytest.raises(WlsweepError, match="id 'r1' is in both"):
        counts(tmp_path)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_splitting_off_nothing_or_everything_is_refused_by_the_plan_too(tmp_path, share):
    with pytest.raises(WlsweepError, match="leaves an empty set"):
        counts(write_lines(tmp_path / "a.jsonl", corpus(4, 4)), test_share=share)


def test_a_path_of_five_thousand_characters_is_one_short_error():
    with pytest.raises(WlsweepError) as e:
        find_inputs(sweep_of({"source": "x" * 5000}).data, None)
    assert "File name too long" in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("train.lr=inf", "less than or equal to 10"),
        ("train.lr=1e400", "less than or equal to 10"),
        ("train.lr=true", "valid number"),
        ("train.weight_decay=inf", "less than or equal"),
        ("data.seed=-1", "greater than or equal to 0"),
        ("train.lr=nan", "than or equal to 10|greater than 0"),
        ("grid=[{proportion=['1/2'], variant=['accept'], gamma=[1e300]}]", "gamma 1e"),
        ("grid=[{proportion=['1/99999'], variant=['accept'], gamma=[2.0]}]", "1/10000 or more"),
        ("data.table={'1/3'=[10, 10]}", "50.0% accepts is not 1/3"),
        ("data.table={'1:2'=[10, 10]}", 'such as "1/3"'),
    ],
)
def test_values_that_cannot_be_meant_are_refused_when_the_space_is_read(setting, said):
    table = ["data.resampling=table"] if "table" in setting else []
    with pytest.raises(WlsweepError, match=said):
        load_sweep("demo", settings=[*table, setting])


def test_a_selection_of_five_thousand_digits_selects_nothing():
    from wlsweep.spec.condition import select

    with pytest.raises(WlsweepError, match="matches no condition name"):
        select(load_sweep("demo").conditions, "7" * 5000)
