"""Ablation banks: means are the obvious means, found by key on any padding side, in forward, generate, training."""

import warnings
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inscape as ins
from inscape.circuits.bank import Bank, UnseenKeyWarning, ablation_bank
from inscape.store.column import LazyColumn
from tests.common.small import gpt2
from tests.common.zoo import build

SITES = ["layers.0.resid_pre", "layers.1.resid_post", "layers.1.attn.z", "layers.2.mlp.act"]


def rows(n: int = 40, vocab: int = 6, seed: int = 0) -> list[list[int]]:
    """Short texts over few tokens, of unlike lengths, so that keys come often."""
    g = torch.Generator().manual_seed(seed)
    return [
        [1, *(torch.randint(vocab, (int(torch.randint(2, 6, (1,), generator=g)),), generator=g) + 3).tolist()]
        for _ in range(n)
    ]


def pair(tokens: Sequence[int], t: int) -> tuple[int, int]:
    """The token before and this one."""
    return (tokens[t - 1] if t else -1, tokens[t])


KEYS: dict[str, Any] = {
    "position+token": lambda tokens, t: (t, tokens[t]),
    "token": lambda tokens, t: tokens[t],
    "position": lambda tokens, t: t,
    "pair": pair,
}


def slow_means(model: "ins.Model", data: list[list[int]], site: str, key: Any) -> dict[Any, Tensor]:
    found = defaultdict(list)
    for ids in data:
        value = ins.run(model, ids, read=site)[site][0].double()
        for t in range(len(ids)):
            found[key(ids, t)].append(value[t])
    return {k: torch.stack(v).mean(0) for k, v in found.items()}


@pytest.mark.parametrize("name", list(KEYS))
@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "mamba"])
def test_a_mean_by_key_is_the_mean_over_its_rows(family: str, name: str) -> None:
    model, data = ins.open(build(family)), rows()
    site = "layers.1.resid_post"
    bank = ablation_bank(model, data, site, key=pair if name == "pair" else name)
    slow = slow_means(model, data, site, KEYS[name])
    assert len(bank.counts) == len(slow)
    assert int(bank.counts.sum()) == sum(map(len, data))
    ids = data[3]
    for side in ("left", "right"):
        batch = [ids, [1, *data[5][1:3]]]
        edit = bank.edit(model, site, "key", rows=[0])
        got = ins.run(model, batch, read=site, edits=[edit], padding_side=side)[site]
        columns = slice(0, len(ids)) if side == "right" else slice(got.shape[1] - len(ids), None)
        want = torch.stack([slow[KEYS[name](ids, t)] for t in range(len(ids))])
        torch.testing.assert_close(got[0, columns].double(), want, atol=2e-6, rtol=1e-5)


def test_an_embedding_is_the_mean_of_its_own_key() -> None:
    model, data = gpt2(), rows()
    bank = ablation_bank(model, data, "layers.0.resid_pre")
    plain = ins.run(model, data[:8]).output.logits
    same = ins.run(model, data[:8], edits=[bank.edit(model, "layers.0.resid_pre")]).output.logits
    torch.testing.assert_close(same, plain, atol=1e-5, rtol=1e-5)
    moved = ins.run(model, data[:8], edits=[bank.edit(model, "layers.0.resid_pre", "position")]).output.logits
    assert float((moved - plain).abs().max()) > 0.1
    assert bank.norm_ratio["layers.0.resid_pre"]["key"] == pytest.approx(1.0, abs=1e-5)


def test_the_default_key_forgets_other_positions_and_keeps_its_own_token() -> None:
    model, data, site = gpt2(), rows(), "layers.1.resid_post"
    edit = ablation_bank(model, data, site).edit(model, site)
    a, b = [1, 4, 5, 6], [1, 7, 5, 8]
    one, two = (ins.run(model, ids, read=site, edits=[edit])[site][0] for ids in (a, b))
    assert torch.equal(one[2], two[2])
    assert not torch.equal(one[1], two[1])


@pytest.mark.parametrize("key", ["position+token", pair])
def test_a_store_gives_the_bank_that_runs_give(tmp_path: Path, key: Any) -> None:
    model, data = gpt2(), rows(70)
    store = ins.record(model, data, sites=SITES, to=tmp_path / "acts")
    fresh, kept = (ablation_bank(model, source, SITES, key=key, pool=16) for source in (data, store))
    assert fresh.keys.values == kept.keys.values
    assert torch.equal(fresh.counts, kept.counts)
    for site in SITES:
        torch.testing.assert_close(fresh.means[site], kept.means[site], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(fresh.pool[site], kept.pool[site], atol=1e-6, rtol=1e-5)
    narrow = ablation_bank(model, store, SITES, key=key, pool=16, budget_bytes=1 << 20)  # many small reads
    torch.testing.assert_close(narrow.means[SITES[1]], kept.means[SITES[1]], atol=1e-6, rtol=1e-5)


def test_a_bank_is_made_in_one_pass_over_a_store_in_reads_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, site = gpt2(), "layers.1.resid_post"
    read: list[int] = []
    whole = LazyColumn._stretch

    def counted(self: LazyColumn, start: int, stop: int) -> Tensor:
        if self.name == site:
            read.append(stop - start)
        return whole(self, start, stop)

    monkeypatch.setattr(LazyColumn, "_stretch", counted)
    largest = []
    for n in (200, 800):
        data = rows(n)
        store = ins.record(model, data, sites=site, to=tmp_path / str(n))
        read.clear()
        ablation_bank(model, store, site, budget_bytes=1 << 17)
        assert sum(read) == len(store) == sum(map(len, data))  # every row, once
        largest.append(max(read))
    assert largest[0] == largest[1] < 80  # 64 rows of 32 units at 8 bytes are an eighth of the budget


@pytest.mark.parametrize("how", ["key", "position", "resample"])
@pytest.mark.parametrize("key", ["position+token", pair])
@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "mamba"])
def test_cells_of_a_sweep_are_what_the_obvious_loop_gives(family: str, key: Any, how: str) -> None:
    model, data = ins.open(build(family)), rows()
    sites, prompts, positions = ["layers.0.resid_pre", "layers.1.resid_post"], [data[3], data[5]], [0, 1, -1]
    assert len(prompts[0]) != len(prompts[1])
    bank = ablation_bank(model, data, sites, key=key)
    grid = ins.sweep(
        model, prompts, sites=sites, positions=positions, metric=ins.logit_diff([7, 8], [9, 10]),
        edit=partial(bank.edit, model, how=how), padding_side="left",
    )  # fmt: skip
    assert grid.how == ("rows" if family == "mamba" else "packed")
    for row, prompt in enumerate(prompts):
        for i, site in enumerate(sites):
            for j, at in enumerate(positions):
                edit = bank.edit(model, site, how, at=at)
                logits = ins.run(model, prompt, edits=[edit], output="last").output.logits[0, -1]
                assert float(grid.per_pair[row, i, j]) == pytest.approx(
                    float(logits[7 + row] - logits[9 + row]), abs=1e-5
                )
    listed = ins.sweep(
        model, prompts, edits=[bank.edit(model, sites[1], how, at=-1)], metric=ins.logit_diff([7, 8], [9, 10])
    )
    torch.testing.assert_close(listed.per_pair[:, 0], grid.per_pair[:, 1, 2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["key", "position", "mean", "resample"])
@pytest.mark.parametrize("key", ["token", pair])
@pytest.mark.filterwarnings("ignore::inscape.circuits.bank.UnseenKeyWarning")
def test_the_bank_in_generate_is_the_bank_in_the_uncached_forward(how: str, key: Any) -> None:
    model, data = gpt2(), rows()
    sites = ["layers.1.resid_post", "layers.2.attn.z"]
    bank = ablation_bank(model, data, sites, key=key)
    edits = [bank.edit(model, sites[0], how, at=slice(2, None)), bank.edit(model, sites[1], how, heads=[1])]
    prompts = [[1, 4, 5, 6], [1, 7]]
    got = ins.generate(model, prompts, edits=edits, read=sites, max_new_tokens=5)
    whole = [ids + new for ids, new in zip(prompts, got.tokens.tolist(), strict=True)]
    full = ins.run(model, whole, edits=edits, read=sites, padding_side="left")
    for site in sites:
        torch.testing.assert_close(got.trace[site][full.mask], full[site][full.mask], atol=2e-5, rtol=1e-4)
    right = ins.run(model, whole, edits=edits, read=sites[0], padding_side="right")
    torch.testing.assert_close(right[sites[0]][right.mask], full[sites[0]][full.mask], atol=2e-5, rtol=1e-4)


def test_a_training_step_learns_around_the_bank() -> None:
    model, site = gpt2(), "layers.1.resid_post"
    bank = ablation_bank(model, rows(), site)
    push = torch.zeros(32, requires_grad=True)
    edits = [bank.edit(model, site, at=[1, 2]), ins.add(ins.Direction("layers.2.resid_post", push, "learned"))]
    with ins.editing(model, edits), torch.enable_grad():
        model.module(input_ids=torch.tensor([[1, 4, 5, 6]])).logits.sum().backward()
    assert push.grad is not None
    assert float(push.grad.abs().sum()) > 0
    model.module.zero_grad()


def test_an_unseen_key_falls_back_and_says_so_only_where_the_edit_acts() -> None:
    model, data, site = gpt2(), rows(), "layers.1.resid_post"
    bank = ablation_bank(model, data, site)
    odd = [1, 40, 4, 5]
    with pytest.warns(UnseenKeyWarning, match=r"1 of 4 .*\(first: row 0, position 1\).*mean of their position.*is 75%"):
        got = ins.run(model, odd, read=site, edits=[bank.edit(model, site)])[site]
    torch.testing.assert_close(got[0, 1], bank.position_means[site][1])
    with pytest.warns(UnseenKeyWarning, match="mean of everything"):
        far = ins.run(model, [1] * 12, read=site, edits=[bank.edit(model, site, "position", at=-1)])[site]
    torch.testing.assert_close(far[0, -1], bank.mean[site])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ins.run(model, odd, edits=[bank.edit(model, site, at=[2, 3])])
        ins.run(model, [odd, [1, 4, 5, 6]], edits=[bank.edit(model, site, rows=[1])])


def test_coverage_names_what_is_missing() -> None:
    model = gpt2()
    bank = ablation_bank(model, rows(), "layers.1.resid_post")
    found = bank.coverage(model, [[1, 4, 5], [1, 40]])
    assert (found.share, found.n, found.unseen) == (0.8, 5, {"token 40 at position 1": 1})


def test_resampling_draws_rows_of_the_same_key_or_position() -> None:
    model, data, site = gpt2(), rows(), "layers.0.resid_pre"
    bank = ablation_bank(model, data, site, pool=100_000)
    assert len(bank.pool_pos) == sum(map(len, data))
    ids = [1, 4, 5, 6]
    plain = ins.run(model, ids, read=site)[site]
    same = ins.run(model, ids, read=site, edits=[bank.edit(model, site, "resample", within="key")])[site]
    torch.testing.assert_close(same, plain)  # rows of one key have one embedding
    other = ins.run(model, ids, read=site, edits=[bank.edit(model, site, "resample", within="position")])[site]
    for t in range(4):
        members = bank.pool[site][bank.pool_pos == t]
        assert float((members - other[0, t]).abs().amax(1).min()) < 1e-6
    assert not torch.equal(other, plain)


def test_a_shuffled_bank_gives_every_key_another_of_its_position() -> None:
    model, data, site = gpt2(), rows(), "layers.0.resid_pre"
    bank = ablation_bank(model, data, site)
    shuffled = bank.shuffled(seed=1)
    for number, position in enumerate(bank.key_pos.tolist()):
        members = bank.means[site][bank.key_pos == position]
        moved = shuffled.means[site][number]
        assert float((members - moved).abs().amax(1).min()) == 0
        assert (len(members) == 1) == torch.equal(moved, bank.means[site][number])


def test_means_that_cancel_say_that_they_are_short() -> None:
    class Signs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(4, 2)
            self.embed.weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 3], [0, -3]])

        def forward(self, input_ids: Tensor) -> Tensor:
            return self.embed(input_ids)

    model = ins.open(Signs())
    bank = ablation_bank(model, [[0, 2], [1, 2]], "@embed")
    ratio = bank.norm_ratio["@embed"]
    assert ratio["key"] == pytest.approx(1.0)
    assert ratio["position"] == pytest.approx(3 / 4)  # position 0 cancels: (0 + 0 + 3 + 3) / (1 + 1 + 3 + 3)
    assert ratio["mean"] == pytest.approx(1.5 / 2)


@pytest.mark.parametrize("key", ["position+token", pair])
def test_a_bank_survives_its_file(tmp_path: Path, key: Any) -> None:
    model, data = gpt2(), rows()
    bank = ablation_bank(model, data, SITES, key=key)
    bank.save(tmp_path / "bank")
    back = Bank.load(tmp_path / "bank", key=None if isinstance(key, str) else key)
    for how in ("key", "resample"):
        want, got = (ins.run(model, data[:4], edits=[b.edit(model, SITES[1], how)]).output.logits for b in (bank, back))
        assert torch.equal(want, got)
    assert back.norm_ratio == bank.norm_ratio
    assert repr(back) == repr(bank)
    if key is pair:
        with pytest.raises(ins.InputError, match="code is never stored: pass key="):
            Bank.load(tmp_path / "bank")


def test_files_that_are_no_banks_say_so(tmp_path: Path) -> None:
    ins.save_edits(tmp_path / "edits", [ins.skip("layers.1")])
    with pytest.raises(ins.FileError, match="holds edits, not an ablation bank"):
        Bank.load(tmp_path / "edits")
    bank = ablation_bank(gpt2(), rows(), SITES[0], key=lambda tokens, t: frozenset(tokens))
    with pytest.raises(ins.InputError, match="a key of this bank is a frozenset"):
        bank.save(tmp_path / "bank")


def test_rare_keys_are_refused_or_left_to_their_position() -> None:
    model, site = gpt2(), "layers.1.resid_post"
    data = [*rows(), [1, 33, 4]]
    with pytest.raises(ins.InputError, match=r"fewer than k_min=2 rows; token \d+ at position \d has 1"):
        ablation_bank(model, data, site, k_min=2)
    bank = ablation_bank(model, data, site, k_min=2, rare="position")
    assert bank.coverage(model, [1, 33]).unseen == {"token 33 at position 1": 1}
    assert int(bank.counts.min()) == 2


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "another model": (lambda b: b.edit(ins.open(build("llama")), SITES[0]), ins.ModelError, "made with another model"),
    "no such site": (lambda b: b.edit(gpt2(), "layers.2.mlp_out"), ins.SiteError, "it holds layers.0.resid_pre"),
    "unknown how": (lambda b: b.edit(gpt2(), SITES[0], "median"), ins.EditError, "how is one of key, position"),
    "no pool": (
        lambda b: ablation_bank(gpt2(), rows(), SITES[0], pool=0).edit(gpt2(), SITES[0], "resample"),
        ins.EditError, "kept no rows",
    ),
    "unknown key": (lambda b: ablation_bank(gpt2(), rows(), SITES[0], key="word"), ins.InputError, "position\\+token"),
    "a map": (lambda b: ablation_bank(gpt2(), rows(), "layers.1.attn.pattern"), ins.ShapeError, "one value a position"),
    "too many keys": (
        lambda b: ablation_bank(gpt2(), rows(), SITES[0], budget_bytes=64), ins.InputError, "use a coarser key",
    ),
    "k_min": (lambda b: ablation_bank(gpt2(), rows(), SITES[0], k_min=0), ins.InputError, "k_min is at least 1"),
    "unhashable": (
        lambda b: ablation_bank(gpt2(), rows(), SITES[0], key=lambda tokens, t: [t]), ins.InputError, "cannot be a key",
    ),
    "a pattern with sites beside": (
        lambda b: ins.run(gpt2(), [1, 4], edits=[b.edit(gpt2(), "layers.*.resid_pre")]), ins.SiteError, "does not hold",
    ),
    "beams and a key of two tokens": (
        lambda b: ins.generate(
            gpt2(), [[1, 4]], num_beams=2, max_new_tokens=3,
            edits=[ablation_bank(gpt2(), rows(), SITES[1], key=pair).edit(gpt2(), SITES[1])],
        ),
        ins.EditError, "a cached step holds its new token alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(WRONG))
@pytest.mark.filterwarnings("ignore::inscape.circuits.bank.UnseenKeyWarning")
def test_banks_that_would_mislead_are_refused(case: str) -> None:
    make, error, message = WRONG[case]
    bank = ablation_bank(gpt2(), rows(), SITES[:1])
    with pytest.raises(error, match=message):
        make(bank)


def test_a_store_of_another_model_is_refused(tmp_path: Path) -> None:
    store = ins.record(gpt2(), rows(), sites=SITES[0], to=tmp_path / "acts")
    with pytest.raises(ins.ModelError, match="recorded with another model"):
        ablation_bank(ins.open(build("gpt2")), store, SITES[0])
