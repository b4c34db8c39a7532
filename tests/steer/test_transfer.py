"""Directions carried over by maps: exact for affine ones, right where the truth is known, refused where it is none."""

import pytest
import torch

import inscape as ins
from inscape.read.probes.ridge import RidgeProbe
from inscape.steer.fit_directions import fit_directions
from inscape.steer.transfer import transfer
from tests.common.small import gpt2
from tests.steer.texts import two_sides

D = ins.Direction("layers.1.resid_post", torch.arange(5.0) + 1, "counting", "a")
W = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def linear() -> torch.nn.Linear:
    made = torch.nn.Linear(5, 7)
    made.weight.data, made.bias.data = W.float(), torch.full((7,), 3.0)
    return made


@pytest.mark.parametrize("through", [W, linear(), lambda x: x @ W.T + 5])
def test_every_kind_of_map_gives_the_matrix_times_the_vector(through):
    got = transfer(D, through, site="layers.3.resid_post", model="b")
    torch.testing.assert_close(got.vector.double(), W @ D.vector.double(), rtol=1e-5, atol=1e-5)
    assert (got.site, got.model) == ("layers.3.resid_post", "b")
    assert got.source == "counting, carried over from layers.1.resid_post"
    kept = transfer(D, through, site="layers.3.resid_post", keep_length=True)
    assert float(kept.vector.norm()) == pytest.approx(float(D.vector.norm()), rel=1e-5)


def test_a_map_learned_from_rows_carries_it_over():
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(200, 5, generator=draw, dtype=torch.float64)
    probe = RidgeProbe(penalty=1e-8).fit(x, x @ W.T + 3)
    got = transfer(D, probe, site="s")
    torch.testing.assert_close(got.vector.double(), W @ D.vector.double(), rtol=1e-4, atol=1e-4)


def test_maps_that_are_not_affine_are_taken_where_one_says():
    def square(x: torch.Tensor) -> torch.Tensor:
        return x.square()

    with pytest.raises(ins.InputError, match=r"not affine.*\n.*around="):
        transfer(D, square, site="s")
    around = torch.randn(50, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = D.vector.double()
    got = transfer(D, square, site="s", around=around)
    torch.testing.assert_close(got.vector.double(), (2 * around * v + v * v).mean(0), rtol=1e-5, atol=1e-5)


def test_between_layers_it_finds_what_is_fitted_there_and_a_shuffled_map_does_not():
    model, (here, there) = gpt2(), ("layers.0.resid_post", "layers.0.mlp_out")
    fitted = fit_directions(model, *two_sides(40), [here, there])
    draw = torch.Generator().manual_seed(3)
    texts = torch.randint(1, 64, (150, 6), generator=draw)
    trace = ins.run(model, texts, read=[here, there])
    x, y = (trace[s].flatten(0, 1).double() for s in (here, there))
    true, dark = (RidgeProbe(control=c).fit(x, y) for c in (None, "shuffle"))
    a, b = (
        torch.nn.functional.cosine_similarity(
            transfer(fitted[here], m, site=there, model=model).vector, fitted[there].vector, 0
        )
        for m in (true, dark)
    )
    assert float(a) > 0.6
    assert abs(float(b)) < 0.45  # 32 units: a random vector is within 0.35 of it 95 times in 100


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: transfer(D, W.T, site="s"), ins.ShapeError, r"\[d_there, d_here\] is needed, and d_here is 5"),
        (lambda: transfer(D, 3, site="s"), ins.InputError, "a int is no map"),
        (lambda: transfer(D, W, site=""), ins.SiteError, "where the direction is to live"),
        (lambda: transfer(D, W, site="layers.9.resid_post", model=gpt2()), ins.SiteError, "no site matches"),
        (lambda: transfer(D, lambda x: x[0], site="s"), ins.ShapeError, "the map gave"),
        (lambda: transfer(D, 0 * W, site="s"), ins.InputError, "takes this direction to nothing"),
        (lambda: transfer(D, W, site="s", around=torch.ones(2, 4)), ins.ShapeError, "around has shape"),
        (lambda: transfer(ins.Direction("s", torch.ones(2, 5)), W, site="s"), ins.ShapeError, "one vector"),
    ],
)
def test_what_cannot_be_carried_over_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
