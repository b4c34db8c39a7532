"""vllm-lens's steering vectors: what its worker does with them, and what in a file of them is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.steer.export.vllm_lens import load_vllm_lens, save_vllm_lens
from tests.common.small import direction, gpt2
from tests.common.zoo import build, inputs_for

IDS = torch.tensor([[1, 5, 9, 13, 17, 21]])


def decoded(d: dict[str, Any]) -> Tensor:
    """Their `deserialize_tensor` for what is not compressed."""
    assert "compression" not in d
    return torch.from_numpy(np.frombuffer(base64.b64decode(d["data"]), np.dtype(d["dtype"])).reshape(d["shape"]).copy())


def their_steering(entry: dict[str, Any], target: Tensor, layer: int) -> None:
    """`_apply_steering` of vllm-lens's worker, for one request whose first token is in the slice [pos, d]."""
    if layer not in entry["layer_indices"]:
        return
    values = decoded(entry["activations"])[entry["layer_indices"].index(layer)]

    def matched(h: Tensor, v: Tensor) -> Tensor:
        return v * (h.norm(dim=-1, keepdim=True) / (v.norm(dim=-1, keepdim=True) + 1e-6)) if entry["norm_match"] else v

    if values.dim() == 1:
        target += matched(target, values[None]) * entry["scale"]
        return
    places = entry["position_indices"] if entry["position_indices"] is not None else range(len(values))
    for place, value in zip(places, values, strict=False):
        target[place] += matched(target[place], value) * entry["scale"]


def steered(path: Path, model: "ins.Model", ids: Tensor) -> Tensor:
    entries, handles = json.loads(path.read_text()), []
    for layer, block in enumerate(model.blocks):

        def hook(_: Any, __: Any, out: Any, layer: int = layer) -> Any:
            target = (out[0] if isinstance(out, tuple) else out).clone()
            for entry in entries:
                their_steering(entry, target[0], layer)
            return (target, *out[1:]) if isinstance(out, tuple) else target

        handles.append(block.module.register_forward_hook(hook))
    try:
        with torch.no_grad():
            return model.module(ids).logits
    finally:
        for handle in handles:
            handle.remove()


PLANS = {
    "one": lambda: [ins.add(direction(), 2.0)],
    "every layer": lambda: [ins.add(direction(f"layers.{i}.resid_post", i), i + 0.5) for i in range(3)],
    "two at a layer": lambda: [ins.add(direction(seed=0), 2.0), ins.add(direction(seed=1), 0.3, unit="relative")],
    "start": lambda: [ins.add(direction("layers.2.resid_pre"))],
    "units": lambda: [ins.add(direction(), 2.0, unit="norm"), ins.add(direction(seed=1), -0.5, unit="relative")],
    "a position": lambda: [ins.add(direction(), 3.0, at=2)],
    "positions": lambda: [ins.add(direction(), 0.5, unit="relative", at=[1, 4]), ins.add(direction(seed=1), at=[0])],
}


@pytest.mark.parametrize("name", PLANS)
def test_their_worker_does_what_the_edits_do(tmp_path: Path, name: str) -> None:
    model, path = gpt2(), tmp_path / "plan.json"
    save_vllm_lens(path, model, PLANS[name]())
    want = ins.run(model, IDS, edits=PLANS[name](), output=True).output.logits
    torch.testing.assert_close(steered(path, model, IDS), want, atol=1e-4, rtol=1e-4)
    back = load_vllm_lens(path, model)
    torch.testing.assert_close(ins.run(model, IDS, edits=back, output=True).output.logits, want, atol=1e-4, rtol=1e-4)
    again = tmp_path / "again.json"
    save_vllm_lens(again, model, back)
    assert len(json.loads(again.read_text())) == len(PLANS[name]())


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "opt"])
def test_the_layers_of_families(tmp_path: Path, name: str) -> None:
    model, path, ids = ins.open(build(name)), tmp_path / "plan.json", inputs_for(name)["input_ids"][:1]
    edits = [ins.add(direction("layers.1.resid_post"), 2.0)]
    save_vllm_lens(path, model, edits)
    want = ins.run(model, ids, edits=edits, output=True).output.logits
    torch.testing.assert_close(steered(path, model, ids), want, atol=1e-4, rtol=1e-4)


def entry(values: Tensor | None = None, **changes: Any) -> dict[str, Any]:
    values = torch.ones(1, 32) if values is None else values
    kept = values.view(torch.int16) if values.dtype == torch.bfloat16 else values
    coded = {
        "data": base64.b64encode(kept.numpy().tobytes()).decode(),
        "dtype": str(kept.dtype).removeprefix("torch."),
        "original_dtype": str(values.dtype),
        "shape": list(values.shape),
    }
    coded |= changes.pop("coded", {})
    return {
        "activations": coded,
        "layer_indices": [1],
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    } | changes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("compressed", [False, True])
def test_their_tensors_are_read(tmp_path: Path, dtype: torch.dtype, compressed: bool) -> None:
    values = torch.randn(2, 32).to(dtype)
    one = entry(values, layer_indices=[2, 0])
    if compressed:
        pyarrow = pytest.importorskip("pyarrow")
        raw = base64.b64decode(one["activations"]["data"])
        packed = pyarrow.Codec("zstd").compress(raw, asbytes=True)
        one["activations"] |= {"data": base64.b64encode(packed).decode(), "compression": "zstd"}
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(json.dumps([one])))  # a string in JSON: as it stands in a request
    found = load_vllm_lens(path, gpt2())
    assert [e.site for e in found] == ["layers.2.resid_post", "layers.0.resid_post"]
    assert torch.equal(torch.stack([e.tensors["vector"] for e in found]), values.float())


def test_positions_left_out_are_the_first_ones(tmp_path: Path) -> None:
    path, values = tmp_path / "theirs.json", torch.randn(1, 3, 32)
    for positions, want in ((None, [0, 1, 2]), ([4, 2], [4, 2]), ([4, 2, 5, 0], [4, 2, 5])):
        path.write_text(json.dumps(entry(values, position_indices=positions, norm_match=True)))
        found = load_vllm_lens(path, gpt2())
        assert [e.at for e in found] == want
        assert all(torch.equal(e.tensors["vector"], v) for e, v in zip(found, values[0], strict=False))


REFUSED = {
    "other positions": (lambda: ins.add(direction(), at=-1), "counts positions from the start"),
    "generated": (lambda: ins.add(direction(), at="generated"), "counts positions from the start"),
    "rows": (lambda: ins.add(direction(), rows=[0]), "acts at some rows only"),
    "units": (lambda: ins.add(direction(), units=[1]), "adds one vector to the stream"),
    "length kept": (lambda: ins.add(direction(), keep_norm=True), "depends on the value"),
    "both": (lambda: ins.add(direction(), 0.1, unit="relative", keep_norm=True), "does not keep lengths"),
    "schedule": (lambda: ins.add(direction(), ins.schedule([1.0, 2.0])), "not do the same at every token"),
    "relative schedule": (lambda: ins.add(direction(), ins.schedule([1.0]), unit="relative"), "with one strength"),
    "projection": (lambda: ins.project_out(direction()), "adds one vector to the stream"),
    "place": (lambda: ins.add(direction("layers.1.mlp_out")), "steers the stream after a block"),
    "first": (lambda: ins.add(direction("layers.0.resid_pre")), "steers the stream after a block"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_vllm_lens_cannot_do_is_refused(tmp_path: Path, name: str) -> None:
    edit, match = REFUSED[name]
    with pytest.raises(ins.EditError, match=match):
        save_vllm_lens(tmp_path / "x.json", gpt2(), edit())
    assert not list(tmp_path.iterdir())


NAN = torch.full((1, 32), float("nan"))
FILES: "dict[str, tuple[Any, type[Exception], str]]" = {
    "nothing": ([], ins.FileError, "holds no list of steering vectors"),
    "a number": (3, ins.FileError, "holds no list"),
    "no entry": ([1], ins.FileError, "is no steering vector"),
    "a field": (entry(mode="replace"), ins.FileError, "is no steering vector; those have activations"),
    "no tensor": (entry() | {"activations": [1.0]}, ins.FileError, "has no tensor"),
    "code": (entry() | {"activations": {"cloudpickle": "gASV"}}, ins.FileError, "has no tensor"),
    "type": (entry(coded={"dtype": "object"}), ins.FileError, "tensor of 'object'"),
    "type as list": (entry(coded={"shape": "32"}), ins.FileError, "shape '32'"),
    "half type": (entry(coded={"original_dtype": "torch.bfloat16"}), ins.FileError, "originally 'torch.bfloat16'"),
    "base64": (entry(coded={"data": "?"}), ins.FileError, "no base64"),
    "no data": (entry(coded={"data": None}), ins.FileError, "no base64"),
    "short": (entry(coded={"shape": [1, 33]}), ins.FileError, "128 bytes where its shape takes 132"),
    "huge": (entry(coded={"shape": [1, 2**40]}), ins.FileError, "more than any steering vector"),
    "codec": (entry(coded={"compression": "lz4"}), ins.FileError, "compressed by 'lz4'"),
    "no zstd": (entry(coded={"compression": "zstd"}), ins.FileError, "is damaged"),
    "nan": (entry(NAN), ins.FileError, "NaN or infinite"),
    "axes": (entry(torch.ones(32)), ins.FileError, r"shape \(32,\) for the layers \[1\]"),
    "layers": (entry(layer_indices=[1, 2]), ins.FileError, r"for the layers \[1, 2\]"),
    "layer": (entry(layer_indices=[-1]), ins.FileError, r"for the layers \[-1\]"),
    "twice": (entry(torch.ones(2, 32), layer_indices=[1, 1]), ins.FileError, r"for the layers \[1, 1\]"),
    "scale": (entry(scale="2"), ins.FileError, "is no number"),
    "match": (entry(norm_match=1), ins.FileError, "neither true nor false"),
    "positions": (entry(position_indices=[-1]), ins.FileError, r"the positions \[-1\]"),
    "deep": (entry(layer_indices=[3]), ins.ModelError, "is for layer 3; this model has 3"),
    "wide": (entry(torch.ones(1, 5)), ins.ModelError, "vectors of 5 entries"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_wrong_says_so(tmp_path: Path, name: str) -> None:
    content, error, match = FILES[name]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    with pytest.raises(error, match=match):
        load_vllm_lens(path, gpt2())


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ins.FileError, match="there is no file"):
        load_vllm_lens(path, gpt2())
    with pytest.raises(ins.InputError, match="the list is empty"):
        save_vllm_lens(path, gpt2(), [])
    with pytest.raises(ins.FileError, match="choose a folder"):
        save_vllm_lens(tmp_path / "none" / "x.json", gpt2(), ins.add(direction()))
    save_vllm_lens(path, gpt2(), ins.add(direction()))
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(ins.FileError, match="damaged or no JSON"):
            load_vllm_lens(path, gpt2())
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ins.FileError, match="damaged or no JSON"):
        load_vllm_lens(path, gpt2())
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ins.FileError, match="damaged or no JSON"):
        load_vllm_lens(path, gpt2())
