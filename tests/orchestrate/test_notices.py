"""Words reach the processes of a real Ray cluster."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import time
    from functools import partial

    import ray

    from wlsweep.orchestrate.notices import tell, tell_rows, told, told_rows

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)


    @ray.remote
    class Trial:
        def hears(self, word, seconds):
            end = time.monotonic() + seconds
            while not told(word) and time.monotonic() < end:
                time.sleep(0.05)
            return told(word)


    @ray.remote
    def predicts(tell_rows):
        for done in (10, 20):
            tell_rows("accept_gamma2.0_prop1_2", done, 30)
            time.sleep(0.2)


    trial = Trial.remote()
    before = ray.get(trial.hears.remote("stop", 0))
    tell("stop")
    print(before, ray.get(trial.hears.remote("stop", 60)), ray.get(trial.hears.remote("stop of another launch", 0)))
    ray.kill(trial)
    ray.get(predicts.remote(partial(tell_rows, "/runs/demo")))
    end = time.monotonic() + 60
    while not (rows := told_rows("/runs/demo")) and time.monotonic() < end:
        time.sleep(0.05)
    print(rows, told_rows("/runs/demo2"))
"""


@pytest.mark.slow
def test_an_actor_hears_what_the_driver_tells_and_the_driver_what_engines_of_its_run_have_predicted():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, timeout=300)
    words, rows = done.stdout.splitlines()
    assert words.split() == ["False", "True", "False"], done.stderr[-3000:]
    assert rows == "{'accept_gamma2.0_prop1_2': (20, 30)} {}"


def test_without_a_cluster_nothing_is_told_and_nothing_raises():
    from wlsweep.orchestrate.notices import told, told_rows

    assert told("stop") is False and told_rows("/runs/demo") == {}
