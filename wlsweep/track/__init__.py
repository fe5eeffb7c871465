"""Trackers of experiments: what the run directory says, sent to MLflow, Weights & Biases and TensorBoard.

    wlsweep run demo --track mlflow --track tensorboard
    wlsweep track runs/demo --track wandb          # a run that exists, or what could not be sent

    metric logs, records, metrics, page -> follow.Follower (a process of its own) -> clients.Client -> the tracker

The process reads the run directory and nothing else, so a tracker that fails or hangs cannot hold a sweep, and what it
did not get can be sent later. What was sent is kept in `tracking/NAME.json` of the run; a resumed condition goes on in its
run of the tracker.
"""
