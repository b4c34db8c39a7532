"""Expert use, scores and tuning: counts by hand, a planted router, nothing on random labels, and every message."""

import copy

import pytest
import torch

import inscape as ins
from inscape.core.errors import EditError, InputError, ModelError, TokenError
from inscape.steer.experts.scores import expert_edits, score_experts
from inscape.steer.experts.tuning import tune_experts
from inscape.steer.experts.use import expert_layers, expert_use, n_experts
from inscape.steer.targets import target_losses
from tests.common.zoo import build

MOE = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "gpt_oss", "jamba", "qwen3_next")
ROWS = [[5, 9, 13, 17, 21], [6, 10], [7, 11, 15]]
SIGN = 40  # a token that goes to one expert in the planted model


def planted() -> ins.Model:
    """Mixtral whose second layer sends the token SIGN to expert 3, and no other token there."""
    module = copy.deepcopy(build("mixtral"))
    with torch.no_grad():
        table = module.model.embed_tokens.weight
        table[:, :2] = torch.tensor([0.0, 1.0])
        table[SIGN, :2] = torch.tensor([1.0, 0.0])
        for layer in module.model.layers:  # nobody else writes where the mark is
            layer.self_attn.o_proj.weight[:2] = 0.0
            layer.mlp.experts.down_proj[:, :2] = 0.0
            layer.mlp.gate.weight.zero_()  # every token goes the same way
        module.model.layers[1].mlp.gate.weight[3, :2] = torch.tensor([50.0, -50.0])
    return ins.open(module)


def texts(sign: bool, n: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(41, 96, (n, 8), generator=generator)
    if sign:
        rows[:, 3] = SIGN
    return rows.tolist()


@pytest.mark.parametrize("name", MOE)
def test_use_is_what_counting_each_text_alone_finds(name):
    model = ins.open(build(name))
    for weigh in ("count", "weight"):
        found = expert_use(model, ROWS, weigh=weigh, batch=2)
        for i, row in enumerate(ROWS):
            for j, layer in enumerate(expert_layers(model)):
                read = ins.run(model, [row], read=[f"{layer}.router.experts", f"{layer}.router.weights"])
                chosen, weights = (read[f"{layer}.router.{n}"][0] for n in ("experts", "weights"))
                for e in range(n_experts(model, layer)):
                    w = weights.float() if weigh == "weight" else torch.ones(weights.shape)
                    assert float(found.use[i, j, e]) == pytest.approx(float(w[chosen == e].sum()) / len(row), abs=1e-5)
        assert found.tokens.tolist() == [5, 2, 3]


def test_use_at_chosen_tokens_and_in_sums():
    model = ins.open(build("olmoe"))
    last = expert_use(model, ROWS, at="last")
    assert last.tokens.tolist() == [1, 1, 1]
    torch.testing.assert_close(last.use.sum(2), torch.full((3, 3), 2.0))
    sums = expert_use(model, ROWS, per_token=False)
    torch.testing.assert_close(sums.use.sum(2), 2.0 * sums.tokens[:, None].expand(3, 3))
    masked = expert_use(model, ROWS, edits=[ins.mask_experts("layers.1", [0, 1])])
    assert not bool(masked.use[:, 1, :2].any())
    assert masked.mean.shape == (3, 8)


def test_a_planted_expert_ranks_first_and_is_the_only_one_found():
    model = planted()
    scores = score_experts(model, texts(True, 40, 1), texts(False, 40, 1), shuffles=300)  # alike but for one token
    assert scores.top(1) == [(1, 3)]
    assert float(scores.p[1, 3]) < 0.01
    assert float(scores.score[1, 3]) == pytest.approx(1 / 8)
    assert scores.top(1, side="negative") != [(1, 3)]
    assert int((scores.score > 0).sum()) == 1
    assert len(scores.null) == 300
    assert len(scores.ranked()) == 12
    assert scores.ranked()[0] == ((1, 3), pytest.approx(float(scores.score[1, 3])))


def test_shuffled_labels_and_like_texts_find_nothing():
    model = planted()
    shuffled = score_experts(model, texts(True, 30, 1), texts(False, 30, 2), control="shuffle", shuffles=300)
    alike = score_experts(ins.open(build("mixtral")), texts(False, 30, 3), texts(False, 30, 4), shuffles=300)
    assert float(shuffled.p.min()) > 0.02
    assert float(alike.p.min()) > 0.02
    assert shuffled.control == "shuffle"


def test_matched_sets_keep_layers_and_leave_the_chosen_out():
    scores = score_experts(ins.open(build("olmoe")), texts(True, 10, 1), texts(False, 10, 2), shuffles=20)
    chosen = [(0, 1), (0, 2), (2, 5)]
    sets = scores.matched(chosen, 12, nearest=4, seed=3)
    assert len(sets) == 12
    for one in sets:
        assert sorted(layer for layer, _ in one) == [0, 0, 2]
        assert not set(one) & set(chosen)
    assert sets == scores.matched(chosen, 12, nearest=4, seed=3)


def test_edits_of_chosen_experts_are_one_a_layer():
    model = ins.open(build("olmoe"))
    edits = expert_edits(model, [(2, 5), (0, 1), (2, 3)], "mask", at="prompt")
    assert [e.site for e in edits] == ["layers.0.router.logits", "layers.2.router.logits"]
    assert not bool(expert_use(model, ROWS, edits=edits).use[:, 2, [3, 5]].any())
    assert expert_edits(model, [(1, 0)], "scale", 0.5)[0].site == "layers.1.router.weights"


def test_tuned_experts_make_targets_likelier_and_nothing_else_moves():
    module = copy.deepcopy(build("olmoe"))
    model = ins.open(module)
    before = {n: p.clone() for n, p in module.named_parameters()}
    prompts, targets = [[5, 9, 13], [6, 10]], [[17, 21], [18, 22]]
    chosen = [(1, e) for e in range(8)]
    for kind in ("boost", "scale"):
        tuned = tune_experts(model, chosen, prompts, targets, kind=kind, steps=25)
        assert tuned.after < tuned.before
        again = target_losses(model, prompts, targets, edits=tuned.edits())
        assert float(again.mean()) == pytest.approx(tuned.after, abs=1e-4)
        none = target_losses(model, prompts, targets, edits=tuned.edits(0.0))
        assert float(none.mean()) == pytest.approx(tuned.before, abs=1e-4)
    for n, p in module.named_parameters():
        assert torch.equal(p, before[n])
        assert p.requires_grad
    shuffled = tune_experts(
        model, chosen, prompts, targets, steps=2, control="shuffle", positions="prompt", penalty=0.1
    )
    assert shuffled.control == "shuffle"


def test_every_message_says_what_to_do():
    model = ins.open(build("olmoe"))
    with pytest.raises(ModelError, match=r"has no routed experts that inscape can see[\s\S]*layers\.\*\.mlp\.act"):
        expert_use(ins.open(build("llama")), ROWS)
    with pytest.raises(InputError, match="weigh='gate' can be 'count' or 'weight'"):
        expert_use(model, ROWS, weigh="gate")
    with pytest.raises(InputError, match="nothing is generated here"):
        expert_use(model, ROWS, at="generated")
    with pytest.raises(TokenError, match=r"text 1 has no token at=4\.\n  leave it out"):
        expert_use(model, ROWS, at=4)
    with pytest.raises(InputError, match="1 positive and 3 negative texts: give two of each"):
        score_experts(model, ROWS[:1], ROWS)
    with pytest.raises(InputError, match="control='random' can be 'shuffle' or None"):
        score_experts(model, ROWS, ROWS, control="random")
    scores = score_experts(model, ROWS, ROWS, shuffles=10)
    with pytest.raises(InputError, match=r"top\(25\): the positive texts use \d+ experts more"):
        scores.top(25)
    with pytest.raises(InputError, match="side='left' can be 'positive' or 'negative'"):
        scores.top(1, side="left")
    for kind, amount, said in (
        ("drop", None, "kind='drop' is none of 'mask', 'force', 'boost', 'scale'"),
        ("boost", None, "'boost' takes an amount"),
        ("mask", 1.0, "'mask' takes no amount"),
    ):
        with pytest.raises(EditError, match=said):
            expert_edits(model, [(0, 1)], kind, amount)
    with pytest.raises(EditError, match="chosen is empty"):
        expert_edits(model, [], "mask")
    with pytest.raises(EditError, match="there is no layer 9: the model has 3"):
        expert_edits(model, [(9, 1)], "mask")


def test_every_message_of_tuning():
    model, pair = ins.open(build("olmoe")), ([[5, 9]], [[13]])
    with pytest.raises(InputError, match="kind='mask' can be 'boost' or 'scale'"):
        tune_experts(model, [(0, 1)], *pair, kind="mask")
    with pytest.raises(InputError, match="positions='first' is none of"):
        tune_experts(model, [(0, 1)], *pair, positions="first")
    with pytest.raises(InputError, match="control='random' can be"):
        tune_experts(model, [(0, 1)], *pair, control="random")
    with pytest.raises(InputError, match="exchanges targets: give two examples"):
        tune_experts(model, [(0, 1)], *pair, control="shuffle")
    with pytest.raises(InputError, match=r"chosen=\[\(7, 1\)\]: give pairs"):
        tune_experts(model, [(7, 1)], *pair)
    unused = [e for e in range(8) if not bool(expert_use(model, [[5, 9, 13]]).use[0, 2, e])]
    with pytest.raises(InputError, match=r"no target depends on the chosen experts[\s\S]*score_experts"):
        tune_experts(model, [(2, unused[0])], *pair, kind="scale")
