"""How often a training saves itself."""

from hypothesis import given
from hypothesis import strategies as st

from wlsweep.train.checkpoint import FREE_S, LONGEST_SHARE, CheckpointPace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def train(step_s, save_s, every=200, steps=4000):
    """(seconds in checkpoints, seconds in steps, checkpoints) of a training that may save at every 200th step."""
    clock = Clock()
    pace, saving, count = CheckpointPace(clock), 0.0, 0
    for step in range(1, steps + 1):
        clock.now += step_s
        if step % every == 0 and pace.is_worth_it():
            began = clock.now
            clock.now += save_s
            pace.saved(began)
            saving, count = saving + save_s, count + 1
    return saving, steps * step_s, count


def test_a_cheap_checkpoint_is_made_whenever_it_is_due():
    assert train(step_s=0.01, save_s=0.5 * FREE_S)[2] == 20


@given(st.floats(0.05, 20), st.floats(1.1, 2000))
def test_expensive_checkpoints_stay_below_3_percent_of_the_steps_but_for_the_first_that_measures(step_s, save_s):
    saving, computing, count = train(step_s, save_s)
    assert count >= 1
    assert saving - save_s <= LONGEST_SHARE * computing


def test_seven_billion_parameters_at_1_gb_a_second_save_every_50_minutes():
    # 91 GB, 1.6 s a step: by steps alone every 5.4 minutes, which was 22 % of the time.
    saving, computing, count = train(step_s=1.6, save_s=91.4)
    assert count == 2 and saving / computing < LONGEST_SHARE
