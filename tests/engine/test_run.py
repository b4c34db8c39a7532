"""The one forward pass: what it reads, what it leaves alone, where it stops."""

import gc
import threading

import pytest
import torch

import inscape as ins
from tests.common.small import direction, gpt2, gpt2_module, hooks_left

IDS = torch.tensor([[1, 5, 9, 13, 17, 21], [2, 6, 10, 14, 18, 22]])


def test_reading_every_site_changes_no_logit() -> None:
    model = gpt2()
    plain = model.module(IDS).logits
    trace = ins.run(model, IDS, read="*", output=True)
    assert torch.equal(trace.output.logits, plain)
    assert len(trace) == len(model.sites)
    assert hooks_left(model.module) == 0


def test_a_run_stops_after_the_last_site_it_needs() -> None:
    model, ran = gpt2(), []
    handle = model.module.transformer.h[2].register_forward_hook(lambda *a: ran.append(1))
    try:
        trace = ins.run(model, IDS, read="layers.1.resid_post")
    finally:
        handle.remove()
    assert ran == []
    assert not trace.has_output
    with pytest.raises(ins.InputError, match="output=True"):
        _ = trace.output


def test_recorded_values_do_not_change_when_a_later_edit_writes_in_place() -> None:
    model = gpt2()

    def spoil(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(0)

    trace = ins.run(
        model, IDS, read=["layers.0.resid_post"], edits=[ins.edit("layers.1.resid_pre", spoil)], output=True
    )
    assert trace["layers.0.resid_post"].abs().sum() > 0


def test_the_last_output_holds_each_rows_last_real_token() -> None:
    model, rows = gpt2(), [[1, 2, 3, 4, 5], [9, 8, 7]]
    for side in ("left", "right"):
        whole = ins.run(model, rows, padding_side=side)
        last = ins.run(model, rows, padding_side=side, output="last").output.logits
        assert last.shape == (2, 1, 64)
        for row in range(2):
            column = int(whole.mask[row].nonzero().max())
            torch.testing.assert_close(last[row, 0], whole.output.logits[row, column])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_gives_the_numbers_of_its_rows_alone(side: str) -> None:
    model, rows = gpt2(), [[1, 2, 3, 4, 5], [9, 8, 7]]
    edits = [ins.add(direction(), 2.0, at=1)]
    batch = ins.run(model, rows, read="layers.*.resid_post", edits=edits, padding_side=side)
    for i, row in enumerate(rows):
        alone = ins.run(model, row, read="layers.*.resid_post", edits=edits)
        for name in alone:
            torch.testing.assert_close(batch[name][i][batch.mask[i]], alone[name][0], atol=1e-5, rtol=1e-5)


def test_a_metric_gives_the_gradient_at_every_site() -> None:
    model = gpt2()

    def metric(out):
        return out.logits[:, -1, 3].sum()

    trace = ins.run(model, IDS, read="layers.*.resid_post", metric=metric, grad=True)
    site, eps = "layers.1.resid_post", 1e-2
    bump = torch.zeros_like(trace[site])
    bump[0, -1, 4] = eps
    up = ins.run(model, IDS, edits=[ins.edit(site, lambda x: x + bump)], metric=metric).metric
    down = ins.run(model, IDS, edits=[ins.edit(site, lambda x: x - bump)], metric=metric).metric
    assert float((up - down) / (2 * eps)) == pytest.approx(float(trace.grads[site][0, -1, 4]), rel=2e-2)


def test_gradients_reach_the_sites_that_are_seen_through_a_view() -> None:
    model = gpt2()
    sites = [f"layers.1.attn.{n}" for n in ("q", "k", "v", "z")]

    def metric(out: object) -> torch.Tensor:
        return out.logits[:, -1].pow(2).sum()  # type: ignore[attr-defined]

    trace = ins.run(model, IDS, read=sites, metric=metric, grad=True)
    for site in sites:
        step = torch.randn(trace[site].shape, generator=torch.Generator().manual_seed(0)) * 1e-2
        up, down = (
            ins.run(model, IDS, edits=[ins.edit(site, lambda x, s=s, d=step: x + s * d)], metric=metric).metric
            for s in (1, -1)
        )
        assert float((up - down) / 2) == pytest.approx(float((trace.grads[site] * step).sum()), rel=2e-2), site


def test_trainable_edits_get_gradients_in_a_training_step() -> None:
    model = gpt2()
    vector = torch.nn.Parameter(torch.zeros(32))
    with ins.editing(model, [ins.add(ins.Direction("layers.1.resid_post", vector, "learned"))]):
        model.module(IDS, labels=IDS).loss.backward()
    assert vector.grad is not None
    assert float(vector.grad.norm()) > 0
    model.module.zero_grad()


def test_hooks_never_survive_an_edit_that_raises() -> None:
    model = gpt2()

    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("on purpose")

    config = model.module.transformer.h[1].attn.config
    for edit in (ins.edit("layers.1.resid_post", fail), ins.edit("layers.1.attn.pattern", fail)):
        with pytest.raises(RuntimeError, match="on purpose"):
            ins.run(model, IDS, edits=[edit])
        with pytest.raises(RuntimeError, match="on purpose"):
            ins.generate(model, IDS, edits=[edit], max_new_tokens=3)
    assert hooks_left(model.module) == 0
    assert model.module.transformer.h[1].attn.config is config


def test_nested_editing_adds_up_and_ends_with_its_with() -> None:
    model = gpt2()
    d = direction("layers.2.resid_post")
    plain = model.module(IDS).logits
    with ins.editing(model, ins.add(d, 1.0)):
        once = model.module(IDS).logits
        with ins.editing(model, ins.add(d, 1.0)):
            twice = model.module(IDS).logits
        assert torch.equal(model.module(IDS).logits, once)
    assert torch.equal(model.module(IDS).logits, plain)
    torch.testing.assert_close(twice, ins.run(model, IDS, edits=[ins.add(d, 2.0)]).output.logits)


def test_another_thread_sees_the_unedited_model() -> None:
    model, seen = gpt2(), []
    plain = model.module(IDS).logits
    edits = [ins.add(direction(), 5.0), ins.attend("layers.1", "cut", keys=0)]
    with ins.editing(model, edits):
        other = threading.Thread(target=lambda: seen.append(model.module(IDS).logits))
        other.start()
        other.join()
        mine = model.module(IDS).logits
    assert torch.equal(seen[0], plain)
    assert not torch.equal(mine, plain)


def test_many_threads_run_one_model_at_once() -> None:
    model = gpt2()
    want = {s: ins.run(model, IDS, edits=[ins.add(direction(), float(s))]).output.logits for s in range(1, 5)}
    wrong: list[int] = []

    def work(s: int) -> None:
        for _ in range(10):
            got = ins.run(model, IDS, edits=[ins.add(direction(), float(s))], read="layers.*.attn.pattern", output=True)
            if not torch.equal(got.output.logits, want[s]):
                wrong.append(s)

    threads = [threading.Thread(target=work, args=(s,)) for s in want]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert hooks_left(model.module) == 0


def test_runs_leave_no_tensor_behind() -> None:
    model = gpt2()

    def count() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    ins.run(model, IDS, read="*", edits=[ins.add(direction())])
    before = count()
    for _ in range(20):
        ins.run(model, IDS, read="*", edits=[ins.add(direction())])
        ins.generate(model, IDS, edits=[ins.add(direction())], read="layers.1.*", max_new_tokens=3)
    assert count() <= before + 2


def test_a_model_compiled_before_it_was_opened_gives_the_same_numbers() -> None:
    compiled = torch.compile(gpt2_module(), backend="eager")
    compiled(IDS)
    model = ins.open(compiled)
    want = ins.run(gpt2(), IDS, edits=[ins.add(direction(), 2.0)], read="layers.1.resid_post", output=True)
    got = ins.run(model, IDS, edits=[ins.add(direction(), 2.0)], read="layers.1.resid_post", output=True)
    torch.testing.assert_close(got.output.logits, want.output.logits)
    with ins.editing(model, ins.add(direction(), 2.0)):
        torch.testing.assert_close(compiled(IDS).logits, want.output.logits)
    torch.testing.assert_close(compiled(IDS).logits, model.module(IDS).logits)


def test_reduce_keeps_only_what_is_wanted() -> None:
    model, rows = gpt2(), [[1, 2, 3, 4, 5], [9, 8, 7]]
    site = "layers.1.resid_post"
    full = ins.run(model, rows, read=site, padding_side="left")
    for how, want in {
        "last": full[site][:, -1],
        "mean": torch.stack([full[site][r][full.mask[r]].mean(0) for r in range(2)]),
        "norm": full[site].norm(dim=-1),
    }.items():
        got = ins.run(model, rows, read=site, reduce=how, padding_side="left")[site]
        torch.testing.assert_close(got, want)
    both = ins.run(model, rows, read={"a": (site, "last"), "b": ("layers.0.resid_post", lambda x: x[..., 0])})
    assert both["a"].shape == (2, 32)
    assert both["b"].shape == (2, 5)


def test_one_site_can_be_kept_in_two_ways_at_once() -> None:
    model, rows = gpt2(), [[1, 2, 3], [4, 5]]
    read = {
        "end": ("layers.1.resid_post", "last"),
        "size": ("layers.1.resid_post", "norm"),
        "all": "layers.1.resid_post",
    }
    trace = ins.run(model, rows, read=read)
    for label, (site, how) in {
        "end": ("layers.1.resid_post", "last"),
        "size": ("layers.1.resid_post", "norm"),
        "all": ("layers.1.resid_post", None),
    }.items():
        torch.testing.assert_close(trace[label], ins.run(model, rows, read=site, reduce=how)[site], rtol=0, atol=0)
    out = ins.generate(model, rows, read=read, max_new_tokens=3)
    assert out.trace["all"].shape == (2, 6, 32)
    assert out.trace["end"].shape == (2, 4, 32)
