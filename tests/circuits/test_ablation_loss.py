"""Loss without a head: equal to the obvious loop, silent heads change nothing, places and labels are where they say."""

import pytest
import torch

import inscape as ins
from inscape.circuits.ablation_loss import ablation_loss
from inscape.circuits.behaviours import behaviours
from tests.common.zoo import build
from tests.read.planted import silent_gpt2

ROWS = [[5, 9, 13, 9, 21, 7], [30, 31, 32, 33], [8, 4, 8, 15, 16, 23, 42]]


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "bloom", "falcon_h1"])
def test_the_change_is_that_of_the_loop_over_rows(name: str) -> None:
    model = ins.open(build(name))
    made = ablation_loss(model, (1, 1), ROWS, others=1, labels={})
    site = "layers.1.attn.z"
    z = torch.cat([ins.run(model, [row], read=site)[site][0] for row in ROWS])
    edit = ins.replace(site, z[:, 1].mean(0), heads=1)
    wanted, clean = [], []
    for row in ROWS:
        for edits, into in (((), clean), ((edit,), wanted)):
            logits = ins.run(model, [row], edits=list(edits), output=True).output.logits[0, 1:-1].float()
            into.append(-logits.log_softmax(-1).gather(1, torch.tensor(row[2:])[:, None])[:, 0])
    torch.testing.assert_close(made.loss, torch.cat(clean), rtol=0, atol=1e-4)
    torch.testing.assert_close(made.change, torch.cat(wanted) - torch.cat(clean), rtol=0, atol=1e-4)
    assert made.tokens == tuple(map(tuple, ROWS))
    assert made.right.tolist() == [t for row in ROWS for t in row[2:]]
    assert made.positions.tolist() == [p for row in ROWS for p in range(1, len(row) - 1)]


def test_heads_that_write_nothing_change_nothing() -> None:
    made = ablation_loss(silent_gpt2(), (1, 2), ROWS, others=None)
    assert float(made.change.abs().max()) < 1e-5
    assert len(made.others) == 11
    assert float(made.others_change.abs().max()) < 1e-5


def test_the_places_where_copying_is_possible_are_known_without_a_tokenizer() -> None:
    made = ablation_loss(ins.open(build("gpt2")), (0, 0), ROWS, others=3)
    assert list(made.labels) == ["copying"]
    assert made.right[made.labels["copying"]].tolist() == [9, 8]
    (share,) = made.behaviours(n=2)
    assert share.base == pytest.approx(2 / len(made.right))
    place = made.top(1)[0]
    assert place.change == float(made.change.max())
    assert place.context == " ".join(map(str, ROWS[place.row][: place.position + 1]))


def test_in_a_net_of_successions_the_best_head_is_needed_at_successors() -> None:
    model = ins.open("toy-succession")
    known = behaviours(model)
    ids = model.tokenizer("Tuesday next Wednesday again 41 next 42 December next January")["input_ids"]
    held = {k: [i for i in range(1, len(ids)) if fn(ids[:i], ids[i])] for k, fn in known.items()}
    assert held["successor"] == [3, 7, 10]
    assert held["greater"] == [7]
    assert held["copying"] == [6, 9]


def test_what_cannot_be_measured_says_why() -> None:
    with pytest.raises(ins.ModelError, match="does not score the next token"):
        ablation_loss(ins.open(build("bert")), (0, 0), ROWS)
    with pytest.raises(ins.InputError, match=r"no head \(0, 99\)"):
        ablation_loss(ins.open(build("gpt2")), (0, 99), ROWS)
    with pytest.raises(ins.InputError, match="needs texts"):
        ablation_loss(ins.open(build("gpt2")), (0, 0), [])
    with pytest.raises(ins.ModelError, match="no heads"):
        ablation_loss(ins.open(build("mamba")), (0, 0), ROWS)
