"""Windowed class means are those of the obvious loop, in whatever pieces the rows come."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.read.geometry.class_means import WindowedMeans, apart_without_predecessors, class_means


def drawn(seed, n=40, d=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator), torch.randint(-1, classes, (n,), generator=generator)


@given(seed=st.integers(0, 10**6), window=st.one_of(st.none(), st.integers(1, 30)), cut=st.integers(1, 39))
def test_means_are_those_of_the_loop_in_any_pieces(seed, window, cut):
    x, labels = drawn(seed)
    ends = (3, 17, 40)
    whole = class_means(x, labels, window, ends=ends, n_classes=4)
    pieces = WindowedMeans(4, ends, window).update(x[:cut], labels[:cut]).update(x[cut:], labels[cut:]).result()
    for i, end in enumerate(ends):
        start = 0 if window is None else max(0, end - window)
        for c in range(4):
            rows = [x[k].double() for k in range(start, end) if labels[k] == c]
            assert int(whole.count[i, c]) == len(rows) == int(pieces.count[i, c])
            assert bool(whole.mask[i, c]) == bool(rows)
            if rows:
                torch.testing.assert_close(whole.mean[i, c], torch.stack(rows).mean(0))
            else:
                assert bool(whole.mean[i, c].isnan().all())
    torch.testing.assert_close(whole.mean, pieces.mean, equal_nan=True)
    torch.testing.assert_close(whole.coverage, whole.mask.double().mean(1))


@given(seed=st.integers(0, 10**6))
def test_distances_without_predecessors_are_those_of_the_loop(seed):
    x, labels = drawn(seed, n=30)
    found = apart_without_predecessors(x, labels, 4)

    def mean(i, without):
        rows = [x[k].double() for k in range(30) if labels[k] == i and not (k and labels[k - 1] == without)]
        return torch.stack(rows).mean(0) if rows else torch.full((5,), torch.nan, dtype=torch.float64)

    for i in range(4):
        for j in range(4):
            expected = (mean(i, j) - mean(j, i)).square().sum()
            torch.testing.assert_close(found[i, j], expected, equal_nan=True)


def test_what_a_state_holds_of_its_predecessor_is_gone():
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(6, 64, generator=generator)
    labels = torch.randint(6, (4000,), generator=generator)
    labels = labels[torch.cat([torch.tensor([True]), labels[1:] != labels[:-1]])]
    follows = torch.zeros(6, 6, dtype=torch.bool)
    follows[0, 1] = follows[1, 0] = True  # the only two that may follow each other in what is looked at
    kept = torch.cat([torch.tensor([-1]), labels[:-1]])
    x = own[labels] + own[kept.clamp(min=0)]  # each state holds half of the one before it
    after = labels.clone()
    after[~((kept >= 0) & (follows[labels, kept] | (labels > 1)))] = -1
    plain = class_means(x, after, None, n_classes=6).mean[0]
    near = (plain[0] - plain[1]).square().sum()
    assert float(near) < 1e-6  # 0 right after 1 and 1 right after 0 are the same sum
    apart = apart_without_predecessors(x, labels, 6)
    assert float(apart[0, 1]) == pytest.approx(float((own[0] - own[1]).square().sum()), rel=0.2)


NONE = torch.zeros(4, 2), torch.zeros(4).long()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: class_means(NONE[0], torch.tensor([0, 1, 2, 9]), n_classes=3), ins.InputError, "go from 0 to 9"),
        (lambda: class_means(NONE[0], torch.zeros(3).long()), ins.ShapeError, r"give \[n, d\] and \[n\]"),
        (lambda: class_means(*NONE, ends=(5,)), ins.InputError, "ends at row 5, and 4"),
        (lambda: class_means(*NONE, 0), ins.InputError, "windows of 0 rows"),
        (lambda: class_means(torch.tensor([[0.0], [torch.nan]]), torch.zeros(2).long()), ins.NotFiniteError, "row 1"),
        (
            lambda: WindowedMeans(1, [2]).update(torch.zeros(1, 2), torch.zeros(1).long())
            .update(torch.zeros(1, 3), torch.zeros(1).long()),
            ins.ShapeError, "3 units, those before 2",
        ),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_counted_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
