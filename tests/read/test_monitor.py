"""Extremes, sinks, their origin, and the penalty: planted ones are found where they are, even nets have none."""

import copy

import pytest
import torch

import inscape as ins
from inscape.engine.inputs import prepare
from inscape.read.outliers.massive import massive
from inscape.read.outliers.monitor import ActivationMonitor
from inscape.read.outliers.origin import anchor_cosines, sink_origin
from inscape.read.outliers.sinks import attention_sinks, column_mass, detect_sinks
from inscape.train import fit, next_token
from inscape.train.decorrelation import decorrelation
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build, inputs_for
from tests.read.planted import even_gpt2, silent_gpt2, sink_gpt2

ROWS = [[1, 5, 9, 13, 17, 21], [2, 6, 5]]


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_monitor_says_what_the_values_say_and_padding_does_not_count(side: str) -> None:
    model = gpt2()
    made = ActivationMonitor(k=3)(model, [prepare(model, ROWS, side=side)])
    alone = [ins.run(model, [row], read="layers.*.resid_post") for row in ROWS]
    for i, name in enumerate(made.sites):
        values = torch.cat([trace[name][0] for trace in alone])
        size = values.abs().flatten()
        torch.testing.assert_close(made.top[i], size.topk(3).values, atol=1e-4, rtol=1e-4)
        assert float(made.median[i]) == pytest.approx(float(size.median()), rel=1e-3)
        centred = values.flatten().double() - values.double().mean()
        assert float(made.kurtosis[i]) == pytest.approx(
            float(centred.pow(4).mean() / centred.pow(2).mean() ** 2), rel=1e-3
        )
        number, row, pos, dim = made.where[i].tolist()
        assert number == 0
        assert float(alone[row][name][0, pos, dim].abs()) == pytest.approx(float(made.top[i, 0]), rel=1e-4)
    assert made.n_values == 9 * 32


def test_a_planted_extreme_is_seen_and_agrees_with_the_list_of_massive_ones() -> None:
    model = silent_gpt2()
    with torch.no_grad():
        model.module.transformer.wte.weight[5, 7] = -9000.0
    made = ActivationMonitor()(model, [[row] for row in ROWS])
    found = massive(model, [[row] for row in ROWS])
    assert made.where[:, 3].tolist() == [7] * 3
    assert {tuple(w[:3]) for w in made.where.tolist()} <= {(0, 0, 1), (1, 0, 2)}
    torch.testing.assert_close(made.top, found.top)
    assert bool((made.ratio > 1000).all())
    assert bool((made.kurtosis > 50).all())
    fresh = ActivationMonitor()(gpt2(), [ROWS])
    assert bool((fresh.ratio < 100).all())


def test_the_monitor_follows_training_and_checkpoints_and_leaves_both_alone() -> None:
    ids = torch.tensor([[1, 5, 9, 13, 17, 21]])
    nets = [copy.deepcopy(gpt2_module()) for _ in range(2)]
    monitor = ActivationMonitor("layers.1.resid_post", k=2)
    meter = monitor.meter(ins.open(nets[0]), [ids])
    history = fit(nets[0], [ids], next_token, steps=3, meters={"extremes": meter}, measure=[0, 2])
    fit(nets[1], [ids], next_token, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    assert [step for step, _ in history.measured["extremes.top1.layers.1"]] == [0, 2, 3]
    course = monitor.over([(0, ins.open(gpt2_module())), (3, ins.open(nets[0]))], [ids])
    assert course["ratio.layers.1"][0] == history.measured["extremes.ratio.layers.1"][0]
    assert course["ratio.layers.1"][1][1] == pytest.approx(history.measured["extremes.ratio.layers.1"][-1][1])


def test_a_planted_sink_is_found_in_every_head_wherever_it_stands() -> None:
    model = sink_gpt2(7)
    rows = [[7, 20, 30, 40, 50, 60, 70, 80], [20, 30, 7, 40, 50, 60, 70, 80]]
    found = detect_sinks(model, [[row] for row in rows])
    assert {(s.row, s.pos, s.token) for s in found} == {(0, 0, 7), (1, 2, 7)}
    assert len(found) == 2 * 2 * 4  # texts, layers, heads
    assert all(s.mass > 0.9 for s in found)
    assert {s.is_first for s in found if s.row == 1} == {False}
    both = detect_sinks(model, [rows])
    assert {(s.layer, s.head, s.row, s.pos) for s in both} == {(s.layer, s.head, s.row, s.pos) for s in found}


def test_even_attention_has_no_sinks_beyond_an_even_share() -> None:
    rows = [list(range(20, 40)), list(range(40, 60))]
    assert detect_sinks(even_gpt2(), [rows], above=0.0, times=1.01) == []
    assert len(detect_sinks(even_gpt2(), [rows], above=0.0, times=0.99)) == 2 * 2 * 4 * (20 - 4)
    made = attention_sinks(even_gpt2(), [[rows[0]]])
    (first,) = [
        s for s in detect_sinks(even_gpt2(), [[rows[0]]], above=0.0) if (s.layer, s.head, s.pos) == ("layers.0", 0, 0)
    ]
    assert first.mass == pytest.approx(float(made.received[0][0, 0]), abs=1e-6)


def test_padding_moves_no_sink() -> None:
    model = sink_gpt2(7)
    for side in ("left", "right"):
        ready = prepare(model, [[20, 30, 7, 40, 50, 60, 70, 80], [20, 7, 30, 40, 50, 60]], side=side)
        assert {(s.row, s.pos) for s in detect_sinks(model, [ready])} == {(0, 2), (1, 1)}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_column_mass_is_that_of_the_pattern_without_making_it(family: str) -> None:
    model = ins.open(build(family))
    ids = torch.randint(3, 60, (2, 13), generator=torch.Generator().manual_seed(0))
    names = [f"layers.1.attn.{x}" for x in ("q", "k", "pattern")]
    trace = ins.run(model, ids, read=names)
    q, k, pattern = (trace[n] for n in names)
    config = model.config
    scale = (getattr(config, "query_pre_attn_scalar", None) or q.shape[-1]) ** -0.5
    found = column_mass(q, k, scale=scale, softcap=getattr(config, "attn_logit_softcapping", None), chunk=5)
    later = torch.ones(13, 13).tril(-1)
    wanted = (pattern * later).sum(2) / later.sum(0)
    torch.testing.assert_close(found[..., :-1], wanted[..., :-1], atol=1e-5, rtol=1e-4)
    assert bool(found[..., -1].isnan().all())


def test_column_mass_leaves_padding_and_what_a_window_hides_out() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 9, 2, 4, generator=g), torch.randn(1, 9, 1, 4, generator=g)
    mask = torch.tensor([[False, False, True, True, True, True, True, True, True]])
    padded, alone = column_mass(q, k, mask=mask), column_mass(q[:, 2:], k[:, 2:])
    torch.testing.assert_close(padded[..., 2:], alone, equal_nan=True)
    narrow = column_mass(q, k, window=2)
    scores = torch.einsum("qhd,kd->hqk", q[0], k[0, :, 0]) / 2
    two = torch.stack([scores[:, 1, 0], scores[:, 1, 1]], -1).softmax(-1)[:, 0]  # only query 1 sees key 0, and key 1
    torch.testing.assert_close(narrow[0, :, 0], two)


def test_the_module_that_writes_an_entry_and_the_one_that_erases_it_are_found() -> None:
    up, down = torch.zeros(32), torch.zeros(32)
    up[11], down[11] = 500.0, -499.0
    made = sink_origin(silent_gpt2({0: up, 2: down}), [[3, 4, 5]])
    assert (made.dim, made.written_by, made.erased_by) == (11, "layers.0.mlp_out", "layers.2.mlp_out")
    assert made.share == pytest.approx(1.0, abs=0.02)
    assert made.elsewhere == pytest.approx(500.0)  # a bias writes at every token, and the control says so
    assert float(made.stream[1].abs()) > 400 > 10 > float(made.stream[2].abs())


def test_what_the_parts_add_sums_to_the_stream() -> None:
    made = sink_origin(gpt2(), [[3, 4, 5, 6]], pos=-1, dim=2)
    trace = ins.run(gpt2(), [[3, 4, 5, 6]], read=["layers.0.resid_pre", "layers.2.resid_post"])
    start, end = (float(trace[n][0, -1, 2]) for n in trace)
    assert start + float(made.added.sum()) == pytest.approx(end, abs=1e-3)
    assert made.pos == 3
    with pytest.raises(ins.InputError, match="follows one text"):
        sink_origin(gpt2(), ROWS)


def test_cosines_to_an_anchor_are_those_of_the_states() -> None:
    model = gpt2()
    names, found = anchor_cosines(model, ROWS)
    states = ins.run(model, [ROWS[1]], read=names[1])[names[1]][0]
    want = torch.nn.functional.cosine_similarity(states, states[:1], dim=-1)
    got = found[1, 1]
    torch.testing.assert_close(got[~got.isnan()], want, atol=1e-5, rtol=1e-4)
    assert int(got.isnan().sum()) == 3
    assert float(anchor_cosines(model, [ROWS[0]], torch.ones(32))[1].abs().max()) <= 1 + 1e-6


def test_the_penalty_is_the_mean_squared_cosine_on_either_padding_side() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 6, generator=g)
    mask = torch.tensor([[True, True, True, True], [False, True, True, True]])
    cos = torch.nn.functional.cosine_similarity
    want = torch.cat([cos(x[0, 1:], x[0, :1]), cos(x[1, 2:], x[1, 1:2])])
    assert float(decorrelation(x, mask=mask)) == pytest.approx(float(want.square().mean()), rel=1e-5)
    assert float(decorrelation([x, x], mask=mask, power=1)) == pytest.approx(float(want.abs().mean()), rel=1e-5)
    assert float(decorrelation(x, torch.eye(6)[0])) == pytest.approx(
        float(cos(x, torch.eye(6)[:1, None], dim=-1).square().mean())
    )
    same = decorrelation(x, lambda h: h.mean(1))
    assert float(same) == pytest.approx(float(cos(x, x.mean(1, keepdim=True), dim=-1).square().mean()), rel=1e-5)
    half = (200 * x).half()
    assert float(decorrelation(half)) == pytest.approx(float(decorrelation(x)), rel=1e-2)


def test_an_anchor_that_is_held_gets_no_gradient() -> None:
    x = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    decorrelation(x, detach_anchor=True).backward()
    assert x.grad is not None
    assert float(x.grad[0, 0].abs().max()) == 0
    assert float(x.grad[0, 1].abs().max()) > 0


def test_training_with_the_penalty_lowers_it_and_a_random_anchor_does_not() -> None:
    ids = torch.randint(3, 60, (4, 10), generator=torch.Generator().manual_seed(0))
    ends = {}
    for name, anchor in {
        "first": 0,
        "none": None,
        "random": torch.randn(32, generator=torch.Generator().manual_seed(1)),
    }.items():
        module = copy.deepcopy(gpt2_module())
        model = ins.open(module)

        def loss(_: object, batch: torch.Tensor, model: "ins.Model" = model, anchor: object = anchor) -> torch.Tensor:
            trace = ins.run(model, batch, read="layers.*.resid_post", output=True, grad=True)
            logits = trace.output.logits
            base = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
            return base if anchor is None else base + 3 * decorrelation(list(trace.values()), anchor, mask=trace.mask)

        fit(module, [ids], loss, steps=15, lr=3e-3)
        ends[name] = float(decorrelation(list(ins.run(model, ids, read="layers.*.resid_post").values())))
    assert ends["first"] < 0.5 * ends["none"]
    assert ends["first"] < 0.6 * ends["random"]


def test_what_cannot_be_penalised_or_measured_says_why() -> None:
    x = torch.zeros(2, 3, 4)
    with pytest.raises(ins.TokenError, match="no anchor at position 0 in row 1: it has 0 real tokens"):
        decorrelation(x, mask=torch.tensor([[True, True, True], [False, False, False]]))
    with pytest.raises(ins.InputError, match="no token but the anchor"):
        decorrelation(x[:, :1])
    with pytest.raises(ins.InputError, match=r"power=3"):
        decorrelation(x, power=3)
    with pytest.raises(ins.ShapeError, match=r"the anchor is \(5,\)"):
        decorrelation(x, torch.ones(5))
    with pytest.raises(ins.ModelError, match="no attention pattern"):
        detect_sinks(ins.open(build("mamba")), [inputs_for("mamba")])
    with pytest.raises(ins.InputError, match="a monitor needs inputs"):
        ActivationMonitor()(gpt2(), [])
    with pytest.raises(ins.ModelError, match="no residual stream"):
        ActivationMonitor()(ins.open(torch.nn.Linear(3, 3)), [torch.zeros(1, 3)])
