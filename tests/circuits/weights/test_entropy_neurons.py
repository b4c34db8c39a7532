"""A neuron that moves all logits alike is found; numbers are those of the loop; chance is what draws give."""

import numpy as np
import pytest
import torch
import transformers

import inscape as ins
from inscape.circuits.weights.entropy_neurons import EntropyNeurons, entropy_neurons, overlap, same_neurons


def model(seed=0, planted=()):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=False, bos_token_id=1, eos_token_id=None,
        )  # fmt: skip
        module = transformers.LlamaForCausalLM(config).eval()
        module.model.norm.weight.add_(torch.randn(16) * 0.2)
        even = torch.linalg.lstsq(
            module.lm_head.weight / module.lm_head.weight.norm(dim=1, keepdim=True), torch.ones(50)
        )
        for i in planted:
            module.model.layers[1].mlp.down_proj.weight[:, i] = even.solution / even.solution.norm() * 0.5
        return ins.open(module)


def test_numbers_are_those_of_the_loop():
    opened = model()
    found = entropy_neurons(opened, k=3)
    down, head = (
        w.detach() for w in (opened.module.model.layers[1].mlp.down_proj.weight, opened.module.lm_head.weight)
    )
    for i in range(40):
        cos = torch.stack([torch.cosine_similarity(down[:, i], row, dim=0) for row in head]).double()
        assert float(found.variance[i]) == pytest.approx(float(cos.var(correction=0)), rel=1e-4)
        assert float(found.norm[i]) == pytest.approx(float(down[:, i].norm()), rel=1e-5)
    assert len(found.pool) == 10
    assert set(found.neurons) <= set(found.pool)
    order = sorted(found.pool, key=lambda i: float(found.variance[i]))
    assert list(found.neurons) == order[:3]
    torch.testing.assert_close(found.ratio, found.norm / found.variance.log())


def test_a_planted_even_writer_is_found():
    found = entropy_neurons(model(planted=(7, 21)), k=2)
    assert set(found.neurons) == {7, 21}
    assert found.layer == "layers.1"


def test_folding_is_the_same_on_a_model_that_was_folded_by_hand():
    plain, folded = model(), model()
    with torch.no_grad():
        head = folded.module.lm_head.weight
        head.mul_(folded.module.model.norm.weight)
        folded.module.model.norm.weight.fill_(1.0)
        head.sub_(head.mean(0))
    one, two = entropy_neurons(plain, folded=True), entropy_neurons(folded, folded=False)
    torch.testing.assert_close(one.variance, two.variance, rtol=1e-4, atol=1e-8)
    assert one.neurons == two.neurons
    assert not torch.allclose(one.variance, entropy_neurons(plain).variance, rtol=1e-2)


def test_chance_is_what_drawn_sets_share():
    def of(neurons):
        return EntropyNeurons("layers.0", tuple(neurons), torch.ones(30), torch.ones(30), tuple(range(8)), False)

    rng = np.random.default_rng(0)
    drawn = [overlap(of(range(5)), of(rng.permutation(30)[:5].tolist())) for _ in range(3000)]
    assert np.mean([o.iou for o in drawn]) == pytest.approx(drawn[0].chance, abs=0.005)
    assert np.mean([o.p <= 0.05 for o in drawn]) <= 0.05
    same = overlap(of(range(5)), of(range(5)))
    assert same.iou == 1.0
    assert same.p == pytest.approx(1 / 142506)  # one of 30 over 5


def test_unrelated_models_share_no_more_than_chance():
    test = same_neurons(k=5, pool=0.5)
    ious = [test(model(0), model(seed))["iou"] for seed in range(1, 21)]
    assert np.mean(ious) < 3 * test(model(0), model(1))["iou by chance"]
    assert test(model(0), model(0)) == {
        "iou": 1.0,
        "iou by chance": pytest.approx(0.0727, abs=1e-3),
        "ratios": pytest.approx(1.0),
    }


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ins.InputError, match="k=99 neurons of a pool of 10"):
        entropy_neurons(model(), k=99)
    opened = model()
    with torch.no_grad():
        opened.module.lm_head = torch.nn.Sequential(opened.module.lm_head)
    with pytest.raises(ins.ModelError, match="no rows to compare"):
        entropy_neurons(ins.open(opened.module))
    small = EntropyNeurons("layers.0", (1,), torch.ones(3), torch.ones(3), (1,), False)
    with pytest.raises(ins.InputError, match="share no numbering"):
        overlap(small, entropy_neurons(model()))
