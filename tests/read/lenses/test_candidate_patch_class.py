"""Candidates, states in other prompts, and classes of patches: against the model's own scores."""

import pytest
import torch
import transformers

import inscape as ins
from inscape.core.errors import ModelError
from inscape.models.toy.words import word_tokenizer
from inscape.read.behaviour.continuations import continuation_log_probs
from inscape.read.lenses.candidates import candidate_lens
from inscape.read.lenses.images import class_lens
from inscape.read.lenses.patching import patch_lens
from tests.common.small import gpt2
from tests.common.zoo import build, inputs_for
from tests.common.zoo_others import IMAGE, jittered
from tests.read.planted import silent_gpt2

WORDS = [f"w{i}" for i in range(60)]


def spoken() -> "ins.Model":
    return ins.open(gpt2().module, tokenizer=word_tokenizer(WORDS))


def test_the_last_layer_gives_candidates_their_own_probability_of_one_token_or_several() -> None:
    model = spoken()
    prompts, some = ["w1 w2 w3", "w9 w8"], [" w4", " w5 w6", " w5 w7 w8"]
    read = candidate_lens(model, prompts, some)
    whole = continuation_log_probs(model, [p for p in prompts for _ in some], some * 2).view(2, 3)
    torch.testing.assert_close(read.log_prob[-1], whole, atol=1e-4, rtol=1e-4)
    assert read.n_tokens[0].tolist() == [1, 2, 3]
    assert torch.equal(read.best[-1], whole.argmax(1))
    assert read.swapped is not None
    torch.testing.assert_close(read.swapped[-1], whole.flip(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(read.share.sum(-1), torch.ones(3, 2))
    first = candidate_lens(model, prompts, [[" w4", " w5 w6"], [" w7"]], of="first", control=None)
    p = ins.run(model, prompts, output="last").output.logits[:, -1].log_softmax(-1)
    ids = model.tokenizer.convert_tokens_to_ids
    torch.testing.assert_close(first.log_prob[-1, 0], p[0, [ids("w4"), ids("w5")]], atol=1e-4, rtol=1e-4)
    assert bool(first.log_prob[:, 1, 1].isnan().all())
    assert first.rank[-1, 1, 0] == (p[1] > p[1, ids("w7")]).sum() + 1
    assert bool((first.settled() <= 2).all())


def test_candidates_that_cannot_be_asked_are_refused() -> None:
    model = spoken()
    with pytest.raises(ins.InputError, match="begin with the same token"):
        candidate_lens(model, ["w1"], [" w2 w3", " w2 w4"], of="first")
    with pytest.raises(ins.InputError, match="of is 'sum' or 'first'"):
        candidate_lens(model, ["w1"], [" w2"], of="mean")
    with pytest.raises(ins.InputError, match="2 prompts and 1 lists"):
        candidate_lens(model, ["w1", "w2"], [[" w2"]])


def test_a_state_put_where_it_came_from_changes_nothing() -> None:
    model = spoken()
    prompt = "w1 w2 w3 w4"
    read = patch_lens(model, prompt, prompt, k=4)
    p = ins.run(model, prompt, output="last").output.logits[0, -1].softmax(-1)
    for layer in range(3):
        torch.testing.assert_close(read.probability[layer, 0], p.topk(4).values, atol=1e-5, rtol=1e-4)
        assert torch.equal(read.top[layer, 0], p.topk(4).indices)
    assert torch.equal(read.plain, p.topk(4).indices)


def test_a_state_of_the_last_layer_says_its_own_next_token_in_any_prompt_and_the_control_says_another() -> None:
    model = spoken()
    prompts = ["w1 w2 w3 w4", "w9 w8"]
    p = ins.run(model, prompts, output="last").output.logits[:, -1].log_softmax(-1)
    answers = p.argmax(-1).tolist()
    read = patch_lens(model, prompts, "w30 w31 w32", answers=answers)
    assert read.rank is not None
    assert read.log_prob is not None
    assert read.rank[-1].tolist() == [1, 1]
    torch.testing.assert_close(read.log_prob[-1], p.amax(-1), atol=1e-4, rtol=1e-4)
    inner = ins.run(model, prompts, read="layers.2.resid_post")
    assert read.control_log_prob is not None
    all_p = ins.run(model, prompts).output.logits.log_softmax(-1)
    mine = read.control_log_prob[-1, 1]
    others = all_p[1][inner.mask[1]][:-1, answers[1]]
    assert bool(((others - mine).abs() < 1e-4).any()), "the control is the state of another position of that prompt"
    moved = patch_lens(model, prompts, "w30 w31 w32", layers="layers.0.resid_post", to="layers.2.resid_post")
    logits = silent_read(model, ins.run(model, prompts, read="layers.0.resid_post", reduce="last"))
    assert torch.equal(moved.top[0, :, 0], logits.argmax(-1))


def silent_read(model: "ins.Model", trace: "ins.Trace") -> torch.Tensor:
    return model.module.lm_head(model.module.transformer.ln_f(trace["layers.0.resid_post"]))


def test_a_model_that_adds_nothing_decodes_every_layer_alike() -> None:
    module = silent_gpt2().module
    model = ins.open(module, tokenizer=word_tokenizer(WORDS))
    read = patch_lens(model, "w1 w2 w3", "w5 w6", k=1)
    assert len(set(read.top[:, 0, 0].tolist())) == 1


def test_patches_that_cannot_be_made_are_refused() -> None:
    model = spoken()
    with pytest.raises(ins.InputError, match="2 answers for 1 inputs"):
        patch_lens(model, "w1 w2", "w5", answers=[1, 2])
    with pytest.raises(ins.InputError, match="position 7 and another one"):
        patch_lens(model, "w1 w2", "w5", at=7)


def test_the_class_token_after_the_last_layer_says_what_the_classifier_says() -> None:
    module = jittered(lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGE, num_labels=7)))
    model, inputs = ins.open(module), inputs_for("vit")
    read = class_lens(model, inputs, k=2)
    own = ins.run(model, inputs).output.logits.softmax(-1)
    assert read.rank.shape == (3, 2, 17)  # a class token and 16 patches
    torch.testing.assert_close(read.probability[-1, :, 0], own.topk(2).values, atol=1e-5, rtol=1e-4)
    assert torch.equal(read.final[:, 3], own.argmax(-1))
    assert float(read.kl[-1, :, 0].max()) < 1e-5
    with torch.no_grad():
        hidden = module.vit(**inputs).last_hidden_state  # past the norm
        patch = module.classifier(hidden[:, 5]).softmax(-1)
    torch.testing.assert_close(read.probability[-1, :, 5], patch.topk(2).values, atol=1e-5, rtol=1e-4)
    assert "vit.layernorm" in read.how
    assert "classifier" in read.how
    assert read.control is not None
    assert class_lens(model, inputs, control=None).control is None


@pytest.mark.parametrize(
    ("name", "says"), [("dinov2", "does not read one token alone"), ("bert", "not one row of scores an image")]
)
def test_classifiers_that_read_more_than_one_token_are_refused(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        class_lens(ins.open(build(name)), inputs_for(name))
    with pytest.raises(ins.InputError, match="none of this lens"):
        class_lens(ins.open(build("vit")), inputs_for("vit"), control="x")
