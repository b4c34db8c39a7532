"""What is no pair of prompts is refused in the same words by every method that takes pairs."""

import pytest
import torch
import transformers

import inscape as ins
from inscape import tasks
from inscape.circuits import weights
from inscape.circuits.attribution.edges import edge_attribution
from inscape.circuits.attribution.patching import attribution_patching
from inscape.circuits.discover import Trail, discover
from inscape.circuits.knockout import knock_out
from inscape.circuits.paths import path_patching
from tests.common.small import gpt2
from tests.common.tokenizers import word_tokenizer
from tests.common.zoo import build

CLEAN = torch.tensor([[5, 9, 13, 17, 21, 25, 29, 33]])
CORRUPTED = torch.tensor([[5, 9, 13, 40, 21, 25, 41, 33]])
METRIC = ins.logit_diff(3, 7)
WORDS = ["red", "green", "blue", "black", "white", "brown"]

METHODS = {
    "sweep": ins.sweep,
    "path_patching": path_patching,
    "discover": lambda *given, **more: discover(*given, trail=(Trail("mover", positions=-1),), **more),
    "knock_out": lambda model, *given, **more: knock_out(model, [(1, 0)], *given, n_sets=2, **more),
    "attribution_patching": attribution_patching,
    "edge_attribution": edge_attribution,
}
BAD = {
    "two lengths": ((CLEAN, CORRUPTED[:, :6], METRIC), ins.TokenError, r"8 and 6 tokens, .*\n  clean .*'33'\]\n"),
    "equal prompts": ((CLEAN, CLEAN, METRIC), ins.InputError, "pair 0: the clean .* are the same, so that"),
    "other numbers": ((CLEAN, CORRUPTED.repeat(2, 1), METRIC), ins.InputError, "1 clean prompts and 2 corrupted ones"),
    "one prompt": ((CLEAN, None, METRIC), ins.InputError, "{} compares two prompts, and there is one here"),
    "no metric": ((CLEAN, CORRUPTED, None), ins.InputError, "{} needs a metric, such as"),
}  # fmt: skip


@pytest.fixture(scope="module")
def worded() -> tuple["ins.Model", "tasks.Pairs"]:
    """A model of a few words, and one pair for it."""
    tokenizer = word_tokenizer(WORDS)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    model = ins.open(transformers.LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
    return model, tasks.Pairs.of(model, ["red green"], ["blue green"], [" white"], [" brown"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", BAD)
def test_what_is_no_pair_says_so(method: str, what: str) -> None:
    (clean, corrupted, metric), error, said = BAD[what]
    with pytest.raises(error, match=said.format(method)):
        METHODS[method](gpt2(), clean, corrupted, metric=metric)


@pytest.mark.parametrize("method", METHODS)
def test_pairs_of_a_task_bring_both_prompts_and_the_metric(method: str, worded: tuple) -> None:
    model, pairs = worded
    plain = METHODS[method](model, pairs.clean, pairs.corrupted, metric=ins.logit_diff("white", "brown"))
    given = METHODS[method](model, pairs)
    for name in ("values", "faithfulness"):
        if hasattr(given, name):
            assert str(getattr(given, name)) == str(getattr(plain, name))
    with pytest.raises(ins.InputError, match=r"holds both prompts of every pair; leave corrupted= out"):
        METHODS[method](model, pairs, pairs.corrupted)


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_of_several_tokens_is_refused_with_its_tokens(method: str, worded: tuple) -> None:
    model, pairs = worded
    with pytest.raises(ins.TokenError, match=r"answer='white red' is 2 tokens here: 'white', 'red'.\n  choose an ans"):
        METHODS[method](model, pairs.clean, pairs.corrupted, metric=ins.logit_diff("white red", "brown"))


def test_only_a_sweep_and_its_estimate_take_positions_by_role_and_say_so() -> None:
    for method in METHODS:
        with pytest.raises(ins.TokenError) as found:
            METHODS[method](gpt2(), CLEAN, CORRUPTED[:, :6], metric=METRIC)
        assert ("positions={role: positions}" in str(found.value)) == (method in ("sweep", "attribution_patching"))


@pytest.mark.parametrize("method", METHODS)
def test_pairs_without_contrast_are_named_before_anything_is_divided(method: str) -> None:
    with pytest.raises(ins.InputError, match="1 pairs are no contrast: "):
        METHODS[method](gpt2(), CLEAN, CORRUPTED, metric=lambda x: x.sum(-1) * 0).normalised()


def test_a_model_without_attention_says_what_it_has() -> None:
    model = ins.open(build("mamba"))
    for call in (lambda: path_patching(model, CLEAN, CORRUPTED, metric=METRIC), lambda: weights.heads(model)):
        with pytest.raises(ins.InscapeError, match="there is no attention; what the mixer adds is ssm_out"):
            call()
    for method in ("discover", "knock_out"):
        with pytest.raises(ins.InscapeError, match="no attention"):
            METHODS[method](model, CLEAN, CORRUPTED, metric=METRIC)
    for method in ("sweep", "attribution_patching"):  # its stream can be patched all the same
        assert METHODS[method](model, CLEAN, CORRUPTED, metric=METRIC).values.isfinite().all()
