"""lm-evaluation-harness's steering files: what its own code does with them, and what in them is refused."""

import math
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.steer.export.lm_eval import load_lm_eval, save_lm_eval
from tests.common.small import direction, gpt2
from tests.common.zoo import build, inputs_for

IDS = torch.tensor([[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 18, 22]])


def their_add(acts: Tensor, vector: Tensor, head_index: int | None) -> Tensor:
    """`SteeredModel.add` of 0.4.13, written out."""
    assert head_index is None
    return acts + vector


def their_clamp(acts: Tensor, direction: Tensor, value: float, head_index: int | None, bias: Tensor | None) -> Tensor:
    """`SteeredModel.clamp` of 0.4.13, written out."""
    assert head_index is None
    acts = acts if bias is None else acts - bias
    clamped = acts + direction * (value - torch.sum(acts * direction, dim=-1, keepdim=True))
    return clamped if bias is None else clamped + bias


def steered(path: Path, module: Any, ids: Any, add: Any = their_add, clamp: Any = their_clamp) -> Tensor:
    """Logits as `SteeredModel` makes them: hooks on what modules of `base_model` give."""
    hooks = {}
    for hook, entry in torch.load(path, weights_only=False).items():
        vector, head = entry["steering_vector"], entry.get("head_index", None)
        number, bias = float(entry.get("steering_coefficient", 1.0)), entry.get("bias", None)
        if entry["action"] == "add":
            assert bias is None
            hooks[hook] = partial(add, vector=vector * number, head_index=head)
        else:
            unit = vector / torch.norm(vector)
            hooks[hook] = partial(clamp, direction=unit, value=number, bias=bias, head_index=head)
    handles = []
    for name, part in module.base_model.named_modules():
        if name in hooks:

            def changed(_: Any, __: Any, out: Any, name: str = name) -> Any:
                return (hooks[name](out[0]), *out[1:]) if isinstance(out, tuple) else hooks[name](out)

            handles.append(part.register_forward_hook(changed))
    assert len(handles) == len(hooks)
    try:
        with torch.no_grad():
            return module(ids).logits
    finally:
        for handle in handles:
            handle.remove()


PLANS = {
    "one": lambda: [ins.add(direction(), 2.0)],
    "several": lambda: [ins.add(direction(f"layers.{i}.resid_post", i), i + 0.5) for i in range(3)],
    "summed": lambda: [ins.add(direction(seed=i), i + 0.5) for i in range(3)],
    "start": lambda: [ins.add(direction("layers.2.resid_pre"))],
    "branches": lambda: [ins.add(direction("layers.1.mlp_out")), ins.project_out(direction("layers.*.attn_out"))],
    "set": lambda: [
        ins.clamp(direction("layers.1.resid_post"), 5, 5),
        ins.clamp(direction("layers.2.mlp_out"), -2, -2),
    ],
    "module": lambda: [ins.add(direction("@transformer.h.1.mlp.c_fc", width=128))],
    "norm": lambda: [ins.add(direction("final_norm"), 0.5)],
}


@pytest.mark.parametrize("name", PLANS)
def test_their_code_does_what_the_edits_do(tmp_path: Path, name: str) -> None:
    model, path = gpt2(), tmp_path / "plan.pt"
    save_lm_eval(path, model, PLANS[name]())
    want = ins.run(model, IDS, edits=PLANS[name](), output=True).output.logits
    torch.testing.assert_close(steered(path, model.module, IDS), want, atol=1e-4, rtol=1e-4)
    back = ins.run(model, IDS, edits=load_lm_eval(path, model), output=True).output.logits
    torch.testing.assert_close(back, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt_neox", "opt", "qwen3_moe", "mamba"])
def test_the_hookpoints_of_families(tmp_path: Path, name: str) -> None:
    model, path, ids = ins.open(build(name)), tmp_path / "plan.pt", inputs_for(name)["input_ids"]
    edits = [ins.add(direction(f"layers.{i}.resid_post", i), 2.0) for i in (0, 1)]
    save_lm_eval(path, model, edits)
    want = ins.run(model, ids, edits=edits, output=True).output.logits
    torch.testing.assert_close(steered(path, model.module, ids), want, atol=1e-4, rtol=1e-4)
    assert [e.site for e in load_lm_eval(path, model)] == [e.site for e in edits]


def test_lm_eval_itself_does_what_the_edits_do(tmp_path: Path) -> None:
    hf_steered = pytest.importorskip("lm_eval.models.hf_steered")
    model, path, theirs = gpt2(), tmp_path / "plan.pt", hf_steered.SteeredModel
    for plan in PLANS.values():
        save_lm_eval(path, model, plan())
        want = ins.run(model, IDS, edits=plan(), output=True).output.logits
        got = steered(path, model.module, IDS, theirs.add, theirs.clamp)
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_a_bias_moves_the_value_that_is_set(tmp_path: Path) -> None:
    model, path, bias = gpt2(), tmp_path / "theirs.pth", torch.linspace(-1, 1, 32)
    entry = {"steering_vector": 3 * direction().vector, "steering_coefficient": 2, "action": "clamp", "bias": bias}
    torch.save({"h.1": entry}, path)
    (edit,) = load_lm_eval(path, model)
    assert edit.site == "layers.1.resid_post"
    want = steered(path, model.module, IDS)
    torch.testing.assert_close(ins.run(model, IDS, edits=[edit], output=True).output.logits, want, atol=1e-4, rtol=1e-4)


REFUSED_EDITS = {
    "positions": (lambda: ins.add(direction(), at=-1), "acts at some tokens only"),
    "bounds": (lambda: ins.clamp(direction(), 1, 2), "depends on the value"),
    "one bound": (lambda: ins.clamp(direction(), 1), "depends on the value"),
    "a row's strength": (lambda: ins.add(direction(), torch.tensor([1.0, 2.0])), "not one map for every token"),
    "units": (lambda: ins.add(direction(), units=[1]), "some heads or units only"),
    "a scale": (lambda: ins.scale("layers.1.resid_post", 2.0), "adds a vector or sets the projection on one"),
    "a function": (lambda: ins.edit("layers.1.resid_post", torch.tanh), "adds a vector or sets"),
    "what a module reads": (lambda: ins.add(direction("layers.1.mlp.act", width=128)), "none as it leaves it"),
    "the middle": (lambda: ins.add(direction("layers.1.resid_mid")), "none as it leaves it"),
    "the head": (lambda: ins.add(direction("logits", width=64)), "outside the base model"),
    "neurons": (lambda: ins.clamp("layers.1.mlp_out", 0, 0), "adds a vector or sets the projection on one"),
}


@pytest.mark.parametrize("name", REFUSED_EDITS)
def test_what_lm_eval_cannot_do_is_refused(tmp_path: Path, name: str) -> None:
    edit, match = REFUSED_EDITS[name]
    with pytest.raises(ins.EditError, match=match):
        save_lm_eval(tmp_path / "x.pt", gpt2(), edit())
    assert not list(tmp_path.iterdir())


def test_two_edits_of_one_module_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ins.EditError, match=r"h\.1 has an edit already"):
        save_lm_eval(
            tmp_path / "x.pt", gpt2(), [ins.add(direction()), ins.project_out(direction("layers.2.resid_pre"))]
        )


def test_writing_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ins.InputError, match=r"by its suffix, \.pt or \.pth"):
        save_lm_eval(tmp_path / "x.safetensors", gpt2(), ins.add(direction()))
    with pytest.raises(ins.InputError, match="the list is empty"):
        save_lm_eval(tmp_path / "x.pt", gpt2(), [])
    with pytest.raises(ins.FileError, match="choose a folder"):
        save_lm_eval(tmp_path / "none" / "x.pt", gpt2(), ins.add(direction()))


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("this code must not run",))


V = torch.ones(32)
FILES: "dict[str, tuple[Any, type[Exception], str]]" = {
    "code": ({"h.1": {"steering_vector": V, "action": Bomb()}}, ins.FileError, "more than tensors, numbers and text"),
    "a list": ([1, 2], ins.FileError, "holds list, not entries by module"),
    "nothing": ({}, ins.FileError, "no steering file"),
    "no entry": ({"h.1": V}, ins.FileError, r"h\.1 is no entry"),
    "no vector": ({"h.1": {"action": "add"}}, ins.FileError, "is no entry"),
    "unknown field": ({"h.1": {"steering_vector": V, "action": "add", "mask": 1}}, ins.FileError, "is no entry"),
    "matrix": ({"h.1": {"steering_vector": V[None], "action": "add"}}, ins.FileError, "no finite vector"),
    "whole numbers": ({"h.1": {"steering_vector": V.long(), "action": "add"}}, ins.FileError, "no finite vector"),
    "nan": ({"h.1": {"steering_vector": V * math.nan, "action": "add"}}, ins.FileError, "no finite vector"),
    "bias": ({"h.1": {"steering_vector": V, "action": "add", "bias": V}}, ins.FileError, "which lm-eval refuses too"),
    "wide bias": ({"h.1": {"steering_vector": V, "action": "clamp", "bias": V[:3]}}, ins.FileError, "another width"),
    "coefficient": (
        {"h.1": {"steering_vector": V, "action": "add", "steering_coefficient": "2"}}, ins.FileError, "is no number",
    ),
    "action": ({"h.1": {"steering_vector": V, "action": "mul"}}, ins.FileError, "'mul'; lm-eval knows add and clamp"),
    "no action": ({"h.1": {"steering_vector": V}}, ins.FileError, "asks for None"),
    "head": ({"h.1": {"steering_vector": V, "action": "add", "head_index": 1}}, ins.ModelError, "is for head 1"),
    "no head": ({"h.1": {"steering_vector": V, "action": "add", "head_index": -1}}, ins.FileError, "has the head -1"),
    "width": ({"h.1": {"steering_vector": V[:5], "action": "add"}}, ins.ModelError, "a vector of 5 entries"),
    "module": ({"layers.1": {"steering_vector": V, "action": "add"}}, ins.ModelError, "steers 'layers.1', and"),
    "number": ({3: {"steering_vector": V, "action": "add"}}, ins.ModelError, "steers 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_wrong_says_so(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    content, error, match = FILES[name]
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(error, match=match):
        load_lm_eval(tmp_path / "x.pt", gpt2())
    assert "must not run" not in capsys.readouterr().out


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(ins.FileError, match="there is no file"):
        load_lm_eval(path, gpt2())
    save_lm_eval(path, gpt2(), ins.add(direction()))
    data = path.read_bytes()
    for end in (0, 1, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:end])
        with pytest.raises(ins.FileError, match="is damaged"):
            load_lm_eval(path, gpt2())
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ins.FileError, match="is damaged, or holds more"):
        load_lm_eval(path, gpt2())
