"""The training loop against a loop written out, over kills, with frozen parts, and every message."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from inscape import train
from inscape.core.errors import FileError, InputError, ModelError, NotFiniteError
from inscape.train.schedule import factor


def net(seed: int = 0, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
    return x, x.sum(1, keepdim=True)


def squared(module, given):
    return F.mse_loss(module(given[0]), given[1])


def weights(module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in module.state_dict().items()}


def assert_same(a, b) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_fit_equals_the_loop_written_out():
    module, plain = net(), net()
    history = train.fit(module, batch, squared, steps=30, lr=0.01, schedule=train.cosine, warmup=5, clip=0.5)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.0)
    plain.train()
    losses = []
    for step in range(30):
        optimizer.param_groups[0]["lr"] = 0.01 * factor(train.cosine, 5, step, 30)
        optimizer.zero_grad()
        loss = squared(plain, batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert_same(weights(module), weights(plain))
    assert history.loss == losses
    assert (history.steps, history.items, history.unit) == (30, 480, "rows")


def test_the_schedules_begin_at_one_and_end_at_their_floor():
    for schedule in (train.linear, train.cosine):
        assert schedule(0, 10) == 1.0
        assert schedule(10, 10) == pytest.approx(0.0)
        assert schedule(10, 10, floor=0.1) == pytest.approx(0.1)
        assert schedule(5, 10) == pytest.approx(0.5)
    assert train.constant(7, 10) == 1.0
    assert [factor(train.linear, 3, s, 5) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 0.5]


def test_accumulated_batches_equal_one_large_batch():
    module, large = nn.Linear(4, 1), nn.Linear(4, 1)
    large.load_state_dict(module.state_dict())
    train.fit(module, batch, squared, steps=5, accumulate=3, clip=None)

    def three(step):
        parts = [batch(3 * step + i) for i in range(3)]
        return tuple(torch.cat(p) for p in zip(*parts, strict=True))

    train.fit(large, three, squared, steps=5, clip=None)
    torch.testing.assert_close(module.weight, large.weight)


class Killed(BaseException):
    """Nothing in the package catches this."""


def loaders():
    data = torch.utils.data.TensorDataset(*batch(0))
    shuffled = partial(torch.utils.data.DataLoader, data, batch_size=6, drop_last=True, shuffle=True)
    return {
        "function": lambda: batch,
        "list": lambda: [batch(i) for i in range(7)],
        "a shuffling loader": shuffled,
        "a loader with its own generator": lambda: shuffled(generator=torch.Generator().manual_seed(5)),
        "what knows where it stands": lambda: Standing(),
        "numpy's generator": lambda: lambda step: batch(int(np.random.randint(1000))),  # noqa: NPY002
    }


class Standing:
    """Gives what is left of an endless stream, as the batches of a store do."""

    def __init__(self):
        self.done = 0

    def state_dict(self):
        return {"done": self.done}

    def load_state_dict(self, state):
        self.done = state["done"]

    def __iter__(self):
        while True:
            self.done += 1
            yield batch(self.done)


@pytest.mark.parametrize("data", loaders())
@pytest.mark.parametrize("kill", [1, 4, 5, 11])
def test_a_killed_job_goes_on_to_the_very_same_weights(data, kill, tmp_path):
    make = loaders()[data]
    settings = {"steps": 12, "lr": 0.05, "schedule": train.linear, "accumulate": 2, "every": 4, "seed": 3}
    meters = {"sum": lambda m: m[0].weight.sum().item() + 0 * torch.rand(()).item()}
    whole = net(dropout=0.3)
    plain = train.fit(whole, make(), squared, meters=meters, measure=3, **settings)

    calls = 0

    def dying(module, given):
        nonlocal calls
        calls += 1
        if calls == 2 * kill:
            raise Killed
        return squared(module, given)

    path = tmp_path / "job.safetensors"
    with pytest.raises(Killed):
        train.fit(net(dropout=0.3), make(), dying, checkpoint=path, meters=meters, measure=3, **settings)
    again = net(seed=9, dropout=0.3)  # begins elsewhere, unless nothing was written yet
    again = net(dropout=0.3) if not path.exists() else again
    history = train.fit(again, make(), squared, checkpoint=path, meters=meters, measure=3, **settings)
    assert_same(weights(whole), weights(again))
    assert history.loss == plain.loss
    assert [list(p) for p in history.measured["sum"]] == [list(p) for p in plain.measured["sum"]]


def test_a_kill_while_the_checkpoint_is_written_leaves_the_one_before(tmp_path):
    code = """
import os, signal, sys
sys.path.insert(0, ".")
from tests.train.test_fit import *
path, last = sys.argv[1], int(sys.argv[2])
real, count = os.replace, 0
def replace(a, b):
    global count
    count += 1
    if count == last:
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
os.replace = replace
torch.set_num_threads(1)
train.fit(net(dropout=0.3), batch, squared, steps=9, every=2, checkpoint=path)
"""
    path = tmp_path / "job.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(path), "3"], env=os.environ, check=False)
    assert done.returncode == -9
    from inscape.train.checkpoint import step_of

    assert step_of(path) == 4
    again, whole = net(seed=1, dropout=0.3), net(dropout=0.3)
    train.fit(again, batch, squared, steps=9, every=2, checkpoint=path)
    train.fit(whole, batch, squared, steps=9)
    assert_same(weights(again), weights(whole))


def test_a_finished_job_is_not_done_again(tmp_path):
    path = tmp_path / "job.safetensors"
    first, second = net(), net(seed=1)
    history = train.fit(first, batch, squared, steps=5, checkpoint=path)
    again = train.fit(second, lambda _: pytest.fail("asked for data"), squared, steps=5, checkpoint=path)
    assert_same(weights(first), weights(second))
    assert again.loss == history.loss


def test_frozen_parameters_and_their_running_statistics_stay_bit_equal(tmp_path):
    module = net()
    for part in (module[0], module[1]):
        part.requires_grad_(False)
    module.eval()
    before = weights(module)
    train.fit(
        module, batch, squared, steps=5, optimizer=partial(torch.optim.AdamW, weight_decay=0.5),
        checkpoint=tmp_path / "c.safetensors",
    )  # fmt: skip
    after = weights(module)
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("4.")), name
    assert not any(m.training for m in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_generators_are_as_they_were():
    torch.manual_seed(7)
    expected = torch.rand(3)
    module = net(dropout=0.5)
    torch.manual_seed(7)
    train.fit(module, batch, squared, steps=3, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_seed_decides():
    def trained(seed):
        module = net(dropout=0.5)
        train.fit(module, batch, squared, steps=3, seed=seed)
        return weights(module)

    assert_same(trained(1), trained(1))
    assert not torch.equal(trained(1)["0.weight"], trained(2)["0.weight"])


def test_autocast_computes_in_bfloat16_and_keeps_the_weights_as_they_are():
    seen = []

    def loss(module, given):
        out = module(given[0])
        seen.append(out.dtype)
        return F.mse_loss(out.float(), given[1])

    module = net()
    train.fit(module, batch, loss, steps=2, autocast=torch.bfloat16)
    assert seen == [torch.bfloat16] * 2
    assert module[0].weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("values", "best", "at"),
    [
        ([0.1, 0.3, 0.2, 0.3, 0.9], "max", 4),  # 0.3 again is no better than 0.3
        ([0.1, 0.2, 0.15, 0.3, 0.2], "max", None),
        ([3.0, 1.0, 2.0, 1.5, 0.5], "min", 4),
        ([1.0, float("nan"), float("nan"), 2.0, 3.0], "max", 3),
    ],
)
def test_training_stops_when_a_number_is_no_better(values, best, at):
    stop = train.no_better("held.x", 2, best=best)
    told = [
        stop(train.History(measured={"held.x": [(i, v) for i, v in enumerate(values[:n])]}))
        for n in range(1, len(values))
    ]
    assert told.index(True) + 1 == at if at else not any(told)


def test_stopping_by_what_is_not_measured_says_what_is():
    with pytest.raises(InputError, match=r"asks for 'y', which is not measured[\s\S]*measured are 'x'"):
        train.no_better("y")(train.History(measured={"x": [(1, 0.0)]}))
    with pytest.raises(InputError, match="give fit meters="):
        train.no_better("y")(train.History())
    with pytest.raises(InputError, match=r"no_better\(patience=0, best='max'\): a patience of 1"):
        train.no_better("x", 0)


def test_other_numbers_meters_and_early_stopping():
    module = net()
    history = train.fit(
        module,
        batch,
        lambda m, b: (squared(m, b), {"rows": len(b[0])}),
        steps=50,
        accumulate=2,
        meters={"a": lambda m: {"mode": m.training, "x": 1.0}},
        measure=[0, 2, 4],
        stop=lambda h: h.steps >= 4,
    )
    assert history.extra["rows"] == [16.0] * 4
    assert history.measured["a.mode"] == [(0, 0.0), (2, 0.0), (4, 0.0)]
    assert history.stopped == "stop() was true after 4 of 50 steps"
    assert module.training


def test_progress_tells_loss_speed_and_time_left():
    said = []
    ids = torch.arange(12).reshape(2, 6)
    module = nn.Embedding(12, 1)
    train.fit(
        module, [{"input_ids": ids}], lambda m, b: m(b["input_ids"]).square().mean(), steps=200,
        progress=lambda message, fraction: said.append((message, fraction)),
    )  # fmt: skip
    assert 10 < len(said) <= 42
    assert said[-1][1] == 1.0
    for part in ("step 200 of 200", "loss ", "tokens/s", "in all"):
        assert part in said[-1][0]
    assert "left" in said[0][0]


def test_next_token_loss_ignores_padding_and_shifts_labels():
    class Model(nn.Module):
        def forward(self, input_ids, attention_mask=None):
            logits = F.one_hot(input_ids.roll(-1, 1), 5).float() * 9
            return type("Out", (), {"logits": logits})

    ids = torch.tensor([[1, 2, 3, 4], [2, 4, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    right = torch.log(torch.exp(torch.tensor(9.0)) + 4) - 9
    assert train.next_token(Model(), {"input_ids": ids, "attention_mask": mask}).item() == pytest.approx(
        right.item(), abs=2e-6
    )
    labels = torch.tensor([[-100, -100, -100, 0], [-100] * 4])
    assert train.next_token(Model(), {"input_ids": ids, "labels": labels}).item() == pytest.approx(right.item() + 9)


# messages


def test_a_loss_that_is_not_finite_names_the_step_and_the_last_good_checkpoint(tmp_path):
    def loss(module, given):
        return squared(module, given) * (float("nan") if given[1].shape[0] == 3 else 1)

    data = [batch(0)] * 5 + [tuple(t[:3] for t in batch(0))]
    module = net()
    path = tmp_path / "job.safetensors"
    with pytest.raises(NotFiniteError, match=r"loss is nan at step 5[\s\S]*'.*job.safetensors' is of step 4[\s\S]*lr"):
        train.fit(module, data, loss, steps=9, every=2, checkpoint=path)
    with pytest.raises(NotFiniteError, match=r"no checkpoint was asked for"):
        train.fit(net(), data, loss, steps=9)
    with pytest.raises(NotFiniteError, match=r"there is no checkpoint '.*new' yet"):
        train.fit(net(), data, loss, steps=9, every=7, checkpoint=tmp_path / "new")


def test_a_gradient_that_is_not_finite_leaves_the_weights():
    module = nn.Linear(1, 1)
    before = weights(module)
    with pytest.raises(NotFiniteError, match="norm of the gradients is nan at step 0; the weights are those before"):
        train.fit(module, [0], lambda m, _: (m.weight * 0).sqrt().sum() * 0, steps=1)
    assert_same(weights(module), before)
    assert module.weight.grad is None


def test_nothing_trainable_no_data_and_bad_settings_say_so():
    frozen = nn.Linear(4, 1).requires_grad_(False)
    with pytest.raises(ModelError, match=r"nothing is trainable: 2 of 2 parameters of Linear[\s\S]*requires_grad_"):
        train.fit(frozen, batch, squared, steps=1)
    with pytest.raises(InputError, match=r"int is no nn.Module[\s\S]*model.module"):
        train.fit(3, batch, squared, steps=1)
    with pytest.raises(InputError, match="the data is empty"):
        train.fit(net(), [], squared, steps=1)
    with pytest.raises(InputError, match=r"ended after 1 batches[\s\S]*fewer steps"):
        train.fit(net(), iter([batch(0)]), squared, steps=2)
    with pytest.raises(InputError, match=r"int gives no batches[\s\S]*function of the step"):
        train.fit(net(), 3, squared, steps=2)
    with pytest.raises(InputError, match="steps=0: it must be at least 1"):
        train.fit(net(), batch, squared, steps=0)
    with pytest.raises(InputError, match=r"clip=0\.0: the largest norm"):
        train.fit(net(), batch, squared, steps=1, clip=0.0)
    with pytest.raises(InputError, match=r"autocast=torch.float16 is not known[\s\S]*loss scaled"):
        train.fit(net(), batch, squared, steps=1, autocast=torch.float16)
    with pytest.raises(InputError, match=r"the loss gave a tensor \(16, 1\)[\s\S]*mean over the batch"):
        train.fit(net(), batch, lambda m, b: m(b[0]), steps=1)
    with pytest.raises(ModelError, match="does not depend on any trainable parameter"):
        train.fit(net(), batch, lambda m, b: squared(m, b).detach(), steps=1)


def test_a_checkpoint_of_another_job_is_refused(tmp_path):
    path = tmp_path / "job.safetensors"
    train.fit(net(), batch, squared, steps=4, checkpoint=path)
    with pytest.raises(FileError, match=r"another training job: lr was 0.001 there and is 0.5 here"):
        train.fit(net(), batch, squared, steps=4, lr=0.5, checkpoint=path)
    other = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 1))
    with pytest.raises(FileError, match=r"of another module: 0.bias is \(8,\) torch.float32 there and \(9,\)"):
        train.fit(other, batch, squared, steps=4, checkpoint=path)
    part = net()
    part[0].requires_grad_(False)
    with pytest.raises(FileError, match=r"another training job: frozen was"):
        train.fit(part, batch, squared, steps=4, checkpoint=path)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(FileError, match="is damaged or is no safetensors file"):
        train.fit(net(), batch, squared, steps=4, checkpoint=path)
