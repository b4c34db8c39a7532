"""Toy nets: opened by name, with a tokenizer; their files; and every message."""

import json
from importlib.util import find_spec

import pytest
import torch
from torch import nn

import inscape as ins
from inscape.core.errors import FileError, InputError, MissingExtraError, ModelError
from inscape.models.load import load
from inscape.models.toy import TOYS
from inscape.models.toy import files as toy_files
from inscape.models.toy.toy import SHIPPED, Toy, story
from inscape.models.toy.words import SPECIAL, word_tokenizer

SMALL = 3_000_000  # bytes of one toy in the package


@pytest.mark.parametrize("toy", [toy for toy in TOYS if toy.shipped], ids=lambda toy: toy.name)
def test_a_shipped_toy_opens_with_what_its_story_says(toy):
    model = ins.open(toy.name)
    told = story(SHIPPED / toy.key)
    assert model.fingerprint == told["fingerprint"]
    assert told["checks"]
    assert not model.module.training
    assert model.dtype == torch.float32
    assert model.source == toy.name
    assert not model.notes
    assert sum(p.stat().st_size for p in (SHIPPED / toy.key).iterdir()) < SMALL


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.name)
def test_every_toy_has_its_training_script(toy):
    assert find_spec(f"inscape.dynamics.toys.{toy.key}")


def test_no_file_of_a_toy_is_left_without_one():
    assert {p.name for p in SHIPPED.iterdir()} == {toy.key for toy in TOYS if toy.shipped}


def test_a_toy_reads_text_word_by_word():
    model = ins.open("toy-induction")
    assert model.tokenizer.tokenize("ba be mo") == ["ba", "be", "mo"]
    trace = ins.run(model, "ba be mo ti ba be mo", output="last")
    assert model.tokenizer.decode(trace.output.logits[0, -1].argmax()) == "ti"


def test_a_tokenizer_cuts_words_spaces_or_characters_and_survives_saving(tmp_path):
    words = word_tokenizer(["a", "b", "+", "c2"])
    assert words("a +b  c2 z").input_ids == [1, 4, 6, 5, 7, 3]
    assert words(" a", add_special_tokens=False).input_ids == [4]
    assert word_tokenizer(["a+b"], split="spaces", bos=False)("a+b").input_ids == [4]
    letters = word_tokenizer(["a", "b", " "], split="characters")
    assert letters("ab a").input_ids == [1, 4, 5, 6, 4]
    assert letters.decode([4, 5, 6, 4]) == "ab a"
    assert (words.pad_token_id, words.bos_token_id, words.eos_token_id, words.unk_token_id) == (0, 1, 2, 3)
    assert SPECIAL == ("<pad>", "<bos>", "<eos>", "<unk>")
    words.save_pretrained(tmp_path)
    again = load(nn.Linear(1, 1), tokenizer=tmp_path).tokenizer
    assert again("a +b  c2 z").input_ids == [1, 4, 6, 5, 7, 3]
    assert words(["a", "a b"], padding=True, return_tensors="pt").attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_tokenizer_of_impossible_words_says_so():
    with pytest.raises(InputError, match="'a' is in the list of words twice"):
        word_tokenizer(["a", "b", "a"])
    with pytest.raises(InputError, match="split='x': a text is cut at 'words', 'spaces', 'characters'"):
        word_tokenizer(["a"], split="x")


def test_a_misspelled_toy_names_the_nearest_and_lists_all():
    with pytest.raises(
        ModelError, match=r"did you mean 'toy-induction'\?[\s\S]*small nets that come with inscape: toy-"
    ):
        ins.open("toy-inducton")
    with pytest.raises(ModelError, match=r"'toy-zzz' is no model[\s\S]*small nets that come with inscape: toy-"):
        ins.open("toy-zzz")


def test_without_the_extra_a_toy_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"opening 'toy-induction' needs[\s\S]*inscape\[hf\]"):
        ins.open("toy-induction")


def test_a_package_without_the_files_says_to_install_again(monkeypatch, tmp_path):
    monkeypatch.setattr(toy_files, "SHIPPED", tmp_path)
    with pytest.raises(FileError, match=r"the files of 'toy-induction' are not in this installation"):
        ins.open("toy-induction")


class Doubling(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.weight * x


def test_a_toy_that_is_not_shipped_is_trained_once_and_kept(monkeypatch, tmp_path):
    """With a class of its own, to see that too."""
    import types

    from inscape.dynamics.toys import making
    from inscape.train import fit

    trainings, good = [], [False]

    def train(seed=0, *, steps=60, checkpoint=None, progress=None):
        trainings.append(seed)
        module = Doubling()
        target = lambda m, _: (m(torch.ones(2)) - 2).square().mean()  # noqa: E731
        history = fit(module, [0], target, steps=steps, lr=0.1, checkpoint=checkpoint, progress=progress)
        return making.Trained(module, None, history, store_as=torch.float16)

    def check(model):
        error = (model.module.weight.detach() - 2).abs().max()
        return {"error": making.Check(float(error), at_most=0.2 if good[0] else -1.0)}

    script = types.SimpleNamespace(train=train, check=check)
    monkeypatch.setattr(making, "import_module", lambda name: script)
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path))
    toy = Toy("toy-doubling", "doubles", shipped=False, build=Doubling)
    monkeypatch.setattr("inscape.models.load.TOYS", (*TOYS, toy))
    with pytest.raises(making.NotLearnedError, match=r"60 steps and has not learned its task: error is .*at most -1"):
        ins.open("toy-doubling")
    assert not list(tmp_path.glob("toys/doubling*"))
    good[0] = True
    said = []
    first = ins.open("toy-doubling", progress=lambda message, fraction=None: said.append(message))
    second = ins.open("toy-doubling")
    assert trainings == [0, 0]
    assert torch.equal(first.module.weight, second.module.weight)
    assert second.dtype == torch.float32
    folder = next(tmp_path.glob("toys/doubling*"))
    assert story(folder)["checks"]["error"]["value"] <= 0.2
    assert json.loads((folder / "toy.json").read_text())["steps"] == 60
    assert not list(tmp_path.glob("toys/.*checkpoint"))
    assert any("checking" in message for message in said)


def test_a_cache_that_cannot_be_written_says_which(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INSCAPE_CACHE", str(tmp_path / "file"))
    toy = Toy("toy-doubling", "doubles", shipped=False)
    with pytest.raises(
        FileError, match=r"is trained on first use, and its files cannot be written[\s\S]*INSCAPE_CACHE"
    ):
        toy_files.toy_folder(toy)
