"""Controllers of states that were read before, and controllers that decide ahead of the run they act in."""

from typing import Any

import pytest
import torch

import inscape as ins
from inscape.core.edits.control import decide
from inscape.steer.controller import SteeringController
from inscape.steer.fit_controller import fit_controller
from tests.common.small import direction, gpt2
from tests.common.steering import ROWS, beams_need_no_cache
from tests.steer.texts import two_sides

SEEN = ("layers.0.resid_post", "layers.1.resid_post")
ACT = ("layers.1.resid_post", "layers.2.resid_post")


def _directions() -> ins.Directions:
    return ins.Directions.of(direction(ACT[0], 1), direction(ACT[1], 2))


def test_states_that_were_read_before_fit_the_same_controller_as_their_inputs():
    model, (high, low) = gpt2(), two_sides(12)
    options: dict[str, Any] = {"hidden": 16, "steps": 40}
    made = fit_controller(model, _directions(), high, low, SEEN, **options)
    for side in ("left", "right"):
        whole = [ins.run(model, rows, read=SEEN, padding_side=side) for rows in (high, low)]
        last = [ins.run(model, rows, read=SEEN, reduce="last", padding_side=side) for rows in (high, low)]
        for traces in (whole, last, [dict(t) for t in last]):
            again = fit_controller(model, _directions(), traces[0], traces[1], SEEN, **options)
            for name, tensor in again.controller.tensors.items():
                torch.testing.assert_close(tensor, made.controller.tensors[name], atol=1e-4, rtol=1e-3)
            found = [made.score(model, inputs).strength for inputs in (high, traces[0])]
            torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_states_that_cannot_be_taken_are_refused():
    model, (high, low) = gpt2(), two_sides(6)
    good = [dict(ins.run(model, rows, read=SEEN, reduce="last")) for rows in (high, low)]
    broken = {**good[1], SEEN[1]: good[1][SEEN[1]].index_fill(0, torch.tensor([2]), torch.nan)}
    cases: list[tuple[type[Exception], str, Any, dict[str, Any]]] = [
        (ins.NotFiniteError, r"negative: 1 states are not finite at layers\.1\.resid_post", (good[0], broken), {}),
        (ins.InputError, r"positive has no states of layers\.1", ({SEEN[0]: good[0][SEEN[0]]}, good[1]), {}),
        (
            ins.ShapeError,
            r"shape \(6, 1, 32\); they are \[n, d\]",
            ({s: x[:, None] for s, x in good[0].items()}, []),
            {},
        ),
        (ins.InputError, "one side has states and the other inputs", (good[0], low), {}),
        (ins.InputError, "runs the inputs: give texts", good, {"training": "end_to_end", "targets": [[1]] * 6}),
        (ins.ShapeError, r"has shape \(8,\); a state there has 32 units", good, {"act": direction(ACT[1], width=8)}),
    ]
    for error, match, sides, more in cases:
        act = more.pop("act", _directions())
        with pytest.raises(error, match=match):
            fit_controller(model, act, sides[0], sides[1], SEEN, steps=1, **more)
    with pytest.warns(UserWarning, match="no discrimination is learned"):
        fit_controller(model, _directions(), good[0], [], SEEN, steps=1)


def test_decided_ahead_it_observes_the_end_and_changes_the_beginning(tmp_path):
    model, (high, low) = gpt2(), two_sides(12)
    early = ins.Directions.of(direction("layers.0.resid_post", 1), direction("layers.1.resid_post", 2))
    late = "layers.2.resid_post"
    made = fit_controller(model, early, high, low, late, hidden=16, steps=40, alpha=2.0, timing="ahead")
    with pytest.raises(ins.InputError, match=r"take \.edits_for\(model, inputs\)"):
        made.edits()
    with pytest.raises(ins.EditError, match="decides before a run, not in it"):
        decide(made.controller)
    with pytest.raises(ins.InputError, match="timing='ahead' decides before the run that would train it"):
        fit_controller(model, early, high, low, late, timing="ahead", training="end_to_end", targets=[[1]] * 12)
    made.save(tmp_path / "c.safetensors")
    edits = SteeringController.load(tmp_path / "c.safetensors").edits_for(model, ROWS, 0.5)
    numbers = made.controller.numbers(torch.stack([ins.run(model, [r], read=late)[late][0, -1] for r in ROWS]))
    plain, now = (ins.run(model, ROWS, read=SEEN[0], edits=e, reduce="last")[SEEN[0]] for e in ((), edits))
    force = 0.5 * 2.0 * numbers[:, :1] * numbers[:, 1:2]
    torch.testing.assert_close(now - plain, force * early[SEEN[0]].vector, atol=1e-4, rtol=1e-3)
    both = [ins.generate(model, ROWS, edits=edits, read=ACT[1], max_new_tokens=5, use_cache=c) for c in (True, False)]
    assert both[0].tokens.tolist() == both[1].tokens.tolist()
    torch.testing.assert_close(both[0].trace[ACT[1]][:, -5:], both[1].trace[ACT[1]][:, -5:], atol=1e-4, rtol=1e-3)
    beams_need_no_cache(edits)
