"""From Parquet predictions to numbers: no torch, Ray or vLLM, and nothing heavier than NumPy on import.

What flows through: `load` reads and checks a run; `metrics`, `intervals`, `bootstrap`, `compare`, `theory`, `effects`,
`seeds` and `hypotheses` are plain functions on arrays; `evaluate`, `forecast`, `decide` and `export` are the edges.
"""
