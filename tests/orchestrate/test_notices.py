"""Words reach the processes of a real Ray cluster."""

import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import time

    import ray

    from wlsweep.orchestrate.notices import tell, told

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)


    @ray.remote
    class Trial:
        def hears(self, word, seconds):
            end = time.monotonic() + seconds
            while not told(word) and time.monotonic() < end:
                time.sleep(0.05)
            return told(word)


    trial = Trial.remote()
    before = ray.get(trial.hears.remote("stop", 0))
    tell("stop")
    print(before, ray.get(trial.hears.remote("stop", 60)), ray.get(trial.hears.remote("stop of another launch", 0)))
"""


@pytest.mark.slow
def test_an_actor_hears_what_the_driver_tells_and_nothing_else():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["False", "True", "False"], done.stderr[-3000:]


def test_without_a_cluster_nothing_is_told_and_nothing_raises():
    from wlsweep.orchestrate.notices import told

    assert told("stop") is False
