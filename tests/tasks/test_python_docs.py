"""The documentation of the running Python as text to train on."""

import pytest
import torch

import inscape as ins
from inscape.tasks.python_docs import byte_ids, python_docs, windows


def test_parts_are_apart_and_together_all_of_it() -> None:
    train, test, everything = (python_docs(split) for split in ("train", "test", "all"))
    assert len(train) > 4 * len(test) > 10_000
    assert abs(len(train) + len(test) - len(everything)) < 10
    assert test[:2000] not in train
    with pytest.raises(ins.InputError, match="train, test, all"):
        python_docs("dev")


def test_bytes_are_the_text_and_windows_are_stretches_of_it() -> None:
    ids = byte_ids("a small text, again and again. " * 10)
    assert bytes(ids.tolist()).decode() == "a small text, again and again. " * 10
    one, again, other = (windows(ids, step, size=5, width=12, seed=1) for step in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert all("".join(map(chr, row)) in "a small text, again and again. " * 10 for row in one.tolist())
