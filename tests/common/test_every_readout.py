"""What every readout keeps to, whoever wrote it: classes with fit and score in `inscape.read` are found by looking."""

import json
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.core import readout as contract
from inscape.core.readout import real_rows
from inscape.core.readout_file import learned_of, save_readout
from inscape.core.tensor_file import write_tensors
from inscape.read.readouts import load_readout, readouts
from tests.common.readouts import CHANCE, N, checked_here, made, planted, stored

EVERY = pytest.mark.parametrize("cls", checked_here(), ids=lambda c: c.__name__)
LABELLED = pytest.mark.parametrize(
    "cls", [c for c in checked_here() if c.target != "nothing"], ids=lambda c: c.__name__
)
CUDA = [pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no card"))]


def fitted(cls: Any, x: Any, y: Any, **settings: Any) -> Any:
    probe = made(cls, **settings)
    assert (probe.fit(x, y) if y is not None else probe.fit(x)) is probe, "fit returns self"
    return probe


def score(probe: Any, x: Any, y: Any) -> float:
    return float(probe.score(x, y) if y is not None else probe.score(x))


def tensors_of(probe: Any) -> dict[str, Tensor]:
    found = {}
    for name, value in learned_of(probe).items():
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        found |= {f"{name}.{k}": v for k, v in inner if isinstance(v, Tensor)}
        if isinstance(value, Tensor):
            found[name] = value
    return found


def same(a: Any, b: Any, tolerance: float) -> None:
    mine, theirs = tensors_of(a), tensors_of(b)
    assert mine.keys() == theirs.keys()
    for name, x in mine.items():
        torch.testing.assert_close(x, theirs[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def tolerance(cls: Any) -> float:
    return 1e-7 if getattr(cls, "precision", "float64") == "float64" else 1e-3


def test_readouts_are_found_and_their_names_are_their_own() -> None:
    assert "MeanDifference" in [c.__name__ for c in readouts()]
    for cls in readouts():
        assert is_dataclass(cls), f"{cls.__name__} is a dataclass: its fields are its settings"
        assert getattr(cls, "target", None), f"{cls.__name__} says what y is: target, see core.readout.Readout"


@EVERY
def test_it_finds_what_is_there_and_its_score_is_of_rows_it_has_not_seen(cls: Any) -> None:
    p = planted(cls.target)
    probe = fitted(cls, p.x, p.y)
    assert score(probe, p.held_x, p.held_y) > CHANCE.get(cls.target, 0.0) + 0.25


@EVERY
def test_the_same_rows_and_seed_give_the_same_bits(cls: Any) -> None:
    p = planted(cls.target)
    torch.manual_seed(3)
    first = fitted(cls, p.x, p.y, seed=5)
    before = torch.get_rng_state()
    second = fitted(cls, p.x, p.y, seed=5)
    same(first, second, 0.0)
    assert torch.equal(before, torch.get_rng_state()), "no global generator is touched"


@EVERY
def test_a_second_fit_forgets_the_first(cls: Any) -> None:
    p, other = planted(cls.target), planted(cls.target, n=60, d=9, seed=1)
    probe = fitted(cls, other.x, other.y)
    old = set(vars(probe))
    if p.y is not None:
        probe.fit(p.x, p.y)
    else:
        probe.fit(p.x)
    fresh = fitted(cls, p.x, p.y)
    same(probe, fresh, 0.0)
    assert set(vars(probe)) == set(vars(fresh)), old
    assert {k: v for k, v in vars(probe).items() if not k.endswith("_")} == {
        k: v for k, v in vars(fresh).items() if not k.endswith("_")
    }


@EVERY
def test_it_keeps_no_rows_and_learns_in_the_precision_it_states(cls: Any) -> None:
    p = planted(cls.target)
    probe = fitted(cls, p.x, p.y)
    given = {t.untyped_storage().data_ptr() for t in (p.x, p.y) if isinstance(t, Tensor)}
    want = getattr(torch, getattr(cls, "precision", "float64"))
    assert tensors_of(probe) or learned_of(probe), "what fit learns ends in _"
    for name, value in vars(probe).items():
        assert not isinstance(value, Tensor) or name.endswith("_"), f"{name} is learned, so it ends in _"
    for name, value in tensors_of(probe).items():
        assert value.untyped_storage().data_ptr() not in given, f"{name} is a view of the rows"
        assert N not in value.shape, f"{name} has one entry a row"
        assert not value.is_floating_point() or value.dtype == want, f"{name} is {value.dtype}"
        assert not value.requires_grad


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("device", ["cpu", *CUDA])
def test_rows_of_any_type_on_any_device_are_read(cls: Any, dtype: torch.dtype, device: str) -> None:
    p = planted(cls.target)
    rows = lambda t: t.to(device, dtype) if isinstance(t, Tensor) and t.ndim == 2 else t  # noqa: E731
    plain = lambda t: rows(t).double().cpu() if isinstance(t, Tensor) and t.ndim == 2 else t  # noqa: E731
    probe = fitted(cls, rows(p.x), rows(p.y))
    same(probe, fitted(cls, plain(p.x), plain(p.y)), tolerance(cls))
    assert all(v.device.type == "cpu" for v in tensors_of(probe).values()), "what is learned lies on the CPU"
    a, b = score(probe, rows(p.held_x), rows(p.held_y)), score(probe, plain(p.held_x), plain(p.held_y))
    assert a == pytest.approx(b, abs=1e-3)


@EVERY
def test_tensors_traces_and_stores_give_the_same_numbers_also_above_a_batch(
    cls: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = planted(cls.target)
    whole = fitted(cls, p.x, p.y)
    x, y = stored(tmp_path / "store", p.x, p.y)
    monkeypatch.setattr(contract, "BATCH_BYTES", 8 * p.x.shape[1] * 17)  # 17 rows
    chunked, of_store = fitted(cls, p.x, p.y), fitted(cls, x, y)
    same(chunked, of_store, 0.0)
    same(whole, chunked, tolerance(cls))
    assert score(of_store, x, y) == pytest.approx(score(whole, p.x, p.y), abs=10 * tolerance(cls))
    mask = torch.rand(30, 16, generator=torch.Generator().manual_seed(0)) < 0.6  # as a trace has them: [batch, pos, d]
    mask.view(-1)[mask.view(-1).nonzero().flatten()[N:]] = False
    assert int(mask.sum()) == N
    padded = torch.full((30, 16, p.x.shape[1]), float("nan"), dtype=p.x.dtype)
    padded[mask] = p.x
    rows, prompt = real_rows(padded, mask)
    assert len(prompt) == N
    same(fitted(cls, rows, p.y), chunked, 0.0)


@LABELLED
def test_its_control_changes_the_fit_and_finds_nothing(cls: Any) -> None:
    p = planted(cls.target)
    probe = fitted(cls, p.x, p.y)
    if cls.target == "contrast":
        controls = [fitted(cls, p.x, p.y, control="random", seed=s) for s in range(6)]
    else:
        controls = [fitted(cls, p.x, p.y, control="shuffle", seed=s) for s in range(6)]
    null = [score(c, p.held_x, p.held_y) for c in controls]
    a, b = tensors_of(probe), tensors_of(controls[0])
    assert any(x.shape != b[k].shape or not torch.equal(x, b[k]) for k, x in a.items())
    found, mean = score(probe, p.held_x, p.held_y), sum(null) / len(null)
    assert found > max(null)
    if cls.target != "contrast":
        assert mean < CHANCE.get(cls.target, 0.0) + 0.15


@EVERY
def test_what_it_cannot_use_is_refused(cls: Any) -> None:
    p = planted(cls.target)
    probe = made(cls)
    held = (p.held_x,) if p.held_y is None else (p.held_x, p.held_y)
    one = held if cls.target == "contrast" else held[:1]
    for call, args in (("score", held), ("predict", one), ("transform", one)):
        if hasattr(cls, call):
            with pytest.raises(ins.InscapeError, match="has not been fitted") as raised:
                getattr(probe, call)(*args)
            assert type(raised.value).__name__ == "NotFittedError"
    bad = p.x.clone()
    bad[200, 3] = float("nan")
    with pytest.raises(ins.NotFiniteError, match=r"unit 3 of row 200 is nan"):
        fitted(cls, bad, p.y)
    if p.y is not None:
        with pytest.raises(ins.ShapeError, match=r"240|240\)"):
            fitted(cls, p.x, p.y[:240])
        fields = cls.__dataclass_fields__
        if "control" in fields:
            with pytest.raises(ins.InputError, match="'nonsense' is none of"):
                fitted(cls, p.x, p.y, control="nonsense")
    probe = fitted(cls, p.x, p.y)
    with pytest.raises(ins.ShapeError, match="fitted on rows of 7 units; these have 5"):
        score(probe, p.held_x[:, :5], p.held_y)


@EVERY
def test_a_file_gives_it_back_and_only_to_its_model_and_site(cls: Any, tmp_path: Path) -> None:
    p = planted(cls.target)
    with pytest.raises(ins.InscapeError, match="has not been fitted"):
        save_readout(tmp_path / "not.safetensors", made(cls))
    probe = fitted(cls, p.x, p.y, seed=4)
    path = tmp_path / "it.safetensors"
    save_readout(path, probe, site="layers.3.resid_post", model="0123456789abcdef")
    back = load_readout(path, model="0123456789abcdef", site="layers.3.resid_post")
    assert type(back) is cls
    assert {k: getattr(back, k) for k in cls.__dataclass_fields__} == {
        k: getattr(probe, k) for k in cls.__dataclass_fields__
    }
    same(back, probe, 0.0)
    assert score(back, p.held_x, p.held_y) == score(probe, p.held_x, p.held_y)
    with pytest.raises(ins.ModelError, match="fitted on another model"):
        load_readout(path, model="f" * 16)
    with pytest.raises(ins.SiteError, match=r"fitted at layers\.3\.resid_post, not at"):
        load_readout(path, site="layers.4.resid_post")


def test_hostile_files_are_refused_with_a_reason(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    good = {"kind": "readout", "version": 1, "class": "MeanDifference", "settings": {}, "learned": {"bias_": 0.0}}

    def attempt(message: str, tensors: dict[str, Tensor] | None = None, **changed: Any) -> None:
        about = {k: v for k, v in {**good, **changed}.items() if v is not None}
        write_tensors(path, tensors or {"weight_": torch.zeros(2)}, {"inscape": json.dumps(about)})
        with pytest.raises(ins.FileError, match=message):
            load_readout(path)

    attempt("class 'Popen', which is not among", **{"class": "Popen"})
    attempt("class None", **{"class": None})
    attempt("settings that MeanDifference does not know: evil", settings={"evil": 1})
    attempt("no settings or no learned", settings=[1])
    attempt("no name of a learned value", learned={"__class__": 1})
    attempt("no name of a learned value", learned={"fit": 1})
    attempt("no name of a learned value", {"score": torch.zeros(2)})
    attempt("is no place in a list", {"weight_#x": torch.zeros(2)})
    attempt("has places missing", {"weight_#1": torch.zeros(2)})
    attempt("holds direction, not readout", kind="direction")
    attempt("newer inscape", version=99)
    path.write_bytes(b"not a file")
    with pytest.raises(ins.FileError, match="damaged"):
        load_readout(path)
