"""The decoders' tables are data; here every entry of them is looked up in a tiny model of its family."""

import functools

import pytest
import torch
from torch import nn

from inscape.models.families._decoders import DECODERS
from inscape.models.family import Family, Tap, Taps
from tests.common.zoo_decoders import DECODER_ZOO


@functools.cache
def built(name: str) -> nn.Module:
    """Looked at, never changed, so one for all tests here."""
    return DECODER_ZOO[name]()


def families_of(module: nn.Module) -> list[Family]:
    config = module.config
    return [
        f
        for f in DECODERS
        if config.model_type in f.model_types and all(getattr(config, name) == value for name, value in f.when.items())
    ]


def alternatives(taps: Taps | None) -> list[str]:
    return [] if taps is None else [taps] if isinstance(taps, str) else list(taps)


def resolves(text: str, holder: nn.Module) -> bool:
    tap, names = Tap.parse(text), dict(holder.named_modules())
    return tap.path in names and (tap.needs is None or tap.needs in names)


def taps_of(family: Family) -> list[str]:
    stack = family.stacks[0]
    modules = (stack.attention, stack.attention_calls, stack.experts)
    return [t for taps in (*stack.sites.values(), *modules) for t in alternatives(taps)]


def numbers_of(tap: Tap) -> list[str]:
    """Names that the configuration must know for this tap."""
    names = [bound.lstrip("-") for bound in tap.span or ()] + [tap.scale or ""]
    return [name for name in names if name and not name.isdigit()]


@pytest.mark.parametrize("name", DECODER_ZOO)
def test_every_tiny_decoder_has_exactly_one_table(name: str) -> None:
    found = families_of(built(name))
    assert len(found) == 1, [family.name for family in found]
    assert len(found[0].stacks) == 1


@pytest.mark.parametrize("name", DECODER_ZOO)
def test_stack_embedding_last_norm_and_head_are_found_from_the_root(name: str) -> None:
    module = built(name)
    (family,) = families_of(module)
    (stack,) = family.stacks
    assert isinstance(module.get_submodule(stack.blocks), nn.ModuleList)
    for taps in (stack.embed, stack.final_norm, family.logits):
        assert taps is None or any(resolves(text, module) for text in alternatives(taps)), taps
    assert all(block.get_submodule(norm) for block in module.get_submodule(stack.blocks) for norm in stack.norms)


@pytest.mark.parametrize("name", DECODER_ZOO)
def test_every_layer_has_a_stream_and_a_part_that_writes_to_it(name: str) -> None:
    module = built(name)
    (family,) = families_of(module)
    sites = family.stacks[0].sites
    for block in module.get_submodule(family.stacks[0].blocks):
        there = {site for site, taps in sites.items() if any(resolves(text, block) for text in alternatives(taps))}
        assert {"resid_pre", "resid_post"} <= there
        assert there & {"attn_out", "ssm_out", "mlp_out"}


@pytest.mark.parametrize("family", DECODERS, ids=lambda family: family.name)
def test_every_tap_of_a_table_exists_in_a_layer_of_some_tiny_model_of_the_family(family: Family) -> None:
    modules = [m for m in map(built, DECODER_ZOO) if families_of(m) == [family]]
    blocks = [block for m in modules for block in m.get_submodule(family.stacks[0].blocks)]
    nowhere = [text for text in taps_of(family) if not any(resolves(text, block) for block in blocks)]
    assert blocks
    assert not nowhere, f"{family.name}: no layer of any tiny model has {nowhere}"
    for text in taps_of(family):
        for number in numbers_of(Tap.parse(text)):
            assert all(isinstance(getattr(m.config, number), (int, float)) for m in modules), (text, number)


def test_every_model_type_that_a_table_claims_has_a_tiny_model() -> None:
    claimed = {model_type for family in DECODERS for model_type in family.model_types}
    assert claimed == {built(name).config.model_type for name in DECODER_ZOO}


def test_family_names_are_unique() -> None:
    names = [family.name for family in DECODERS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", DECODER_ZOO)
def test_a_tiny_decoder_is_reproducible_and_has_no_trivial_parameter(name: str) -> None:
    first, second = built(name), DECODER_ZOO[name]()
    assert not first.training
    for (path, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), path
        assert a.isfinite().all(), path
        assert not ((a == 0) | (a == 1)).any(), path


@pytest.mark.parametrize(
    ("text", "tap"),
    [
        ("", Tap("")),
        (":in", Tap("", "in")),
        ("mlp.experts:in@2", Tap("mlp.experts", "in", 2)),
        ("mlp.gate_up_proj[0/2]", Tap("mlp.gate_up_proj", part=(0, 2))),
        ("mixer.x_proj[:rank]", Tap("mixer.x_proj", span=("", "rank"))),
        ("mixer.x_proj[rank:-state]", Tap("mixer.x_proj", span=("rank", "-state"))),
        ("mixer.in_proj[-8:]", Tap("mixer.in_proj", span=("-8", ""))),
        ("self_attn * residual_multiplier", Tap("self_attn", scale="residual_multiplier")),
        ("mixer:in if mixer.q_proj", Tap("mixer", "in", needs="mixer.q_proj")),
    ],
)
def test_a_tap_is_read_as_it_is_written(text: str, tap: Tap) -> None:
    assert Tap.parse(text) == tap


@pytest.mark.parametrize(
    "text", ["a b", "a:out", "a[0]", "a[1/2:3]", "a[b/2]", "a *", "a if", "a ifb", "a@x", "a[:", "a-b"]
)
def test_what_is_no_tap_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no tap"):
        Tap.parse(text)
