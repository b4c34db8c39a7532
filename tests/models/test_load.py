"""Loading from a folder, a hub id, a module: what comes back, and every message of what cannot be loaded."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from inscape.core.errors import FileError, MissingExtraError, ModelError
from inscape.models import hub
from inscape.models.folder import fault, safetensors_fault
from inscape.models.load import _label, load
from tests.models.tiny_gguf import tiny_qwen2

TOKENS = torch.arange(9)[None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_qwen2().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "tiny"))


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


# modules


def test_a_module_is_taken_as_it_is():
    module = tiny_qwen2().train()
    before = {name: p.data_ptr() for name, p in module.named_parameters()}
    loaded = load(module, tokenizer=object())
    assert loaded.module is module
    assert module.training
    assert {name: p.data_ptr() for name, p in module.named_parameters()} == before
    assert loaded.source == ""


def test_a_module_changes_dtype_only_when_asked():
    module = nn.Linear(2, 2).double()
    assert load(module).module.weight.dtype == torch.float64
    assert load(module, dtype=torch.bfloat16).module.weight.dtype == torch.bfloat16


def test_a_module_without_weights_is_taken():
    assert load(nn.ReLU()).tokenizer is None


def test_a_module_on_a_device_that_is_not_there_says_so():
    with pytest.raises(ModelError, match=r"cannot be moved to cuda:99[\s\S]*a device has to be there"):
        load(nn.Linear(2, 2), device="cuda:99")


def test_a_module_spread_over_devices_is_not_moved():
    module = nn.Linear(2, 2)
    module.hf_device_map = {"a": 0, "b": "cpu"}
    assert load(module).module is module
    with pytest.raises(ModelError, match="spread over several devices"):
        load(module, device="cpu")


def test_a_state_dict_is_told_from_a_module():
    with pytest.raises(ModelError, match=r"a state dict \(OrderedDict\) is no model[\s\S]*with its weights loaded"):
        _label(nn.Linear(1, 1).state_dict())
    with pytest.raises(ModelError, match=r"int is nothing that can be opened[\s\S]*nn.Module"):
        _label(3)


# folders


def test_a_folder_gives_the_class_its_config_names_bit_equal_and_in_eval(saved):
    loaded = load(saved)
    assert type(loaded.module) is transformers.Qwen2ForCausalLM
    assert not loaded.module.training
    assert loaded.source == str(saved)
    assert loaded.notes == ()
    assert (loaded.tokenizer, loaded.processor) == (None, None)
    with torch.no_grad():
        assert torch.equal(loaded.module(TOKENS).logits, tiny_qwen2()(TOKENS).logits)


@pytest.mark.parametrize("wanted", [True, False])
def test_loading_shows_no_bars_of_transformers_and_leaves_its_switches_as_they_were(wanted, saved, folder, capfd):
    bars, hub_bars = transformers.utils.logging, huggingface_hub.utils
    was, hub_was = bars.is_progress_bar_enabled(), hub_bars.are_progress_bars_disabled()
    try:
        bars.enable_progress_bar()
        if not wanted:
            hub_bars.disable_progress_bars()
        load(saved)
        (folder / "model.safetensors").write_bytes(b"no")
        with pytest.raises(FileError):
            load(folder)
        assert bars.is_progress_bar_enabled()
        assert hub_bars.are_progress_bars_disabled() is not wanted
        assert "Loading weights" not in capfd.readouterr().err
    finally:
        (bars.enable_progress_bar if was else bars.disable_progress_bar)()
        (hub_bars.disable_progress_bars if hub_was else hub_bars.enable_progress_bars)()


def test_attention_is_what_transformers_chooses(saved):
    plain = transformers.Qwen2ForCausalLM.from_pretrained(saved)
    assert load(saved).module.config._attn_implementation == plain.config._attn_implementation


def test_a_folder_keeps_the_dtype_it_was_written_in(tmp_path):
    tiny_qwen2().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load(tmp_path).module.dtype == torch.bfloat16
    assert load(tmp_path, dtype=torch.float32).module.dtype == torch.float32


def test_a_folder_can_be_given_as_a_relative_string(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    assert load("tiny").source == "tiny"
    assert load("./tiny", device="cpu").source == "./tiny"


def test_without_architectures_the_class_that_the_weights_fill_is_found(folder):
    edit_config(folder, architectures=...)
    assert type(load(folder).module) is transformers.Qwen2ForCausalLM


def test_without_architectures_a_model_without_head_is_opened_without(tmp_path):
    torch.manual_seed(0)
    small = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    transformers.BertModel(small).save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=...)
    assert type(load(tmp_path).module) is transformers.BertModel


def test_weights_the_class_does_not_use_are_a_note(folder):
    edit_config(folder, architectures=["Qwen2Model"])
    loaded = load(folder)
    assert type(loaded.module) is transformers.Qwen2Model
    assert len(loaded.notes) == 1
    assert loaded.notes[0] == "1 tensors in the files are no part of Qwen2Model: lm_head.weight"


def test_a_tokenizer_in_the_folder_is_loaded_and_a_given_one_wins(folder):
    words = {"<unk>": 0, "a": 1, "b": 2}
    raw = transformers.PreTrainedTokenizerFast(tokenizer_object=_words(words), unk_token="<unk>")
    raw.save_pretrained(folder)
    assert load(folder).tokenizer("a b")["input_ids"] == [1, 2]
    mine = object()
    assert load(folder, tokenizer=mine).tokenizer is mine
    assert load(nn.ReLU(), tokenizer=str(folder)).tokenizer("b")["input_ids"] == [2]


def test_a_broken_tokenizer_is_named(folder):
    (folder / "tokenizer.json").write_text("{")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ModelError, match=r"the tokenizer of .* cannot be read: [\s\S]*tokenizer=my_tokenizer"):
        load(folder)


def test_a_tokenizer_that_is_nowhere_is_named(saved):
    with pytest.raises(ModelError, match=r"there is no tokenizer in .*; it holds config[\s\S]*tokenizer object"):
        load(nn.ReLU(), tokenizer=saved)
    with pytest.raises(ModelError, match=r"there is no processor in .*; it holds config[\s\S]*processor object"):
        load(nn.ReLU(), processor=saved)
    with pytest.raises(FileError, match=r"no file or folder '\./nowhere'"):
        load(nn.ReLU(), tokenizer="./nowhere")


def test_a_tokenizer_without_its_vocabulary_is_refused(folder):
    (folder / "tokenizer_config.json").write_text("{}")  # transformers makes one of a single word from this
    with pytest.raises(ModelError, match=r"has settings \(tokenizer_config.json\) and no vocabulary"):
        load(folder)


def test_a_processor_that_cannot_be_made_is_a_note(folder):
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "NoSuchProcessor"}')
    loaded = load(folder)
    assert loaded.processor is None  # transformers would give a tokenizer it made up
    assert loaded.notes[0].startswith("no processor: ")
    (folder / "preprocessor_config.json").write_text("{")
    assert load(folder).notes[0].startswith("no processor: ")


def test_an_image_processor_in_the_folder_is_loaded(folder):
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))  # even beside a model that reads text
    photo = torch.zeros(20, 30, 3, dtype=torch.uint8).numpy()
    assert load(folder).processor(images=[photo], return_tensors="pt")["pixel_values"].shape == (1, 3, 8, 8)


def test_progress_says_what_is_loaded(folder):
    said = []
    load(folder, progress=lambda message, fraction: said.append((message, fraction)))
    assert said == [(f"loading the weights of {folder}", None), (f"loading the tokenizer of {folder}", None)]


# folders with a fault


def test_a_folder_without_config_says_what_it_holds(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(FileError, match=r"has no config.json[\s\S]*it holds notes.txt[\s\S]*save_pretrained"):
        load(tmp_path)


def test_a_folder_without_config_points_to_what_can_be_opened(tmp_path, saved):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(FileError, match=r"open the file itself: ins.open\('.*model.gguf'\)"):
        load(tmp_path)
    with pytest.raises(FileError, match=r"one level down: ins.open\('.*tiny'\)"):
        load(saved.parent)
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(FileError, match="adapter weights"):
        load(tmp_path)


def test_a_cut_off_safetensors_file_is_named(folder):
    weights = folder / "model.safetensors"
    size = weights.stat().st_size
    with weights.open("r+b") as file:
        file.truncate(size - 100)
    with pytest.raises(FileError, match=rf"model.safetensors is cut off: {size - 100:,} bytes of {size:,}"):
        load(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is cut off: 0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\xff" * 64, "is no safetensors file"),
        (b"\x64" + b"\x00" * 7 + b"{}", "its header alone needs 108"),
        (b"\x02" + b"\x00" * 7 + b"{]", "is no readable safetensors file"),
        (b"\x02" + b"\x00" * 7 + b"{}+++", "is longer than it says: 13 bytes for 10"),
    ],
)
def test_what_is_no_safetensors_file_is_told_apart(tmp_path, content, said):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert said in (safetensors_fault(path) or "")


def test_a_whole_safetensors_file_has_no_fault(saved):
    assert fault(saved) is None


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    with pytest.raises(FileError, match=r"1 of 2 weight files are missing, first model-00002"):
        load(folder)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "cannot be read"),
        ('{"weight_map": {}}', "names no file of weights"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "names files outside the folder"),
    ],
)
def test_a_bad_index_is_named(folder, index, said):
    (folder / "model.safetensors.index.json").write_text(index)
    assert said in (fault(folder) or "")


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileError, match="there are no weights"):
        load(folder)


@pytest.mark.parametrize("config", ["{", "[]"])
def test_a_config_that_is_no_json_is_named(folder, config):
    (folder / "config.json").write_text(config)
    with pytest.raises(FileError, match=r"config.json (cannot be read|holds no JSON object)"):
        load(folder)


def test_missing_weights_are_an_error_and_no_random_numbers(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    said = r"lacks 1 of the weights that Qwen2ForCausalLM needs: model.layers.1.mlp.up_proj.weight"
    with pytest.raises(ModelError, match=said + r"[\s\S]*random numbers"):
        load(folder)


def test_weights_of_another_shape_are_an_error(folder):
    edit_config(folder, intermediate_size=50)
    with pytest.raises(ModelError, match=r"weights of other shapes than its config.json says"):
        load(folder)


def test_pickled_weights_of_plain_tensors_are_read(folder):
    (folder / "model.safetensors").unlink()
    torch.save(tiny_qwen2().state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(load(folder).module.lm_head.weight, tiny_qwen2().lm_head.weight)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_pickled_weights_that_would_run_code_are_refused_and_run_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"a": Bomb()}, file)
    with pytest.raises(FileError, match=r"pickle files that are not plain tensors[\s\S]*does not run code"):
        load(folder)
    assert not (folder / "exploded").exists()


def test_a_class_transformers_does_not_have_is_named(folder):
    edit_config(folder, architectures=["Qwen99ForCausalLM"])
    with pytest.raises(ModelError, match=r"is a Qwen99ForCausalLM; transformers [\d.]+ has no such class"):
        load(folder)


def test_a_model_type_transformers_does_not_know_is_named(folder):
    edit_config(folder, model_type="qwen99")
    with pytest.raises(ModelError, match=r"cannot be loaded by transformers[\s\S]*may need a newer transformers"):
        load(folder)


def test_code_in_a_model_folder_is_not_run(folder):
    code = "from pathlib import Path\nPath('exploded').touch()\nclass C: pass\n"
    (folder / "evil.py").write_text(code)
    edit_config(folder, model_type="evil", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"})
    with pytest.raises(ModelError, match=r"brings code of its own, and inscape does not run code"):
        load(folder)
    own = {"AutoModelForCausalLM": "evil.C"}
    edit_config(folder, model_type="qwen2", architectures=["EvilForCausalLM"], auto_map=own)
    with pytest.raises(ModelError, match=r"has no such class, and the folder brings code of its own"):
        load(folder)
    assert not Path("exploded").exists()


# paths that are not there, and files that are no model


def test_a_wrong_path_names_the_nearest(saved):
    with pytest.raises(FileError, match=r"there is no file or folder '.*tinny'[\s\S]*did you mean '.*tiny'"):
        load(saved.parent / "tinny")


def test_a_wrong_path_says_what_the_folder_holds(saved):
    with pytest.raises(FileError, match=r"there is no file or folder[\s\S]*holds config.json"):
        load(f"{saved}/deep/er/model")
    with pytest.raises(FileError, match=r"there is no file or folder 'nothing.gguf'"):
        load("nothing.gguf")


def test_a_file_of_weights_is_told_from_a_model(saved):
    with pytest.raises(ModelError, match=r"is a file; a model is a .gguf file or a whole[\s\S]*ins.open\('.*tiny'\)"):
        load(saved / "model.safetensors")


# the hub


def test_an_unreachable_hub_says_what_was_tried(offline):
    said = r"'someone/model' cannot be opened: there is no folder[\s\S]*hub was not reachable[\s\S]*minilm-l6"
    with pytest.raises(ModelError, match=said):
        load("someone/model")


def test_an_unreachable_hub_uses_its_cache(offline, saved, tmp_path):
    home = tmp_path / "hub" / "models--someone--model"
    shutil.copytree(saved, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    loaded = load("someone/model")
    assert loaded.source == "someone/model"
    assert "hub was not reachable (OfflineModeIsEnabled)" in loaded.notes[0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("RepositoryNotFoundError", r"and none on the hub\n  \(or it is private\)"),
        ("GatedRepoError", r"behind an agreement[\s\S]*log in"),
    ],
)
def test_what_the_hub_answers_is_said(monkeypatch, error, said):
    class Refused(getattr(huggingface_hub.errors, error)):
        def __init__(self):
            Exception.__init__(self, "no")

    def answer(*_, **__):
        raise Refused

    monkeypatch.setattr(huggingface_hub, "model_info", answer)
    with pytest.raises(ModelError, match=said):
        load("someone/model")


def test_a_found_model_is_loaded_at_the_revision_that_was_found(monkeypatch):
    class Info:
        sha = "abc"

        class File:
            rfilename = "tokenizer.json"

        siblings = (File,)

    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, timeout: Info)
    assert hub.find("someone/model", ()) == hub.Found("someone/model", ("tokenizer.json",), "abc")


def test_what_can_be_no_hub_id_is_said(monkeypatch):
    with pytest.raises(ModelError, match=r"'two words' is no model[\s\S]*no valid hub id[\s\S]*gemma-3-270m"):
        load("two words")


def test_a_misspelt_demo_name_is_corrected_without_the_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "model_info", None)
    with pytest.raises(ModelError, match="did you mean 'gemma-3-270m'"):
        load("gemma3-270m")


# packages that are not installed


def test_without_transformers_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'transformers'[\s\S]*pip install 'inscape\[hf\]'"):
        load(saved)
    with pytest.raises(MissingExtraError, match=r"inscape\[hf\]"):
        load("someone/model")
    assert load(nn.ReLU()).source == ""  # a plain module needs none of it


def test_a_fault_inside_an_installed_package_is_not_taken_for_its_absence(tmp_path, monkeypatch):
    from inscape.core.extra import package

    (tmp_path / "broken_package.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all") as caught:
        package("broken_package", "hf", "this")
    assert not isinstance(caught.value, MissingExtraError)


def _words(words):
    from tokenizers import Tokenizer, models, pre_tokenizers

    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return raw
