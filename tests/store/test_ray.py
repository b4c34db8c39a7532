"""Two real Ray workers, one killed in the middle: the same rows as in one process."""

import os
import re
import signal
from pathlib import Path

import pytest
import torch

import inscape as ins
from inscape.store.check import verify
from inscape.store.data import Data, Sample
from tests.common.small import hooks_left
from tests.store.test_record import SITES, data, own, same

pytestmark = pytest.mark.xdist_group("ray")


def killing(flag: Path) -> Data:
    """Data whose twelfth sample kills the process that asks for it, once."""
    rows = data(40)

    def get(start: int, stop: int) -> list[Sample]:
        if start == 12 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [(row, {}) for row in rows[start:stop]]

    return Data(len(rows), get, "forty rows")


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    model, flag = own(), tmp_path / "killed"
    model.module(torch.tensor([[1, 2]]), output_hidden_states=True)  # transformers leaves hooks that cannot be sent
    left = hooks_left(model.module, transformers_own=True)
    flag.touch()
    alone = ins.record(model, killing(flag), SITES, tmp_path / "a", unit_samples=4)
    flag.unlink()
    told: list[str] = []
    together = ins.record(
        model, killing(flag), SITES, tmp_path / "b", unit_samples=4, engine="ray", workers=2,
        progress=lambda message, fraction: told.append(message),
    )  # fmt: skip
    assert flag.exists()
    same(alone, together)
    assert hooks_left(model.module, transformers_own=True) == left > 0
    found = verify(tmp_path / "b")
    assert found.is_sound
    assert not found.twice
    assert re.fullmatch("10 of 10 work units on [12] Ray workers", told[-1])  # one may be enough for what was lost
    writers = {listed.shard.rsplit("-", 1)[0] for listed in together.listed}
    assert len({name.split("-")[0] for name in writers}) == 2
    assert len(writers) <= 5  # two, the one that took the killed one's place, and two for what that one lost


@pytest.mark.filterwarnings("ignore")
def test_what_a_work_unit_raises_is_raised_here(tmp_path: Path) -> None:
    model = own()
    with torch.no_grad():
        model.module.transformer.wte.weight[9] = torch.nan
    with pytest.raises(ins.NotFiniteError, match="the model itself computed nan"):
        ins.record(model, [[1, 2], [3, 4], [9, 9]], SITES, tmp_path / "s", unit_samples=1, engine="ray")


def test_no_workers_and_unknown_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ins.InputError, match="it can be 'local' or 'ray'"):
        ins.record(own(), data(), SITES, tmp_path / "s", engine="dask")
    with pytest.raises(ins.InputError, match="at least one is needed"):
        ins.record(own(), data(), SITES, tmp_path / "s", engine="ray", workers=0)
