"""Prediction of the test set: Ray Data actors with vLLM engines that serve one checkpoint after another."""
