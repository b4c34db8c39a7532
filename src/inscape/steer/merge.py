"""Edits put into a model's own weights, where that is exactly the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit, at_site
from inscape.core.errors import EditError, InputError
from inscape.core.weight_swap import swap_weights
from inscape.engine.forward import run
from inscape.engine.planning import names_of
from inscape.engine.probe import evaluating, main_output, probe_inputs
from inscape.models.model import Model
from inscape.steer.affine_form import AffineForm, affine_form
from inscape.steer.folding import Host
from inscape.steer.hosts import Hosts


@dataclass(eq=False)
class Merged:
    """A model with edits in its weights. `undo()` puts the former weights back, bit by bit, `apply()` the edits in
    again; as a context manager it undoes at the end. Between the two the module is saved and served like any other.

    edits: as given. weights: names of the parameters that hold them. effect: largest change of the output that the
    edits made on the check's input; difference: largest one between the edited and the merged model there.
    """

    model: Model
    edits: tuple[Edit, ...]
    effect: float
    difference: float
    places: dict[str, Tensor] = field(repr=False)
    original: dict[str, Tensor] = field(repr=False)
    merged: dict[str, Tensor] = field(repr=False)
    is_applied: bool = True

    @property
    def weights(self) -> tuple[str, ...]:
        return tuple(self.places)

    def undo(self) -> None:
        """Put the former weights back, bit-equal. Raises: ModelError when they were changed by something else since."""
        if self.is_applied:
            swap_weights(self.places, self.merged, self.original, "merged")
            self.is_applied = False

    def apply(self) -> None:
        """Put the merged weights in again, bit-equal. Raises: as `undo`."""
        if not self.is_applied:
            swap_weights(self.places, self.original, self.merged, "undone")
            self.is_applied = True

    def __enter__(self) -> "Merged":
        return self

    def __exit__(self, *_: Any) -> None:
        self.undo()


def merge_edits(model: Model, edits: Edit | Sequence[Edit], *, inputs: Any = None) -> Merged:
    """Change the weights so that the plain model does what it does under these edits: no hook, no cost, any server.

    An edit can be merged when it is the same affine map x -> A x + c of every token, whatever made it (`ins.add` of a
    vector, `project_out`, `scale`, `ablate` to a constant, an affine map, a linear function of your own), and

    - a linear layer, an embedding or a norm gives the site's value: W becomes A W and b becomes A b + c
      (a norm only where A is diagonal), or
    - linear layers alone read it (`mlp.act`, `attn.z`, a norm's output that the norm itself cannot take up): W becomes
      W A and b becomes b + W c, or
    - the site is the stream and A the identity: `c` goes to the bias of the branch that was added last.

    A shift needs a bias that is there: adding a vector to the stream can be merged into GPT-2, not into Llama or Gemma,
    whose projections have none. Nothing is changed unless all edits can be merged, and the merged model gave the edited
    one's output on `inputs` (left out: a short seeded sample) to rounding; then `undo` is the way back.

    Cost: a few short forwards, the changed weights three times in memory, one product of matrices for each of them.
    Raises: EditError naming the edit and the reason it cannot be merged, or that the two models differ by so much.
    """
    edits = (edits,) if isinstance(edits, Edit) else tuple(edits)
    if not edits:
        raise InputError("merge_edits takes edits; the list is empty.")
    inputs = probe_inputs(model) if inputs is None else inputs
    with evaluating(model.module):
        new = _new_weights(model, edits, Hosts(model, inputs))
        plain, edited = _output(model, inputs), _output(model, inputs, edits)
        places: dict[str, Tensor] = {name: model.module.get_parameter(name) for name in new}
        original = {name: place.detach().clone() for name, place in places.items()}
        merged = {name: value.to(places[name]) for name, value in new.items()}
        swap_weights(places, original, merged, "read")
        try:
            difference, effect = _check(edits, plain, edited, _output(model, inputs), model.dtype)
        except BaseException:
            swap_weights(places, merged, original, "merged")
            raise
    return Merged(model, edits, effect, difference, places, original, merged)


def _new_weights(model: Model, edits: Sequence[Edit], hosts: Hosts) -> dict[str, Tensor]:
    order = {name: i for i, name in enumerate(model.points)}
    found: list[tuple[int, str, Edit]] = []
    for edit in edits:
        sites = [name for name in names_of(model, edit.site) if name in model.points]
        if not sites:
            raise EditError(f"{edit!r} acts at no named site; merge_edits takes edits at sites of the model's table.")
        found += [(order[site], site, at_site(edit, site, tuple(sites))) for site in sites]
    found.sort(key=lambda entry: entry[0])  # as a forward meets them; edits at one site in the order given
    hosts.read(site for _, site, _ in found)
    steps: list[tuple[Host, AffineForm]] = []
    for _, site, edit in found:
        form = affine_form(edit, model.points[site], tuple(hosts.value(site).shape[2:]))
        steps += [(host, form) for host in hosts.of(site, form)]
    new: dict[str, Tensor] = {}
    for host, form in _in_turn(steps):
        new |= host.taken_up(form, new)
    return new


def _in_turn(steps: list[tuple[Host, AffineForm]]) -> list[tuple[Host, AffineForm]]:
    """What a module reads is mapped last by the last edit, and W A A' takes that one first; outputs the other way."""
    return [s for s in steps if s[0].side == "out"] + [s for s in reversed(steps) if s[0].side == "in"]


def _output(model: Model, inputs: Any, edits: Sequence[Edit] = ()) -> Tensor:
    out = main_output(run(model, inputs, edits=list(edits), output=True).output)
    if out is None:
        raise InputError("this model gives no floating tensor to compare.")
    return out.double()


def _check(
    edits: Sequence[Edit], plain: Tensor, edited: Tensor, merged: Tensor, dtype: torch.dtype
) -> tuple[float, float]:
    """(difference, effect); EditError where the merged model is not the edited one."""
    effect, difference = float((edited - plain).abs().max()), float((merged - edited).abs().max())
    steps, share = (64, 1e-3) if torch.finfo(dtype).bits >= 32 else (4, 0.1)
    rounding = steps * torch.finfo(dtype).eps * float(edited.abs().max())
    if not difference <= max(rounding, share * effect):
        what = "the edit" if len(edits) == 1 else "these edits"
        raise EditError(
            f"{what} in the weights is not the edit: outputs differ by {difference:.1e}, where the edit changes them "
            f"by {effect:.1e}; the weights are as they were.\n"
            "  something else reads these weights' output too, or the numbers of this dtype are too coarse "
            f"({str(dtype).removeprefix('torch.')})."
        )
    return difference, effect
