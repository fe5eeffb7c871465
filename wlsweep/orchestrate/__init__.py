"""Orchestration: conditions as Ray Tune trials on warm groups of Ray Train workers, prediction beside them, stages in
order."""
