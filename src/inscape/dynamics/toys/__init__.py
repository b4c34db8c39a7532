"""Training scripts of the toy nets, one a file; `python -m inscape.dynamics.toys NAME` trains, checks and writes one.

A file has `train(seed=0, *, steps=..., checkpoint=None, progress=None) -> Trained` and
`check(model) -> dict[str, Check]`, which measures on the model as it is opened what the net must be able to do.
"""
