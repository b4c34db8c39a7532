"""Subspaces: exact on the closed example, the same as whole patches where they should be, and told from illusions."""

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import inscape as ins
from inscape.circuits.subspaces import (
    Contrast,
    audit,
    axis_report,
    closed_example,
    das,
    dormant_share,
    first_order,
    rank1_equivalent,
    split,
)
from inscape.circuits.subspaces.audit import Thresholds, judged
from inscape.circuits.subspaces.contrast import values
from inscape.circuits.subspaces.example import READER, SITE
from inscape.circuits.subspaces.readers import Reader, reader_of, weight_after
from inscape.read.probes import MeanDifference
from tests.common.small import gpt2
from tests.common.zoo import build


def along(*vector: float) -> Tensor:
    v = torch.tensor(vector, dtype=torch.float32)
    return v / v.norm()


@pytest.mark.parametrize("v", [along(1, 1, 0), along(0, 0, 1), along(1, 0, 1)])
def test_the_closed_example_gives_the_others_output(v: Tensor) -> None:
    model, contrast, other = closed_example()
    base, source = values(model, contrast, SITE)
    assert base.shape == (64, 3)
    got = ins.run(model, contrast.base, edits=[contrast.put(SITE, source, v[:, None])]).output[:, 0, 0]
    torch.testing.assert_close(got, other, atol=1e-6, rtol=0)


def test_axes_are_active_or_dormant_connected_or_not() -> None:
    model, contrast, _ = closed_example()
    base, _ = values(model, contrast, SITE)
    said = [(a["active"], a["connected"]) for a in axis_report(base, READER)]
    assert said == [(True, False), (False, True), (True, True)]


def test_the_dormant_share_is_what_paper_and_pencil_say() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(50, generator=g, dtype=torch.float64)
    h = torch.stack([x, 0 * x, x], 1)
    moved, slope = h.flip(0) - h, READER.double().expand(50, 3)
    for v, want in ((along(1, 1, 0), 0.75), (along(0, 0, 1), 0.5), (along(1, 0, 1), 0.0)):
        share, whole, n = dormant_share(v[:, None], moved, slope, h)
        assert share == pytest.approx(want, abs=1e-6)
        assert (whole, n) == (pytest.approx(0.0, abs=1e-9), 1)


def test_the_audit_tells_a_probes_direction_from_the_illusion() -> None:
    model, contrast, _ = closed_example()
    base, source = values(model, contrast, SITE)
    label = torch.cat([torch.ones(64), torch.zeros(64)])
    probe = MeanDifference().fit(torch.cat([base, source]), label)
    assert probe.score(torch.cat([base, source]), label) == 1.0
    faithful = audit(model, SITE, probe.direction(SITE, model=model.fingerprint), contrast, reader=READER)
    assert torch.allclose(probe.weight_ / probe.gap_, along(1, 0, 1).double())
    assert (faithful.verdict, faithful.row_test) == ("supported", "uninformative")
    illusory = audit(model, SITE, along(1, 1, 0), contrast, reader="auto")
    assert (illusory.verdict, illusory.row_test) == ("illusion-like", "uninformative")
    assert illusory.reader == "weights of 1"
    assert audit(model, SITE, along(0, 0, 1), contrast).verdict == "supported"
    assert audit(model, SITE, along(1, 0, 0), contrast).verdict == "inconclusive"  # it reaches nothing
    assert "illusion-like" in str(illusory)


def turned() -> tuple["ins.Model", Contrast]:
    """Rows of a random model whose top tokens differ: the last token's, answer and wrong."""
    model = gpt2()
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(3, 60, (60, 6), generator=g)
    other = ids.clone()
    other[:, 3:] = torch.randint(3, 60, (60, 3), generator=g)
    top = [ins.run(model, x, output="last").output.logits[:, -1].argmax(-1) for x in (ids, other)]
    kept = top[0] != top[1]
    ids, other, answer, wrong = ids[kept][:24], other[kept][:24], top[0][kept][:24], top[1][kept][:24]
    last = torch.full((len(ids),), 5)
    return model, Contrast(ids.tolist(), other.tolist(), last, last, answer, wrong)


def test_exchanging_everything_is_patching_the_whole_site() -> None:
    model, contrast = turned()
    found = audit(model, "layers.2.resid_post", torch.eye(32)[:, :31], contrast, reader=torch.eye(32), n_random=1)
    assert found.effects["full"].interchange == 1.0  # the last position of the last layer decides
    whole = audit(model, "layers.1.mlp.act", torch.eye(128), contrast, n_random=1)
    torch.testing.assert_close(whole.effects["V"].score, whole.effects["full"].score, atol=1e-3, rtol=1e-3)


def planted(inner: int = 128, told: int = -1, silent: int = -1) -> tuple["ins.Model", Contrast, Tensor]:
    """A model that answers 60 where its last token lies along +u, and 61 where it lies along -u, and nothing else.

    In its MLP of `inner` neurons the neuron `told` fires where the token lies along +u and is read by nobody; `silent`
    never fires and writes along u. All others have something to say that is neither.
    """
    g = torch.Generator().manual_seed(5)
    module = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=1,
            n_embd=32,
            n_head=2,
            n_inner=inner,
            vocab_size=64,
            n_positions=8,
            tie_word_embeddings=False,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()
    u = torch.randn(32, generator=g)
    u = (u - u.mean()) / (u - u.mean()).norm()
    with torch.no_grad():
        for p in module.parameters():
            p.zero_()
        rest = torch.randn(64, 32, generator=g)
        rest = rest - (rest @ u)[:, None] * u
        sign = torch.tensor([1.0, -1.0]).repeat(32)
        module.transformer.wte.weight.copy_(0.5 * rest + 2 * sign[:, None] * u)
        module.transformer.ln_f.weight.fill_(1.0)
        module.lm_head.weight[60], module.lm_head.weight[61] = 3 * u, -3 * u
        if told >= 0:
            read, write = 0.1 * torch.randn(32, inner, generator=g), 0.1 * torch.randn(inner, 32, generator=g)
            read, write = read - torch.outer(u, u @ read), write - torch.outer(write @ u, u)
            read[:, told], read[:, silent] = u, 0
            write[told], write[silent] = 0, 4 * u
            block = module.transformer.h[0]
            block.ln_2.weight.fill_(1.0)
            block.mlp.c_fc.weight.copy_(read)
            block.mlp.c_proj.weight.copy_(write)
    even = torch.randint(1, 29, (40, 3), generator=g) * 2
    odd = torch.cat([even[:, :2], torch.randint(1, 29, (40, 1), generator=g) * 2 + 1], 1)
    last, full = torch.full((40,), 2), torch.full
    contrast = Contrast(even.tolist(), odd.tolist(), last, last, full((40,), 60), full((40,), 61))
    return ins.open(module), contrast, u


def test_the_search_finds_what_was_planted_and_keeps_the_model() -> None:
    model, contrast, u = planted()
    site = "layers.0.resid_post"
    before = {n: p.clone() for n, p in model.module.named_parameters()}
    found = das(model, site, contrast, epochs=30)
    assert abs(float(found.V[:, 0] @ u)) > 0.9
    torch.testing.assert_close(found.V.norm(), torch.tensor(1.0))
    assert len(found.history) == 60
    assert found.history[-1] < 0.2 * found.history[0]
    assert all(p.requires_grad and p.grad is None for p in model.module.parameters())
    assert all(torch.equal(before[n], p) for n, p in model.module.named_parameters())
    assert torch.equal(das(model, site, contrast, epochs=30).V, found.V)
    report = audit(model, site, found, contrast, reader="downstream")
    assert report.verdict == "supported"
    assert report.effects["V"].interchange == 1.0
    assert report.effects["V"].lost.value > 5 * float(report.random.abs().max())
    assert found.score(model, contrast).lost.value == pytest.approx(report.effects["V"].lost.value, rel=1e-4)
    direction = found.direction()
    assert (direction.site, direction.model) == (site, model.fingerprint)


@pytest.mark.parametrize("inner", [128, 2048])
def test_the_search_finds_an_illusion_that_was_planted(inner: int) -> None:
    """v = (told + silent) / sqrt 2 moves the answer; exchanging the whole MLP, or what is read of v, does nothing."""
    told, silent = inner // 3, 2 * inner // 3
    model, contrast, _ = planted(inner, told, silent)
    site, best = "layers.0.mlp.act", torch.zeros(inner)
    best[[told, silent]] = 0.5**0.5
    by_theory = audit(model, site, best, contrast)
    found = das(model, site, contrast, epochs=60)
    report = audit(model, site, found, contrast)
    for r in (by_theory, report):
        assert r.verdict == "illusion-like"
        assert r.row_test == "lost"
        assert abs(r.effects["full"].lost.value) < 0.05
    assert float(by_theory.random.abs().max()) < 0.1
    assert report.effects["V"].lost.value > 0.5 * by_theory.effects["V"].lost.value
    assert found.history[-1] < 0.5 * found.history[0]
    assert float(found.V.square().max()) < 0.6  # on no single axis


def test_shuffled_answers_leave_nothing_to_find() -> None:
    model, contrast, u = planted()
    null = das(model, "layers.0.resid_post", contrast, epochs=20, control="shuffle")
    assert abs(float(null.V[:, 0] @ u)) < 0.7
    assert null.history[-1] > 0.5
    assert "shuffled" in null.source


def test_the_best_direction_to_first_order_is_what_paper_and_pencil_say() -> None:
    """Of the closed example: M is the mean of x (x' - x) (0, 2, 1)(1, 0, 1)', and with g, m that are alike in all rows
    the best v loses (|g||m| - g.m) / 2."""
    model, contrast, other = closed_example()
    (room,) = first_order(model, SITE, contrast)
    x = contrast.base[:, 0, 0]
    by_row = (x - other).mean() / x.mean()
    assert room.whole == pytest.approx(float(by_row), rel=1e-5)
    assert room.best == pytest.approx(float(by_row) * (10**0.5 + 1) / 2, rel=1e-5)
    want = along(0, 2 / 5**0.5, 1 / 5**0.5) + along(1, 0, 1)  # the bisector of slope and difference
    assert abs(float(room.V[:, 0] @ (want / want.norm()))) == pytest.approx(1, abs=1e-5)
    assert room.room == pytest.approx(room.best - room.whole)


def test_the_slope_of_the_score_finds_the_planted_illusion_before_any_search() -> None:
    model, contrast, _ = planted(128, 40, 90)
    rooms = {r.site: r for r in first_order(model, ["layers.0.mlp.act", "layers.0.mlp_out"], contrast)}
    neurons, written = rooms["layers.0.mlp.act"], rooms["layers.0.mlp_out"]
    assert neurons.room > 1 > 5 * abs(neurons.whole)
    assert written.best < 0.5 * neurons.best  # what is written does not tell: nothing to bring from there
    best = torch.zeros(128)
    best[[40, 90]] = 0.5**0.5
    assert abs(float(neurons.V[:, 0] @ best)) > 0.8
    found = das(model, "layers.0.mlp.act", contrast, epochs=2, start="slope")
    assert found.score(model, contrast).lost.value > 1
    plane = first_order(model, "layers.0.mlp.act", contrast, 2)[0]
    torch.testing.assert_close(plane.V.T @ plane.V, torch.eye(2), atol=1e-5, rtol=0)
    turned_round = first_order(model, "layers.0.mlp.act", contrast, signs=-torch.ones(40))[0]
    assert abs(float(turned_round.V[:, 0] @ neurons.V[:, 0])) < 0.3


def test_a_plane_holds_the_planted_line() -> None:
    model, contrast, u = planted()
    found = das(model, "layers.0.resid_post", contrast, 2)
    torch.testing.assert_close(found.V.T @ found.V, torch.eye(2), atol=1e-5, rtol=0)
    assert float((found.V.T @ u).norm()) > 0.9
    with pytest.raises(ins.InputError, match="has 2 dimensions; a direction has one"):
        found.direction()


def test_a_direction_splits_into_what_is_read_and_what_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 8, generator=g)
    v = torch.randn(8, 1, generator=g)
    parts = split(v, Reader(matrix, "test", 1e-5))
    unit = v.double() / v.double().norm()
    torch.testing.assert_close((parts.row + parts.null).abs(), unit.abs())
    torch.testing.assert_close(matrix.double() @ parts.null, torch.zeros(3, 1, dtype=torch.float64), atol=1e-6, rtol=0)
    assert parts.row_share**2 + parts.null_share**2 == pytest.approx(1)
    assert parts.rank == 3
    every = split(v, Reader(torch.eye(8), "all", 1e-5))
    assert (every.null.shape[1], every.null_share) == (0, pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3_text", "bert"])
def test_the_weights_after_a_site_write_what_follows(family: str) -> None:
    model = ins.open(build(family))
    ids = torch.tensor([[5, 9, 13, 17]])
    for site in ("layers.1.mlp.act", "layers.1.attn.z"):
        weight = weight_after(model, site)
        assert weight is not None
        path = "@" + model.points[site].path.removesuffix(":in")
        seen = ins.run(model, ids, read=[site, path])
        bias = getattr(model.points[site].module, "bias", None)
        made = seen[site].flatten(2) @ weight.T + (bias.detach() if bias is not None else 0)
        torch.testing.assert_close(made, seen[path], atol=1e-5, rtol=1e-4)
    assert weight_after(model, "layers.1.attn_out") is None


def test_the_jacobian_of_a_linear_reader_is_its_weights() -> None:
    model, contrast = turned()
    site = "layers.1.mlp.act"
    found = reader_of(model, site, ["@transformer.h.1.mlp.c_proj"], contrast)
    torch.testing.assert_close(found.matrix.float(), weight_after(model, site), atol=1e-5, rtol=1e-4)
    with pytest.raises(ins.InputError, match="does not depend on"):
        reader_of(model, site, ["layers.0.mlp_out"], contrast)


def test_a_rank_one_edit_of_weights_is_a_patch_along_one_direction() -> None:
    model, contrast = turned()
    site = "layers.1.mlp.act"
    g = torch.Generator().manual_seed(0)
    write, read = torch.randn(32, generator=g), torch.randn(128, generator=g) * 0.3
    for change in ((write, read), torch.outer(write, read)):
        same = rank1_equivalent(model, site, change)
        assert same.missing < 1e-5
        ids = torch.tensor(contrast.base[:3])
        plain = ins.run(model, ids, read=site, output=True)
        weights = [p.clone() for p in model.module.parameters()]
        with same.weights():
            edited = ins.run(model, ids).output.logits
        assert all(torch.equal(a, b) for a, b in zip(weights, model.module.parameters(), strict=True))
        assert float((edited - plain.output.logits).abs().max()) > 0.1
        for edit in (same.edit(), same.patch(plain[site])):
            got = ins.run(model, ids, edits=[edit]).output.logits
            torch.testing.assert_close(got, edited, atol=1e-4, rtol=1e-4)


def test_what_weights_cannot_write_is_said() -> None:
    example_ = ins.open(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4)))
    assert rank1_equivalent(example_, "@1:in", (torch.ones(4), torch.ones(2))).missing > 0.1


def effects(**lost: float) -> dict[str, Any]:
    from inscape.circuits.subspaces import Effect
    from inscape.core.interval import Interval

    return {k: Effect(Interval(float(v), float(v), float(v), 0.95, 1), None, torch.ones(1)) for k, v in lost.items()}


@pytest.mark.parametrize(
    ("lost", "row_test", "dormant", "verdict"),
    [
        ({"V": 1.2, "row": 1.1, "null": 0, "full": 1.2}, "kept", 0.1, "supported"),
        ({"V": 0.5, "row": 0.1, "null": 0, "full": 0.0}, "lost", 0.9, "illusion-like"),
        ({"V": 0.5, "row": 0.5, "null": 0, "full": 0.0}, "kept", 0.1, "inconclusive"),
        ({"V": 0.5, "row": 0.5, "null": 0, "full": 0.0}, "kept", 0.9, "illusion-like"),
        ({"V": 0.05, "row": 0.05, "null": 0, "full": 1.0}, "kept", 0.1, "inconclusive"),
        ({"V": 0.5, "row": 0.33, "null": 0, "full": 0.5}, "between", 0.1, "inconclusive"),
    ],
)
def test_verdicts_follow_the_signs(lost: dict[str, float], row_test: str, dormant: float, verdict: str) -> None:
    parts = split(torch.ones(4, 1), Reader(torch.eye(4)[:2], "half", 1e-5))
    assert parts.null_share == pytest.approx(math.sqrt(0.5))
    got, reasons = judged(effects(**lost), parts, row_test, 0.0, dormant, Thresholds())
    assert got == verdict
    assert reasons


def _audit(site: str = "layers.1.mlp.act", v: Any = None, **options: Any) -> Any:
    model, contrast = turned()
    return audit(model, site, torch.ones(128) if v is None else v, contrast, n_random=1, **options)


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "no linear reader": (lambda: _audit("layers.1.resid_post", torch.ones(32)), ins.ModelError, "say who reads it"),
    "rank": (lambda: _audit(v=torch.ones(128, 2)), ins.InputError, "its rank is lower"),
    "size": (lambda: _audit(v=torch.ones(5)), ins.ShapeError, "has 128 units, V has 5"),
    "another site": (
        lambda: _audit(v=ins.Direction("layers.0.mlp.act", torch.ones(128))), ins.InputError, "V lives at",
    ),
    "another model": (
        lambda: _audit(v=ins.Direction("layers.1.mlp.act", torch.ones(128), model="x")), ins.ModelError,
        "found on another model",
    ),
    "no contrast": (
        lambda: audit(*_swapped(), n_random=1), ins.InputError, "no contrast for this model",
    ),
    "k too large": (lambda: das(*_for_das(), k=200), ins.InputError, "has 128 dimensions"),
    "unknown start": (lambda: das(*_for_das(), start="best"), ins.InputError, "it can be 'random' or 'slope'"),
    "more than the pairs span": (
        lambda: first_order(*_for_das(), 100), ins.InputError, "pairs span",
    ),
    "no slope": (lambda: first_order(*_beside()), ins.InputError, "the score does not depend on @b"),
    "unknown control": (lambda: das(*_for_das(), control="noise"), ins.InputError, "none of das"),
    "rank two": (
        lambda: rank1_equivalent(gpt2(), "layers.1.mlp.act", torch.randn(32, 128)), ins.EditError, "not of rank one",
    ),
    "no weights": (
        lambda: rank1_equivalent(gpt2(), "layers.1.attn_out", (torch.ones(32), torch.ones(32))), ins.ModelError,
        "takes in",
    ),
    "sizes of a change": (
        lambda: rank1_equivalent(gpt2(), "layers.1.mlp.act", (torch.ones(3), torch.ones(4))), ins.EditError,
        "the weights after layers.1.mlp.act are",
    ),
    "no answers": (lambda: Contrast([[1]], [[2]]), ins.InputError, "say what should flip"),
}  # fmt: skip


def _for_das() -> tuple[Any, str, Contrast]:
    model, contrast = turned()
    return model, "layers.1.mlp.act", contrast


class _Beside(nn.Module):
    """Of its two maps only the first is used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.b(x)
        return self.a(x)


def _beside() -> tuple[Any, str, Contrast]:
    at, x = torch.zeros(2).long(), torch.randn(2, 1, 3, generator=torch.Generator().manual_seed(0))
    return ins.open(_Beside()), "@b", Contrast(x, -x, at, at, metric=lambda out: out[:, 0, 0])


def _swapped() -> tuple[Any, str, Tensor, Contrast]:
    model, c = turned()
    return model, "layers.1.mlp.act", torch.ones(128), Contrast(c.base, c.source, c.at, c.source_at, c.wrong, c.answer)


@pytest.mark.parametrize("case", list(WRONG))
def test_what_cannot_be_audited_is_refused(case: str) -> None:
    make, error, message = WRONG[case]
    with pytest.raises(error, match=message):
        make()
