"""The tuned lens: gradients, planted maps, a store larger than its pool, files, and its control."""

import copy
import subprocess
import sys

import pytest
import torch

import inscape as ins
from inscape.core.errors import FileError, ModelError
from inscape.engine.unembed import unembedding
from inscape.read.lenses.compare import compare_lenses
from inscape.read.lenses.kl import kl_to_final
from inscape.read.lenses.logit import logit_lens
from inscape.read.lenses.tuned import TunedLens
from tests.common.small import gpt2, gpt2_module
from tests.common.zoo import build
from tests.read.planted import silent_gpt2

LAST = "layers.2.resid_post"
LAYERS = ["layers.0.resid_post", "layers.1.resid_post"]


def rows_of_gpt2(n: int = 400, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 64, (n // 10, 10), generator=g)
    trace = ins.run(gpt2(), ids, read="layers.*.resid_post")
    return {name: x.flatten(0, 1) for name, x in trace.items()}


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "cohere", "granite", "phi", "bert"])
@pytest.mark.parametrize("budget", [1, 10**4, 10**9])
def test_the_kl_and_its_gradient_are_those_of_autograd_through_all_scores(name: str, budget: int) -> None:
    model = gpt2() if name == "gpt2" else ins.open(build(name))
    unembed = unembedding(model)
    states, ends = torch.randn(3, 5, 32, requires_grad=True), torch.randn(5, 32)
    found = kl_to_final(unembed, states, ends, budget=budget)
    (gradient,) = torch.autograd.grad((found * torch.arange(1, 4)).sum(), states)
    log_p, log_q = unembed(ends).log_softmax(-1).detach(), unembed(states).log_softmax(-1)
    plain = (log_p.exp() * (log_p - log_q)).sum(-1).mean(1)
    (wanted,) = torch.autograd.grad((plain * torch.arange(1, 4)).sum(), states)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["phi", "gemma2"])
def test_the_kl_keeps_to_autocast_and_forbids_nothing_to_scores_that_are_impossible(name: str) -> None:
    unembed = unembedding(ins.open(copy.deepcopy(build(name))))
    states, ends = torch.randn(3, 5, 32, requires_grad=True), torch.randn(5, 32)
    wide = kl_to_final(unembed, states, ends)
    (wanted,) = torch.autograd.grad(wide.sum(), states)
    with torch.autocast("cpu", torch.bfloat16):
        found = kl_to_final(unembed, states, ends)
    (gradient,) = torch.autograd.grad(found.sum(), states)
    assert not torch.equal(found, wide)
    torch.testing.assert_close(found, wide, atol=0.02, rtol=0.05)
    assert float((gradient - wanted).norm() / wanted.norm()) < 0.05
    if unembed.head.bias is not None:  # a token that can never be said
        unembed.head.bias.data[3] = -torch.inf
        never = kl_to_final(unembed, states, ends)
        (gradient,) = torch.autograd.grad(never.sum(), states)
        assert bool(never.isfinite().all() and gradient.isfinite().all())


def test_a_planted_map_is_found_and_a_shuffled_target_finds_none_of_it() -> None:
    """Each layer's state is an invertible map of the last one's: the closed form undoes it."""
    model = silent_gpt2()
    g = torch.Generator().manual_seed(0)
    end = torch.randn(600, 32, generator=g)
    held = torch.randn(200, 32, generator=g)
    maps = [3 * torch.linalg.qr(torch.randn(32, 32, generator=g))[0] for _ in LAYERS]
    bias = torch.randn(32, generator=g)

    def made(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {n: (x - bias) @ m for n, m in zip(LAYERS, maps, strict=True)} | {LAST: x}

    closed = TunedLens(steps=0, start="least_squares").fit(made(end), model)
    torch.testing.assert_close(closed.transform(made(held)[LAYERS[0]], LAYERS[0]), held, atol=1e-2, rtol=1e-2)
    assert closed.score(made(held), model) > 0.99
    control = TunedLens(steps=0, start="least_squares", control="shuffle").fit(made(end), model)
    assert control.score(made(held), model) < 0.9
    trained = TunedLens(steps=300, rows=200, lr=1e-2).fit(made(end), model)
    assert trained.score(made(held), model) > 0.8
    assert trained.loss_[0][-1] < 0.3 * trained.loss_[0][0]


def test_it_starts_at_the_logit_lens_and_ends_nearer_to_the_model() -> None:
    model, rows, held = gpt2(), rows_of_gpt2(), rows_of_gpt2(seed=1)
    barely = TunedLens(steps=1, rows=16, lr=1e-9).fit(rows, model)
    assert barely.score(held, model) == pytest.approx(0.0, abs=1e-4)
    trained = TunedLens(steps=150, rows=100, lr=3e-3).fit(rows, model)
    assert all(p.grad is None for p in model.module.parameters()), "the model is left alone"
    control = TunedLens(steps=150, rows=100, lr=3e-3, control="shuffle").fit(rows, model)
    assert trained.score(held, model) > control.score(held, model) + 0.1
    g = torch.Generator().manual_seed(5)
    texts = torch.randint(3, 64, (6, 10), generator=g)
    side = compare_lenses(model, texts, {"logit": None, "tuned": trained, "control": control}, n=200)
    assert side.kl.value.shape == (3, 3)
    assert bool((side.kl.value[1, :2] < side.kl.value[0, :2]).all())
    assert bool((side.kl.value[1, :2] < side.kl.value[2, :2]).all())
    assert bool((side.kl.low <= side.kl.value + 1e-6).all())
    assert float(side.kl.value[:, 2].abs().max()) < 1e-4  # no map after the last layer
    assert bool((side.agreement[:, 2] == 1).all())
    reading = logit_lens(model, texts, lens=trained)
    assert "tuned lens of 2 layers, then norm" in reading.how


def test_it_forgets_and_is_the_same_twice_and_layer_by_layer() -> None:
    model, rows = gpt2(), rows_of_gpt2(100)
    one = TunedLens(steps=5, rows=20, seed=3).fit(rows, model)
    first = one.weight_.clone()
    one.fit(rows_of_gpt2(100, seed=9), model)
    assert not torch.equal(one.weight_, first)
    assert torch.equal(one.fit(rows, model).weight_, first)
    assert not any(isinstance(v, dict) for v in vars(one).values())
    apart = TunedLens(steps=0, start="least_squares", together=1).fit(rows, model)
    whole = TunedLens(steps=0, start="least_squares").fit(rows, model)
    torch.testing.assert_close(apart.weight_, whole.weight_)


def test_a_store_trains_it_through_a_small_pool_and_a_fresh_process_reads_it(tmp_path) -> None:
    model = gpt2()
    g = torch.Generator().manual_seed(0)
    texts = torch.randint(3, 64, (40, 10), generator=g).tolist()
    store = ins.record(model, texts, sites="layers.*.resid_post", to=tmp_path / "acts")
    fast = TunedLens(steps=0, start="least_squares").fit(tmp_path / "acts", model)
    same = TunedLens(steps=0, start="least_squares").fit({n: store[n][:] for n in store.sites}, model)
    torch.testing.assert_close(fast.weight_, same.weight_, atol=1e-5, rtol=1e-4)
    lens = TunedLens(steps=60, rows=64, lr=3e-3, start="least_squares").fit(store, model)
    score = lens.score(rows_of_gpt2(seed=1), model)
    assert score > 0.2
    lens.save(tmp_path / "lens.safetensors")
    code = (
        "import inscape as ins; from tests.common.small import gpt2; from tests.read.lenses.test_tuned_lens import *\n"
        f"lens = TunedLens.load({str(tmp_path / 'lens.safetensors')!r}, gpt2())\n"
        "print(repr(lens.score(rows_of_gpt2(seed=1), gpt2())))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(out.stdout) == pytest.approx(score, abs=1e-6)


def test_another_model_and_damaged_files_are_refused(tmp_path) -> None:
    model = gpt2()
    lens = TunedLens(steps=0, start="least_squares").fit(rows_of_gpt2(100), model)
    lens.save(tmp_path / "lens.safetensors")
    with pytest.raises(ModelError, match="a basis of one model means nothing in another"):
        TunedLens.load(tmp_path / "lens.safetensors", silent_gpt2())
    with pytest.raises(ModelError, match="fit a lens for this one"):
        logit_lens(silent_gpt2(), [[1, 2, 3]], lens=lens)
    (tmp_path / "lens.safetensors").write_bytes(b"no")
    with pytest.raises(FileError, match="damaged"):
        TunedLens.load(tmp_path / "lens.safetensors", model)


def test_what_cannot_be_fitted_or_asked_is_refused() -> None:
    model, rows = gpt2(), rows_of_gpt2(100)
    with pytest.raises(ins.InputError, match="no steps from the identity"):
        TunedLens(steps=0).fit(rows, model)
    with pytest.raises(ins.InputError, match="control is 'shuffle' or None"):
        TunedLens(control="noise").fit(rows, model)
    with pytest.raises(ins.InputError, match=r"needs rows of layers.2.resid_post"):
        TunedLens().fit({n: rows[n] for n in LAYERS}, model)
    with pytest.raises(ins.ShapeError, match="rows of the same positions"):
        TunedLens().fit(rows | {LAST: rows[LAST][:5]}, model)
    with pytest.raises(ins.InscapeError, match="has not been fitted"):
        TunedLens().transform(rows[LAST], LAST)
    lens = TunedLens(steps=0, start="least_squares", layers=LAYERS[:1]).fit(rows, model)
    with pytest.raises(ins.InputError, match=r"no map for layers.1.resid_post"):
        logit_lens(model, [[1, 2, 3]], lens=lens)
    with pytest.raises(ins.ShapeError, match="fitted on 32 units; these states have 3"):
        lens.transform(torch.zeros(2, 3), LAYERS[0])
    assert torch.equal(lens.transform(rows[LAST], LAST), rows[LAST])
    with pytest.raises(ins.InputError, match="no lenses"):
        compare_lenses(model, [[1, 2], [3, 4]], {})
    with pytest.raises(ins.InputError, match="at least two held-out texts"):
        compare_lenses(model, [[1, 2]], {"logit": None})


class TheirLens(torch.nn.Module):
    """The package's own forward, as it is written there: `h + translator(h)`, then norm and head."""

    def __init__(self, n: int, d: int) -> None:
        super().__init__()
        self.layer_translators = torch.nn.ModuleList(torch.nn.Linear(d, d) for _ in range(n))

    def forward(self, h: torch.Tensor, i: int, module: torch.nn.Module) -> torch.Tensor:
        return module.lm_head(module.transformer.ln_f(h + self.layer_translators[i](h)))


def test_the_public_format_is_read_and_written_as_the_package_does(tmp_path) -> None:
    """A folder made as the package makes it gives its logits here; ours loads into its modules."""
    import json

    from inscape.read.lenses.tuned_public import unembed_hash

    model, module = gpt2(), gpt2_module()
    torch.manual_seed(3)
    theirs = TheirLens(3, 32)
    folder = tmp_path / "theirs"
    folder.mkdir()
    torch.save(theirs.layer_translators.state_dict(), folder / "params.pt")
    config = {
        "base_model_name_or_path": "m", "d_model": 32, "num_hidden_layers": 3, "bias": True,
        "base_model_revision": None, "unembed_hash": unembed_hash(model), "lens_type": "linear_tuned_lens",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    lens = TunedLens.load_public(folder, model)
    assert lens.layers_ == ("layers.0.resid_pre", "layers.0.resid_post", "layers.1.resid_post")
    ids = torch.tensor([[1, 5, 9, 13]])
    with torch.no_grad():
        hidden = module(ids, output_hidden_states=True).hidden_states
        wanted = torch.stack([theirs(hidden[i], i, module)[0] for i in range(3)])
    read = logit_lens(model, ids, layers=list(lens.layers_), lens=lens)
    torch.testing.assert_close(read.probability[:, 0, :, 0], wanted.softmax(-1).amax(-1), atol=1e-5, rtol=1e-4)
    assert torch.equal(read.top[:, 0, :, 0], wanted.argmax(-1))
    lens.save_public(tmp_path / "ours", model)
    again = TheirLens(3, 32)
    again.layer_translators.load_state_dict(torch.load(tmp_path / "ours" / "params.pt", weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), theirs.parameters(), strict=True))
    assert json.loads((tmp_path / "ours" / "config.json").read_text()).keys() == config.keys()


def test_folders_that_are_no_lens_of_this_model_are_refused(tmp_path) -> None:
    import json

    model = gpt2()
    with pytest.raises(FileError, match=r"there is no config.json"):
        TunedLens.load_public(tmp_path, model)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileError, match="damaged"):
        TunedLens.load_public(tmp_path, model)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(FileError, match="holds no settings"):
        TunedLens.load_public(tmp_path, model)
    config = {"base_model_name_or_path": "pythia", "d_model": 32, "num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileError, match=r"there is no params.pt"):
        TunedLens.load_public(tmp_path, model)
    torch.save({"0.weight": torch.zeros(2, 2)}, tmp_path / "params.pt")
    with pytest.raises(FileError, match="no map of 32 by 32 for layer 0"):
        TunedLens.load_public(tmp_path, model)
    torch.save([1], tmp_path / "params.pt")
    with pytest.raises(FileError, match="no state dict"):
        TunedLens.load_public(tmp_path, model)
    torch.save({"0.weight": print}, tmp_path / "params.pt")  # a pickle that would import something
    with pytest.raises(FileError, match="more than tensors"):
        TunedLens.load_public(tmp_path, model)
    (tmp_path / "params.pt").write_bytes(b"")
    with pytest.raises(FileError, match="is damaged"):
        TunedLens.load_public(tmp_path, model)
    for wrong in ({"d_model": 64}, {"num_hidden_layers": 2}, {"unembed_hash": "abc"}):
        (tmp_path / "config.json").write_text(json.dumps(config | wrong))
        torch.save({}, tmp_path / "params.pt")
        with pytest.raises(ModelError, match="this lens is for pythia"):
            TunedLens.load_public(tmp_path, model)
    (tmp_path / "config.json").write_text(json.dumps(config | {"lens_type": "mlp"}))
    with pytest.raises(FileError, match="describes a 'mlp'"):
        TunedLens.load_public(tmp_path, model)
    part = TunedLens(steps=0, start="least_squares").fit(rows_of_gpt2(100), model)
    with pytest.raises(ins.InputError, match=r"none for layers.0.resid_pre"):
        part.save_public(tmp_path / "x", model)
