"""Fingerprints: the same for the same model anywhere, another for any other."""

import copy
import subprocess
import sys

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from inscape.models.fingerprint import SAMPLES, essentials, fingerprint, tokenizer_fingerprint
from inscape.models.load import load
from tests.models.tiny_gguf import tiny_qwen2


def test_it_is_sixteen_hex_digits():
    assert len(fingerprint(tiny_qwen2())) == 16
    int(fingerprint(tiny_qwen2()), 16)


def test_the_same_model_has_the_same_one_after_copying_and_saving(tmp_path):
    module = tiny_qwen2()
    module.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert fingerprint(again) == fingerprint(copy.deepcopy(module)) == fingerprint(module)


def test_it_survives_saving_and_loading_in_every_family(tiny, tmp_path):
    if not hasattr(tiny, "save_pretrained"):
        pytest.skip("a plain module has no save_pretrained")
    tiny.save_pretrained(tmp_path)
    assert fingerprint(load(tmp_path).module) == fingerprint(tiny)


def test_the_same_model_has_the_same_one_in_another_process():
    program = (
        "import torch\nfrom torch import nn\nfrom inscape.models.fingerprint import fingerprint\n"
        "torch.manual_seed(0)\nprint(fingerprint(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    torch.manual_seed(0)
    assert fingerprint(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))) == said


def test_mode_and_gradients_do_not_count():
    module = tiny_qwen2()
    before = fingerprint(module)
    assert fingerprint(module.train().requires_grad_(False)) == before


def test_nothing_is_changed_by_taking_it():
    module = tiny_qwen2()
    before = copy.deepcopy(module.state_dict())
    fingerprint(module)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@given(seed=st.integers(1, 2**31))
def test_other_weights_have_another_one(seed):
    torch.manual_seed(0)
    first = fingerprint(nn.Linear(5, 3))
    torch.manual_seed(seed)
    assert fingerprint(nn.Linear(5, 3)) != first


def test_every_value_of_a_small_tensor_counts():
    for i in range(SAMPLES):
        module = nn.Linear(SAMPLES, 1, bias=False)
        before = fingerprint(module)
        with torch.no_grad():
            module.weight[0, i] += 1
        assert fingerprint(module) != before


def test_dtype_names_class_and_buffers_count():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    seen = {fingerprint(module)}
    module[1].running_mean += 1
    seen.add(fingerprint(module))
    seen.add(fingerprint(copy.deepcopy(module).double()))
    seen.add(fingerprint(nn.ModuleList(module)))
    seen.add(fingerprint(nn.Sequential(nn.Identity(), *module)))
    assert len(seen) == 5


def test_a_setting_that_changes_the_numbers_counts_and_one_that_does_not_is_left_out():
    module = tiny_qwen2()
    before = fingerprint(module)
    module.config.use_cache = False
    module.config._name_or_path = "elsewhere"
    assert fingerprint(module) == before
    module.config.rope_parameters = {"rope_type": "default", "rope_theta": 5.0}
    assert fingerprint(module) != before


def test_settings_of_inner_configurations_count():
    config = transformers.CLIPConfig()
    assert essentials(config)["vision_config"]["hidden_act"] == "quick_gelu"
    assert essentials({"head_dim": 8, "seed": 1, "rms_norm_eps": None}) == {"head_dim": 8}
    assert essentials(None) == {}


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0),
        torch.zeros(0),
        torch.randn(4, 5).T,
        torch.randn(40).to(torch.float8_e4m3fn).view(5, 8).T,
        torch.randn(40).to(torch.bfloat16),
        torch.ones(40, dtype=torch.bool),
        torch.arange(40, dtype=torch.int8),
        torch.randn(40, dtype=torch.complex64),
        torch.randn(3, 3, device="meta"),
    ],
    ids=("number", "empty", "transposed", "float8", "bfloat16", "bool", "int8", "complex", "meta"),
)
def test_tensors_of_every_kind_can_be_named(tensor):
    module = nn.Module()
    module.weight = nn.Parameter(tensor, requires_grad=False)
    assert len(fingerprint(module)) == 16


def test_tied_weights_are_counted_once_under_their_first_name():
    module = nn.Module()
    module.a = nn.Linear(3, 3, bias=False)
    one = fingerprint(module)
    module.b = nn.Module()
    module.b.weight = module.a.weight
    assert fingerprint(module) == one


def words(*names: str, **special: str) -> transformers.PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="?", **special)


def test_a_tokenizers_fingerprint_follows_what_it_does(tmp_path):
    first = tokenizer_fingerprint(words("?", "a", "b"))
    assert len(first) == 16
    assert tokenizer_fingerprint(words("?", "b", "a")) != first
    assert tokenizer_fingerprint(words("?", "a", "b", "c")) != first
    assert tokenizer_fingerprint(words("?", "a", "b", eos_token="b")) != first
    words("?", "a", "b").save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    again.padding_side, again.chat_template = "left", "{{ messages }}"
    assert tokenizer_fingerprint(again) == first


def test_a_tokenizer_of_another_library_or_none_can_be_named():
    class Letters:
        def encode(self, text):
            return [ord(c) for c in text]

    assert tokenizer_fingerprint(None) == ""
    assert len(tokenizer_fingerprint(Letters())) == 16
    assert len(tokenizer_fingerprint(words("?", "a").backend_tokenizer)) == 16
