"""Orchestration: conditions as Ray Tune trials on warm groups of Ray Train workers, leases, progress, stages."""
