"""Paths whose signals are known on paper, a slow version, planted traces, and streams against the states themselves."""

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import inscape as ins
from inscape.read.generation.confidence import ConfidenceStream, layer_geometry
from inscape.read.generation.trace_score import TraceScore, signal_areas
from inscape.read.generation.trajectory import (
    bounds,
    centered,
    null_path,
    null_signals,
    segment_means,
    signals_of_means,
    trajectory_signals,
)
from inscape.read.generation.trajectory_stream import TrajectoryStream
from tests.common.small import gpt2, gpt2_module, hooks_left

ROWS = [[1, 2, 3, 4, 5], [9, 8, 7]]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_straight_line_goes_as_far_as_it_goes_long():
    line = torch.arange(6.0)[:, None, None] * normal(1, 3, 8)
    made = signals_of_means(line)
    torch.testing.assert_close(made.net, made.cumulative)
    torch.testing.assert_close(made.aligned, torch.ones(1, 3, dtype=torch.float64))


def test_a_closed_loop_goes_nowhere_and_is_aligned_with_nothing():
    turn = torch.linspace(0, 2 * math.pi, 9, dtype=torch.float64)
    loop = torch.stack([turn.cos(), turn.sin()], -1)[:, None]
    loop[-1] = loop[0]
    made = signals_of_means(loop)
    assert float(made.net) == 0
    assert math.isnan(float(made.aligned))
    assert float(made.cumulative) == pytest.approx(8 * 2 * math.sin(math.pi / 8))


def test_a_random_walk_in_many_dimensions_is_aligned_as_one_over_the_root_of_its_steps():
    # n orthogonal unit steps: |way| = sqrt(n), each step's cosine with it 1 / sqrt(n)
    made = signals_of_means(normal(17, 20, 4000).cumsum(0))
    assert float(made.aligned.mean()) == pytest.approx(1 / math.sqrt(16), abs=0.01)
    ratio = made.net / made.cumulative
    assert float(ratio.mean()) == pytest.approx(1 / math.sqrt(16), abs=0.01)
    still = signals_of_means(null_path(torch.arange(17.0)[:, None, None] * normal(1, 20, 4000), "random"))
    assert float(still.aligned.mean()) == pytest.approx(1 / math.sqrt(16), abs=0.02)


def slow(means):
    out = {"net": [], "cumulative": [], "aligned": []}
    for layer in range(means.shape[1]):
        z = means[:, layer]
        way = z[-1] - z[0]
        steps = [z[i + 1] - z[i] for i in range(len(z) - 1)]
        out["net"].append(way.norm())
        out["cumulative"].append(sum(s.norm() for s in steps))
        out["aligned"].append(sum(torch.dot(s, way) / s.norm() / way.norm() for s in steps) / len(steps))
    return {k: torch.stack(v) for k, v in out.items()}


@given(seed=st.integers(0, 2**31), n=st.integers(3, 9), d=st.integers(1, 6))
def test_signals_are_those_of_the_formulas(seed, n, d):
    means = normal(n, 2, d, seed=seed)
    made, wanted = signals_of_means(means), slow(means)
    for name, value in wanted.items():
        torch.testing.assert_close(getattr(made, name)[0], value)
    turned = torch.linalg.qr(normal(d, d, seed=seed + 1))[0]
    same = signals_of_means(means @ turned + 3.0)
    torch.testing.assert_close(same.table(), made.table(), msg="a shift or a rotation of the space changes nothing")


def test_normalised_signals_do_not_see_the_scale_and_raw_ones_do():
    means = normal(5, 3, 8)
    small, large = signals_of_means(means), signals_of_means(10 * means)
    torch.testing.assert_close(small.table(normalize=True), large.table(normalize=True))
    torch.testing.assert_close(10 * small.table()[:, :2], large.table()[:, :2])


def test_segments_are_cut_where_they_say():
    assert bounds(10, block=3) == [0, 3, 6, 10], "a short rest belongs to the last block"
    assert bounds(2, block=5) == [0, 2]
    assert bounds(9, block=3) == [0, 3, 6, 9]
    assert bounds(10, segments=4) == [0, 2, 5, 8, 10]
    states = normal(10, 2, 3)
    torch.testing.assert_close(segment_means(states, block=3)[2], states[6:].mean(0))
    torch.testing.assert_close(segment_means(states, segments=1)[0], states.mean(0))


def test_two_segments_have_no_alignment_and_say_so():
    with pytest.warns(UserWarning, match="2 segments: with fewer than 3"):
        made = signals_of_means(normal(2, 3, 4))
    assert bool(made.aligned.isnan().all())
    torch.testing.assert_close(made.net, made.cumulative)


def test_a_shared_drift_is_taken_away_and_what_is_left_is_the_traces_own():
    drift, own = 100 * torch.arange(6.0)[:, None, None] * normal(1, 2, 8), [normal(6, 2, 8, seed=s) for s in range(40)]
    left = centered([drift + o for o in own])
    mean = torch.stack(own).mean(0)
    for a, o in zip(left, own, strict=True):
        torch.testing.assert_close(a, o - mean)
    assert len(centered([normal(6, 2, 8), normal(4, 2, 8)])[1]) == 4


@given(seed=st.integers(0, 2**31))
def test_nulls_keep_what_they_keep(seed):
    means = normal(7, 2, 5, seed=seed)
    shuffled, turned = null_path(means, "shuffle", seed=seed), null_path(means, "random", seed=seed)
    assert torch.equal(shuffled.sum(-1).sort(0).values, means.sum(-1).sort(0).values)
    torch.testing.assert_close(turned.diff(dim=0).norm(dim=-1), means.diff(dim=0).norm(dim=-1))
    torch.testing.assert_close(signals_of_means(turned).cumulative, signals_of_means(means).cumulative)


def test_nulls_of_many_paths_are_those_of_each_and_short_ones_are_no_warning():
    paths = [normal(6, 2, 5, seed=1), normal(2, 2, 5, seed=2)]
    made = null_signals(paths, "shuffle", seed=4)
    torch.testing.assert_close(made.net[:1], signals_of_means(null_path(paths[0], "shuffle", seed=4)).net)
    assert made.n_segments.tolist() == [6, 2]
    assert bool(made.aligned[1].isnan().all())


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize(("new", "block"), [(14, 3), (13, 3), (12, 5), (4, 5), (7, 3)])
def test_a_stream_has_the_signals_of_the_states(new, block, use_cache):
    model = ins.open(gpt2_module(3))
    path = TrajectoryStream(block, keep_means=True, keep_history=True)
    how = {"max_new_tokens": new, "min_new_tokens": new, "use_cache": use_cache}
    out = ins.generate(model, ROWS, watch=path, **how)
    full = ins.generate(model, ROWS, read="layers.*.resid_post", **how)
    assert torch.equal(out.tokens, full.tokens)
    states = torch.stack([full.trace[f"layers.{i}.resid_post"] for i in range(3)], 2)[:, 5:-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = trajectory_signals(list(states), block=block)
    made = path.signals
    for name in ("net", "cumulative", "aligned", "norm"):
        torch.testing.assert_close(getattr(made, name), getattr(wanted, name), atol=1e-4, rtol=1e-4, equal_nan=True)
    assert made.n_segments.tolist() == wanted.n_segments.tolist()
    assert made.n_tokens.tolist() == [new - 1, new - 1]
    for mine, own in zip(path.means, states, strict=True):
        torch.testing.assert_close(mine, segment_means(own, block=block), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(path.latest, states[:, -1], atol=1e-4, rtol=1e-4)
    assert len(path.history) == (new - 1) // block
    if path.history:
        first = path.history[-1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            so_far = trajectory_signals([s[: int(first.n_tokens[0])] for s in states], block=block)
        torch.testing.assert_close(first.table(), so_far.table(), atol=1e-4, rtol=1e-4, equal_nan=True)
    assert hooks_left(model.module) == 0


def test_a_stream_in_one_row_is_that_row_in_a_batch():
    model = gpt2()
    path = TrajectoryStream(3)
    both = ins.generate(model, ROWS, watch=path, max_new_tokens=14)
    together = path.signals.table()
    for i, row in enumerate(ROWS):
        alone = ins.generate(model, [row], watch=path, max_new_tokens=14)
        assert torch.equal(alone.tokens[0], both.tokens[i])
        torch.testing.assert_close(path.signals.table()[0], together[i], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_span_begins_behind_one_token_and_ends_before_another(use_cache):
    model = gpt2()
    plain = ins.generate(model, ROWS, max_new_tokens=14, read="layers.*.resid_post")
    states = torch.stack([plain.trace[f"layers.{i}.resid_post"] for i in range(3)], 2)
    tokens = plain.output.tolist() if plain.output is not None else plain.tokens.tolist()
    start, stop = (int(tokens[0][3]),), (int(tokens[0][10]),)
    path = TrajectoryStream(2, start=start, stop=stop)
    ins.generate(model, ROWS, watch=path, max_new_tokens=14, use_cache=use_cache)
    for row in range(2):
        begin = tokens[row].index(start[0]) + 1 if start[0] in tokens[row] else None
        if begin is None:
            assert int(path.signals.n_tokens[row]) == 0
            continue
        ends = [i for i, t in enumerate(tokens[row]) if i >= begin and t == stop[0]]
        end = ends[0] if ends else 13
        assert int(path.signals.n_tokens[row]) == min(end, 13) - begin
        if min(end, 13) == begin:  # the last token is the one behind which it would begin
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wanted = trajectory_signals(states[row, 5 + begin : 5 + min(end, 13)], block=2)
        torch.testing.assert_close(path.signals.net[row], wanted.net[0], atol=1e-4, rtol=1e-4)
    prompt = TrajectoryStream(2, start=(2,), stop=(5,))
    ins.generate(model, ROWS[:1], watch=prompt, max_new_tokens=3, use_cache=use_cache)
    assert prompt.signals.n_tokens.tolist() == [2]
    assert prompt.is_open.tolist() == [False]


def test_a_stream_does_not_grow():
    model, path = gpt2(), TrajectoryStream(2)
    sizes = []
    for new in (10, 60):
        ins.generate(model, ROWS, watch=path, max_new_tokens=new, min_new_tokens=new)
        held = [v for v in vars(path._at).values() if isinstance(v, torch.Tensor)]
        sizes.append(sum(v.numel() for v in held))
    assert sizes[0] == sizes[1]


def test_confidence_is_that_of_the_scores():
    model, sure = gpt2(), ConfidenceStream()
    out = ins.generate(model, ROWS, watch=sure, max_new_tokens=6, do_sample=True, temperature=1.3)
    sequences = [row + new for row, new in zip(ROWS, out.tokens.tolist(), strict=True)]
    for i, row in enumerate(sequences):
        log_p = ins.run(model, [row]).output.logits[0].log_softmax(-1)[len(ROWS[i]) - 1 : -2]
        chosen = torch.tensor(row[len(ROWS[i]) : -1])
        top = log_p.exp().topk(2).values
        wanted = torch.stack([
            log_p.gather(1, chosen[:, None]).mean(),
            -(log_p.exp() * log_p).sum(1).mean(),
            (top[:, 0] - top[:, 1]).mean(),
        ])  # fmt: skip
        torch.testing.assert_close(sure.table[i].float(), wanted, atol=1e-4, rtol=1e-4)


def test_geometry_of_a_state_that_turns_by_right_angles():
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[None]
    made = layer_geometry(x)
    assert made[0].tolist() == pytest.approx([math.sqrt(2), math.pi / 2])


def planted(n, seed, gap=1.0):
    """Traces whose right ones go further, less long, straighter; longer ones are wrong more often."""
    g = torch.Generator().manual_seed(seed)
    right = torch.rand(n, generator=g) < 0.5
    x = torch.randn(n, 3, generator=g, dtype=torch.float64) + gap * right[:, None] * torch.tensor([1.0, -1.0, 1.0])
    return x * torch.tensor([10.0, 300.0, 0.1]) + 5, right


def test_the_score_finds_planted_traces_and_nothing_in_noise():
    x, right = planted(200, 0)
    held, truth = planted(400, 1)
    score = TraceScore().fit(x, right)
    made = score.area(held, truth)
    assert made.value > 0.85
    assert made.interval.low > 0.8
    assert made.p < 0.01
    assert float((score.predict(held) == truth).double().mean()) > 0.8
    for control in ("shuffle", "random"):
        null = TraceScore(control=control).fit(x, right)
        assert (null.score(held, truth) < 0.6) == (control == "random"), (
            "signs are not learned, so labels do not matter"
        )
    noise, labels = planted(300, 2, gap=0.0)
    assert TraceScore().fit(*planted(200, 3, gap=0.0)).area(noise, labels).interval.low < 0.5


def test_false_alarms_of_the_score_are_as_rare_as_the_level_says():
    alarms = 0
    for seed in range(200):
        score = TraceScore().fit(*planted(30, 1000 + seed, gap=0.0))
        alarms += score.area(*planted(40, 5000 + seed, gap=0.0), n=99).p <= 0.05
    assert alarms <= 20, "5 % of 200 are 10; more than 20 have a probability of 0.2 %"


def test_a_signal_that_only_knows_the_length_is_nothing_at_equal_length():
    g = torch.Generator().manual_seed(0)
    length = torch.randint(10, 60, (400,), generator=g).double()
    right = torch.rand(400, generator=g) < 1 - length / 70
    x = torch.stack([0 * length, length + 0.01 * torch.randn(400, generator=g), 0 * length], 1)
    score = TraceScore().fit(x, right)
    made = score.area(x, right, length=length)
    assert made.plain > 0.65
    assert made.interval.low < 0.5 < made.interval.high
    areas = signal_areas(x[:, 1:2], ["cumulative"], right, signs=[-1.0], by=length)
    assert areas["cumulative"].plain > 0.65


def test_unknown_signals_count_as_the_mean():
    x, right = planted(50, 0)
    x[3, 2] = float("nan")
    score = TraceScore().fit(x, right)
    filled = x.clone()
    filled[3, 2] = score.mean_[2]
    torch.testing.assert_close(score.transform(x), score.transform(filled))


def test_what_cannot_be_done_says_so():
    states, score = normal(9, 2, 3), TraceScore()
    with pytest.raises(ins.InputError, match="one of both"):
        trajectory_signals(states)
    with pytest.raises(ins.InputError, match="9 tokens cannot be cut into segments=10"):
        trajectory_signals(states, segments=10)
    with pytest.raises(ins.InputError, match="block=0"):
        trajectory_signals(states, block=0)
    with pytest.raises(ins.InputError, match="a trace without tokens"):
        bounds(0, block=3)
    with pytest.raises(ins.InputError, match="there is no trace"):
        trajectory_signals([], block=3)
    with pytest.raises(ins.InputError, match="control='turn' is none of trajectories"):
        trajectory_signals(states, block=3, control="turn")
    with pytest.raises(ins.InputError, match="no token of a span"):
        _ = TrajectoryStream().signals
    with pytest.raises(ins.InputError, match="block=0: a segment has one token"):
        ins.generate(gpt2(), ROWS, watch=TrajectoryStream(0), max_new_tokens=3)
    path = TrajectoryStream(2)
    ins.generate(gpt2(), ROWS, watch=path, max_new_tokens=5)
    with pytest.raises(ins.InputError, match="no means were kept"):
        _ = path.means
    with pytest.raises(ins.InputError, match="no history was kept"):
        _ = path.history
    with pytest.raises(ins.InputError, match="nothing was watched yet"):
        _ = ConfidenceStream().table
    with pytest.raises(ins.NotFittedError, match="no scales yet"):
        score.transform(normal(3, 3))
    with pytest.raises(ins.ShapeError, match="for 3 signs"):
        score.fit(normal(5, 2), [1, 0, 1, 0, 1])
    with pytest.raises(ins.InputError, match="all calibration traces are of one kind"):
        score.fit(normal(4, 3), [1, 1, 1, 1])
    with pytest.raises(ins.InputError, match="control='labels' is none of this score"):
        TraceScore(control="labels").fit(normal(4, 3), [1, 0, 1, 1])
    with pytest.raises(ins.InputError, match="needs two layers"):
        layer_geometry(normal(2, 1, 3).float())
