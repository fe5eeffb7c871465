"""An axis is one entry of one table; everything that lists axes is derived from it."""

import hashlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wlsweep.errors import WlsweepError
from wlsweep.spec import axes
from wlsweep.spec.axes import AXES
from wlsweep.spec.condition import Condition, baseline_of, condition_from, expand, first_stage, parse_name
from wlsweep.spec.config import Sweep, load_sweep

FROZEN = {
    # fingerprint, SHA-256 of the names in order, SHA-256 of all records: what runs that exist were made under
    "abstracts": ("2b03cdeea908bf5f", "49ef46a6fbd55f07", "557e5fc24f5865cf"),
    "demo": ("346e885e6412ab1e", "49ef46a6fbd55f07", "557e5fc24f5865cf"),
    "evidence": ("aaf54b0575d872e2", "49ef46a6fbd55f07", "557e5fc24f5865cf"),
    "extended": ("3b21c046ae402984", "657a74a564a59a02", "11eb00ffa56c00bd"),
    "full36": ("3b21c046ae402984", "1dc58e9dd010e550", "ae157031c7f610a0"),
    "iclr19": ("3b21c046ae402984", "49ef46a6fbd55f07", "557e5fc24f5865cf"),
    "oracle": ("f9f0e66cc72f4578", "49ef46a6fbd55f07", "557e5fc24f5865cf"),
    "oracle_losses": ("f9f0e66cc72f4578", "0516c746553262cd", "99f25af1987c2191"),
}


@pytest.mark.parametrize("name", FROZEN)
def test_shipped_spaces_keep_their_fingerprints_names_order_and_records(name):
    sweep = load_sweep(f"search_spaces/{name}.toml")
    names = " ".join(c.name for c in sweep.conditions)
    records = json.dumps([{k: v for k, v in c.as_dict().items() if k in FIRST_KEYS} for c in sweep.conditions])
    digests = [hashlib.sha256(text.encode()).hexdigest()[:16] for text in (names, records)]
    assert (sweep.fingerprint(), *digests) == FROZEN[name]


FIRST_KEYS = (
    "index",
    "name",
    "proportion",
    "variant",
    "gamma",
    "loss",
    "focal",
    "smoothing",
    "balance",
    "two_stage",
    "seed",
)

MADE_UP = """
    colour: Annotated[
        Literal["grey", "red"],
        Axis(words({"red": "red"}), "Colour of the papers.", baseline_keeps=True, first_stage_keeps=True),
    ] = "grey"
"""
USE = """
import dataclasses, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("wlsweep.spec.axes", sys.argv[1])
sys.modules["wlsweep.spec.axes"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)

from wlsweep.spec.condition import baseline_of, condition_from, first_stage, parse_name
from wlsweep.spec.config import Sweep, load_sweep
from wlsweep.spec.plan import make_plan

sweep = load_sweep(sys.argv[2])
again = Sweep.model_validate(json.loads(json.dumps(sweep.model_dump(mode="json"))))
red = sweep.conditions[-1]
print(json.dumps({
    "names": [c.name for c in sweep.conditions],
    "parsed": [parse_name(c.name).colour for c in sweep.conditions],
    "read_back": [condition_from(c.as_dict()) == c for c in again.conditions],
    "baseline": baseline_of(red).name,
    "first": first_stage(red).name,
    "group": red.group,
    "planned": [(c["name"], c["colour"], c["steps"] > 0) for c in make_plan(sweep)["conditions"]],
    "schema": Sweep.model_json_schema()["$defs"]["GridBlock"]["properties"]["colour"],
}))
"""


def test_an_axis_added_in_one_place_has_conditions_names_that_parse_back_and_a_plan(tmp_path):
    source = Path(inspect.getfile(axes)).read_text()
    before_seed = source.index("    seed: Annotated[")
    (tmp_path / "axes.py").write_text(source[:before_seed] + MADE_UP.lstrip("\n") + source[before_seed:])
    space = re.sub(r"(?s)\[\[grid\]\].*", "", Path("search_spaces/demo.toml").read_text())
    grid = (
        '[[grid]]\nproportion = ["1/2"]\nvariant = ["accept"]\ngamma = [2.0]\ncolour = ["grey", "red"]\nseed = [0, 3]\n'
    )
    (tmp_path / "space.toml").write_text(space + grid)
    command = [sys.executable, "-c", USE, str(tmp_path / "axes.py"), str(tmp_path / "space.toml")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    plain = "accept_gamma2.0_prop1_2"
    assert found["names"] == [plain, f"{plain}_seed3", f"{plain}_red", f"{plain}_red_seed3"]
    assert found["parsed"] == ["grey", "grey", "red", "red"] and all(found["read_back"])
    assert found["planned"] == [[n, c, True] for n, c in zip(found["names"], found["parsed"], strict=True)]
    assert found["baseline"] == found["first"] == "baseline_gamma1.0_prop1_2_red_seed3"
    assert found["group"] == "red_seed3"
    assert found["schema"]["default"] == ["grey"] and found["schema"]["description"] == "Colour of the papers."


def test_an_axis_that_the_table_does_not_know_is_refused_everywhere(tmp_path):
    block = {"proportion": [2], "variant": ["accept"], "gamma": [2.0], "colour": ["red"]}
    with pytest.raises(WlsweepError, match="unknown axis 'colour'; axes are proportion, variant"):
        expand([block])
    with pytest.raises(WlsweepError, match="unknown keys: colour"):
        condition_from(Condition("accept", 2.0, 2).as_dict() | {"colour": "red"})
    space = tmp_path / "space.toml"
    space.write_text(Path("search_spaces/demo.toml").read_text() + 'colour = ["red"]\n')
    with pytest.raises(WlsweepError, match=r"grid.2.colour: unknown key"):
        load_sweep(space)
    written = load_sweep("search_spaces/demo.toml").model_dump(mode="json")
    written["grid"][0]["colour"] = ["red"]
    with pytest.raises(ValueError, match="colour"):
        Sweep.model_validate(written)


def test_a_record_reads_back_and_one_that_contradicts_itself_is_refused():
    c = Condition("reject", 4.0, 8, balance="inverse", two_stage=True, seed=2, index=5)
    record = json.loads(json.dumps(c.as_dict()))
    assert condition_from(record) == c
    younger = {k: v for k, v in Condition("accept", 2.0, 2).as_dict().items() if k != "seed"}
    assert condition_from(younger).seed == 0
    for wrong, message in [
        ({"gamma": 2.0}, "its values make 'reject_gamma2.0_prop1_8_inverse_twostage_seed2'"),
        ({"proportion": 8}, "write a proportion as a share"),
        ({"balance": "sometimes"}, "expected one of none, inverse, effective"),
        ({"gamma": "4"}, "cannot be read"),
    ]:
        with pytest.raises(WlsweepError, match=re.escape(message)):
            condition_from(record | wrong)


@pytest.mark.parametrize("axis", AXES, ids=lambda a: a.key)
def test_every_axis_says_what_it_means_and_adds_nothing_to_a_name_at_its_default(axis):
    assert axis.meaning.endswith(".")
    assert axis.required or axis.problem(axis.default) is None
    plain = Condition("accept", 2.0, 2)
    assert axis.required or getattr(parse_name(plain.name), axis.attribute) == axis.default


def test_baseline_and_first_stage_keep_what_must_be_equal():
    c = Condition("accept", 4.0, 8, loss="sequence", balance="inverse", two_stage=True, seed=2)
    assert baseline_of(c) == Condition("baseline", 1.0, 2, seed=2)
    assert first_stage(c) == Condition("baseline", 1.0, 8, loss="sequence", seed=2)
