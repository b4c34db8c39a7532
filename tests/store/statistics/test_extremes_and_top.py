"""Extremes and top examples: exact for any cuts and any order, the first row among equals."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inscape.core.errors import FileError, InputError, NotFiniteError, ShapeError
from inscape.store.statistics import Extremes, TopExamples
from tests.store.statistics.made import normal
from tests.store.statistics.test_moments import tree


def shuffled_parts(kind, x, seed, n=5):
    """The rows dealt out of order to n statistics, each filled in two batches."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    parts = []
    for rows in order.chunk(n):
        part = kind()
        for some in rows.split(max(1, len(rows) // 2)):
            part.update(x[some], some)
        parts.append(part)
    return parts


def test_extremes_are_known_on_paper():
    x = torch.tensor([[1.0, 0.0], [-5.0, 0.0], [1.0, 0.0], [5.0, -1.0]])
    found = Extremes().update(x, 10)
    assert found.max_.tolist() == [5.0, 0.0]
    assert found.max_rows_.tolist() == [13, 10]
    assert found.min_.tolist() == [-5.0, -1.0]
    assert found.min_rows_.tolist() == [11, 13]
    assert found.absmax_.tolist() == [5.0, 1.0]
    assert found.absmax_rows_.tolist() == [11, 13]


@given(seed=st.integers(0, 2**31), d=st.integers(1, 5), n=st.integers(1, 40), span=st.integers(1, 50))
def test_extremes_of_any_cuts_in_any_order_are_those_of_all_rows(seed, d, n, span):
    x = torch.randint(-span, span + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float()  # many equals
    found = tree(shuffled_parts(Extremes, x, seed), seed)
    assert found.n == n
    for unit in range(d):
        values = x[:, unit].tolist()
        top, low, far = max(values), min(values), max(map(abs, values))
        assert (found.max_[unit], found.max_rows_[unit]) == (top, values.index(top))
        assert (found.min_[unit], found.min_rows_[unit]) == (low, values.index(low))
        assert (found.absmax_[unit], found.absmax_rows_[unit]) == (far, [abs(v) for v in values].index(far))


@given(
    seed=st.integers(0, 2**31), d=st.integers(1, 4), n=st.integers(1, 60), k=st.integers(1, 9), span=st.integers(1, 40),
    by=st.sampled_from(["largest", "smallest", "absolute"]),
)  # fmt: skip
def test_top_examples_of_any_cuts_in_any_order_are_a_stable_sort(seed, d, n, k, span, by):
    x = torch.randint(-span, span + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float()
    found = tree(shuffled_parts(lambda: TopExamples(k, by), x, seed), seed)
    score = {"largest": x, "smallest": -x, "absolute": x.abs()}[by]
    order = score.argsort(dim=0, descending=True, stable=True)[:k]
    assert torch.equal(found.rows_, order)
    assert torch.equal(found.values_, x.gather(0, order).double())


def test_top_examples_of_many_rows_in_order():
    x = normal(5000, 7, dtype=torch.float32).relu()
    x[:, 3] = 0  # a unit that never fires: equal values everywhere
    found = TopExamples(5)
    for part in x.split(999):
        found.update(part)
    order = x.argsort(dim=0, descending=True, stable=True)[:5]
    assert torch.equal(found.rows_, order)
    assert found.rows_[:, 3].tolist() == [0, 1, 2, 3, 4]


def test_a_threshold_is_not_rounded_when_types_mix():
    found = TopExamples(1).update(torch.tensor([[1 + 1e-12]], dtype=torch.float64), 5)
    assert found.update(torch.tensor([[1.0]]), 0).rows_.tolist() == [[5]]
    found = TopExamples(1).update(torch.tensor([[1 - 1e-12]], dtype=torch.float64), 0)
    assert found.update(torch.tensor([[1.0]]), 5).rows_.tolist() == [[5]]
    assert Extremes().update(torch.tensor([[1 - 1e-12]], dtype=torch.float64)).update(torch.ones(1, 1)).max_ == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_keep_their_values(dtype):
    x = normal(50, 3).to(dtype)
    assert torch.equal(Extremes().update(x).max_, x.amax(0).double())
    assert torch.equal(TopExamples(4).update(x).values_, x.double().sort(0, descending=True).values[:4])


@pytest.mark.parametrize("make", [Extremes, TopExamples])
def test_states_go_on_where_they_were_and_errors_say_what_is_wrong(make):
    x = normal(30, 4)
    found = make().update(x)
    again, _ = make.from_state(*found.state()).update(x * 2, 30).state()
    straight, _ = make().update(x).update(x * 2).state()
    assert all(torch.equal(again[name], straight[name]) for name in straight)
    with pytest.raises(FileError, match="no state of"):
        make.from_state({"max": x[0]}, {"n": 1, "k": 1, "by": 0})
    with pytest.raises(ShapeError, match="has seen rows of 4 units; these have 2"):
        found.update(x[:, :2])
    with pytest.raises(ShapeError, match="cannot be merged with one of 2"):
        found.merge(make().update(x[:, :2]))
    with pytest.raises(NotFiniteError, match="unit 0 of row 0"):
        found.update(x * float("nan"))
    with pytest.raises(InputError, match="takes at least 1 row; 0 were seen"):
        make().state()
    assert found.merge(make()).n == 30


def test_top_examples_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"TopExamples\(k=0"):
        TopExamples(0)
    with pytest.raises(InputError, match="top-2-largest cannot be merged with top-3-largest"):
        TopExamples(2).merge(TopExamples(3))
    tensors, about = TopExamples(2).update(normal(3, 2)).state()
    with pytest.raises(FileError, match="by is 9"):
        TopExamples.from_state(tensors, about | {"by": 9})
    with pytest.raises(FileError, match="unlike shape"):
        TopExamples.from_state(tensors | {"rows": tensors["rows"][:, :1]}, about)
    tensors, about = Extremes().update(normal(3, 2)).state()
    with pytest.raises(FileError, match="unlike length"):
        Extremes.from_state(tensors | {"min": tensors["min"][:1]}, about)
