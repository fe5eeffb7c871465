"""From Parquet predictions to numbers: no torch, Ray or vLLM, and nothing heavier than NumPy on import.

`loaded_run` reads and checks a run; formulas, intervals, theory and verdicts are plain functions on arrays; `evaluate`,
`forecast`, `next_conditions` and `results` are the edges.
"""
