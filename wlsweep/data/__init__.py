"""From ShareGPT rows to the token rows of every mix: read, split, draw, tokenise, record.

Nothing here imports torch or ray; `rows`, `split`, `mix` and `sources` import no tokenizer either, so that
`wlsweep plan` stays fast on a login node.
"""
