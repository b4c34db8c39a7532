"""Positions count real tokens, on either padding side, in one forward and in cached steps alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.core.positions import check_at, select
from inscape.core.step import Step


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    left=st.booleans(),
    at=st.one_of(
        st.integers(-6, 6),
        st.lists(st.integers(-6, 6), min_size=1, max_size=3),
        st.builds(slice, st.none() | st.integers(-6, 6), st.none() | st.integers(-6, 6), st.sampled_from([None, 1, 2])),
        st.sampled_from(["first", "last"]),
    ),
)
def test_padding_does_not_move_a_position(lengths: list[int], left: bool, at: object) -> None:
    width = max(lengths)
    pads = [[False] * (width - n) for n in lengths]
    mask = torch.tensor([p + [True] * n if left else [True] * n + p for p, n in zip(pads, lengths, strict=True)])
    chosen = select(check_at(at), Step.of_mask(mask))
    assert chosen is not None
    for row, n in enumerate(lengths):
        alone = select(check_at(at), Step.plain(1, n))
        assert chosen[row][mask[row]].tolist() == alone[0].tolist()
        assert not bool(chosen[row][~mask[row]].any())


@given(start=st.integers(1, 5), position=st.integers(0, 8))
def test_a_cached_step_sees_the_same_absolute_position(start: int, position: int) -> None:
    whole = select(position, Step.plain(1, 9))
    step = select(position, Step.plain(1, 9, start=start))
    assert whole is not None
    assert step is not None
    assert step[0].tolist() == whole[0, start:].tolist()


def test_words_that_are_none_are_refused_with_the_words_there_are() -> None:
    with pytest.raises(ins.TokenError, match="the words are all, first, last, prompt, generated"):
        check_at("end")


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ins.TokenError, match="mask over 9 columns"):
        select(torch.ones(1, 9, dtype=torch.bool), Step.plain(1, 4))
    with pytest.raises(ins.TokenError, match="does not fit a batch of 2"):
        select(torch.ones(3, 4, dtype=torch.bool), Step.plain(2, 4))
