"""Path patching finds the one known path of a hand-built net, and is what three explicit runs give."""

import pytest
import torch

import inscape as ins
from inscape.circuits.paths import path_patching
from tests.common.hand_built import SAYS, WRITES, induction_by_hand
from tests.common.small import gpt2
from tests.common.zoo import build

CLEAN = torch.tensor([[0, 3, 5, 1, 6, 2, 3]])
CORRUPTED = torch.tensor([[0, 4, 5, 1, 6, 2, 3]])  # the 3 at the end has not been seen: nothing to copy
METRIC = ins.logit_diff(5, 1)


def test_the_net_does_what_its_weights_say():
    model = induction_by_hand()
    assert int(ins.run(model, CLEAN).output.logits[0, -1].argmax()) == 5
    grid = ins.sweep(model, CLEAN, CORRUPTED, positions=None, metric=METRIC)
    assert float(grid.other) > 3 * abs(float(grid.base))


@pytest.mark.parametrize("freeze", [("heads",), ("heads", "mlps")])
def test_a_hand_built_circuit_is_recovered_exactly(freeze):
    model = induction_by_hand()
    last = path_patching(model, CLEAN, CORRUPTED, metric=METRIC, freeze=freeze)
    direct = last.normalised()
    assert float(direct[SAYS]) == pytest.approx(1.0, abs=1e-4)  # all that reaches the prediction comes from one head
    others = direct.clone()
    others[SAYS] = 0
    assert float(others.abs().max()) < 1e-5
    for kind, wanted in (("k", 1.0), ("q", 0.0), ("v", 0.0)):  # the earlier head acts through the later one's keys
        path = path_patching(
            model, CLEAN, CORRUPTED, metric=METRIC, receivers=[(f"layers.1.attn.{kind}", 1)], positions="all",
            freeze=freeze,
        ).normalised()  # fmt: skip
        assert path.shape == (1, 2)
        assert float(path[0, WRITES[1]]) == pytest.approx(wanted, abs=1e-3), kind
        assert abs(float(path[0, 1])) < 1e-5


def test_at_the_last_token_alone_the_earlier_head_is_not_seen():
    model = induction_by_hand()
    path = path_patching(model, CLEAN, CORRUPTED, metric=METRIC, receivers=[("layers.1.attn.k", 1)], positions=-1)
    assert float(path.normalised().abs().max()) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "falcon_new", "mixtral"])
def test_it_is_what_three_explicit_runs_give(name):
    model = ins.open(build(name))
    clean = torch.tensor([[5, 9, 13, 17, 21, 25], [6, 10, 14, 18, 22, 26]])
    corrupted = clean.clone()
    corrupted[:, 2] = torch.tensor([40, 41])
    metric = ins.logit_diff(3, 7)
    receivers = [("layers.2.attn.q", 1), ("layers.2.attn.v", 0)]
    grid = path_patching(model, clean, corrupted, receivers=receivers, positions="all", metric=metric)
    zs = [f"layers.{i}.attn.z" for i in range(3)]
    for row in range(2):
        one, two = clean[row : row + 1], corrupted[row : row + 1]
        own, theirs = ins.run(model, one, read=zs), ins.run(model, two, read=zs)
        for layer, head in ((0, 1), (1, 3)):
            edits = [ins.patch(zs[layer], theirs[zs[layer]], heads=head)]
            edits += [ins.patch(z, own[z]) for z in zs[layer + 1 :]]
            reached = ins.run(model, one, read=[s for s, _ in receivers], edits=edits)
            back = [ins.patch(s, reached[s], heads=h) for s, h in receivers]
            x = ins.run(model, one, edits=back).output.logits[0, -1]
            torch.testing.assert_close(grid.per_pair[row, layer, head], x[3] - x[7], rtol=1e-4, atol=1e-4)


def test_padding_does_not_matter():
    model = gpt2()
    clean, corrupted = [[5, 9, 13, 17], [6, 10, 14, 18, 22, 26]], [[5, 9, 40, 17], [6, 10, 41, 18, 22, 26]]
    how = {"receivers": [("layers.2.attn.q", 1)], "positions": "all"}
    grid = path_patching(model, clean, corrupted, metric=ins.logit_diff([3, 4], [7, 8]), **how)
    for way in ("rows", "batched"):
        other = path_patching(model, clean, corrupted, metric=ins.logit_diff([3, 4], [7, 8]), way=way, **how)
        torch.testing.assert_close(grid.per_pair, other.per_pair, rtol=1e-4, atol=1e-4)
    for row in range(2):
        alone = path_patching(model, [clean[row]], [corrupted[row]], metric=ins.logit_diff(3 + row, 7 + row), **how)
        torch.testing.assert_close(grid.per_pair[row], alone.per_pair[0], rtol=1e-4, atol=1e-4)


BAD = [
    ({"senders": "layers.*.mlp_out"}, ins.SiteError, "layers.0.mlp_out is no sender of a path"),
    ({"receivers": [("layers.1.mlp_out", 0)]}, ins.SiteError, "layers.1.mlp_out is no receiver of a path"),
    ({"receivers": [("layers.0.attn.q", 0)]}, ins.SiteError, "no sender lies below the receivers"),
    ({"freeze": ("mlps",)}, ins.InputError, r"it can be \('heads',\) or"),
    ({"metric": None}, ins.InputError, "path_patching needs a metric"),
    ({"corrupted": CORRUPTED[:, :4]}, ins.TokenError, "do not line up"),
]


@pytest.mark.parametrize(("how", "error", "said"), BAD, ids=[said for _, _, said in BAD])
def test_what_is_no_path_says_why(how, error, said):
    given = {"corrupted": CORRUPTED, "metric": METRIC} | how
    with pytest.raises(error, match=said):
        path_patching(gpt2(), CLEAN, **given)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text"])
def test_nothing_patched_is_0_all_of_it_is_1_and_what_only_frozen_parts_could_carry_does_not_arrive(name):
    model = ins.open(build(name))
    own, other = (ins.run(model, x, read=["layers.*.attn.z", "*.mlp_out", "*.resid_post"]) for x in (CORRUPTED, CLEAN))
    first, last, at = "layers.0.attn.z", f"layers.{model.n_layers - 1}.resid_post", 2
    held = [ins.patch(s, own) for s in own if s.endswith(("attn.z", "mlp_out")) and s != first]
    sent = ins.patch(first, other, at=at)
    edits = [*([ins.patch(s, own)] for s in own), [ins.patch(last, other)], [sent, *held], [sent]]
    effect = ins.sweep(model, CLEAN, CORRUPTED, edits=edits, metric=METRIC).normalised()
    assert float(effect[:-3].abs().max()) < 1e-4
    assert float(effect[-3]) == pytest.approx(1.0, abs=1e-4)
    assert float(effect[-2].abs()) < 1e-4  # only later heads could bring it to the last token
    assert float(effect[-1].abs()) > 1e-2


def test_positions_are_a_list_or_a_tuple():
    one, two = (path_patching(gpt2(), CLEAN, CORRUPTED, metric=METRIC, positions=p) for p in ([2, -1], (2, -1)))
    torch.testing.assert_close(one.values, two.values)
