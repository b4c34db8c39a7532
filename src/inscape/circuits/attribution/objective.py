"""What attribution differentiates: a metric of every row, with no more of the head computed than it needs."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, ModelError
from inscape.core.metrics import BoundMetric, metric_of
from inscape.core.trace import Trace
from inscape.engine.blocks import CannotReenter
from inscape.engine.forward import run
from inscape.engine.inputs import Inputs
from inscape.engine.planning import point_of
from inscape.engine.tail import tail_of
from inscape.engine.unembed import Unembedding
from inscape.engine.whole import logits_of, rows_of
from inscape.models.model import Model
from inscape.train.frozen import frozen

FLAT = {"rank": "log_prob", "accuracy": "logit_diff"}  # piecewise constant -> what to take in their place


@dataclass(frozen=True, eq=False)
class Gradients:
    """Values and gradients of some rows at every site, and the metric of each row. No graph is held."""

    values: dict[str, Tensor]
    grads: dict[str, Tensor]
    metric: Float[Tensor, " n"]
    trace: Trace


@dataclass(frozen=True, eq=False)
class Objective:
    """A metric bound to a model and to inputs of `n_rows` rows.

    unembed, stream: set where the scores of the answers alone can be made from the last layer's stream.
    """

    model: Model
    inputs: Inputs
    n_rows: int
    bound: BoundMetric
    unembed: Unembedding | None = None
    stream: str = ""
    reference: Tensor | None = None
    targets: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, inputs: Inputs, metric: Any, reference: Tensor | None = None) -> "Objective":
        """reference: logits [rows, vocab] of the run that the metric compares with, if it does.

        Raises: InputError for a metric without a gradient, or one that compares with a run that is not there.
        """
        made = metric_of(metric)
        if made.name in FLAT:
            raise InputError(
                f"{made.name} is a step function: its gradient is 0 everywhere.\n"
                f"  attribute {FLAT[made.name]} instead, or measure {made.name} exactly with ins.sweep."
            )
        if made.reference and reference is None:
            raise InputError(f"{made.name} compares with another run, and there is none here; take a logit difference.")
        n_rows = n_rows_of(inputs)
        bound = made.bound(model.tokenizer, n_rows, None)
        unembed = None
        if made.columns and model.blocks and inputs.mask is not None:
            try:
                unembed = tail_of(model, inputs, bound.tokens).unembed
            except CannotReenter:
                unembed = None
        stream = f"{model.blocks[-1].name}.resid_post" if unembed is not None else ""
        targets = _following(inputs) if made.at == "all" else None
        return cls(model, inputs, n_rows, bound, unembed, stream, reference, targets)

    def gradients(
        self, sites: Sequence[str], rows: Sequence[int] | None = None, edits: Sequence[Edit] = ()
    ) -> Gradients:
        """One forward and one backward of these rows (all of them; a row may come several times).

        Edits see the batch of these rows. Raises: InputError for a site that has no gradient.
        """
        graph = self.forward(sites, rows, edits)
        found = torch.autograd.grad(
            graph.metric.sum(), [graph.values[s] for s in sites], allow_unused=True, materialize_grads=False
        )
        grads = {}
        for site, grad in zip(sites, found, strict=True):
            if grad is None and point_of(self.model, site).kind != "expert":
                raise _unreached(site, self.bound.metric.name)
            grads[site] = grad if grad is not None else torch.zeros_like(graph.values[site])
        values = {s: graph.values[s].detach() for s in sites}
        graph.trace.values_ = {}
        return Gradients(values, grads, graph.metric.detach(), graph.trace)

    def forward(
        self, sites: Sequence[str], rows: Sequence[int] | None = None, edits: Sequence[Edit] = (), grad: bool = True
    ) -> Gradients:
        """One forward of these rows; with grad, `values` and `metric` are parts of its graph. `grads` is empty."""
        which = list(range(self.n_rows)) if rows is None else list(rows)
        inputs = self.inputs if rows is None else rows_of(self.inputs, which, self.n_rows)
        return self.on(inputs, which, sites, edits, grad)

    def on(
        self, inputs: Inputs, which: Sequence[int], sites: Sequence[str] = (), edits: Sequence[Edit] = (),
        grad: bool = True,
    ) -> Gradients:  # fmt: skip
        """One forward of these inputs, measured as the rows `which`."""
        short = self.unembed if self._ends_before_the_head(sites, edits) else None
        read = [*sites, *([self.stream] if short is not None and self.stream not in sites else [])]
        output: Any = False if short is not None else ("last" if self._last_alone(inputs) else True)
        still = frozen(self.model.module) if grad else contextlib.nullcontext()  # no graph below the first site
        with still, torch.set_grad_enabled(grad):
            trace = run(self.model, inputs, read=read or None, edits=list(edits), output=output, grad=grad)
            if short is not None:
                numbers = self._from_the_stream(short, trace[self.stream], torch.tensor(list(which)), inputs)
            else:
                numbers = self._from_the_output(trace, torch.tensor(list(which)), inputs)
        if grad:
            for site in sites:
                if not trace[site].is_floating_point():
                    raise InputError(f"{site} holds {trace[site].dtype} numbers, which have no gradient.")
            if not numbers.requires_grad:
                raise _unreached(", ".join(sites[:3]) or "any site", self.bound.metric.name)
        return Gradients({s: trace[s] for s in sites}, {}, numbers, trace)

    def measure(self, rows: Sequence[int] | None = None, edits: Sequence[Edit] = ()) -> Float[Tensor, " n"]:
        """The metric alone, without a graph."""
        return self.forward((), rows, edits, grad=False).metric

    def _ends_before_the_head(self, sites: Sequence[str], edits: Sequence[Edit]) -> bool:
        """Does all that is asked for happen before the last layer's stream is left?"""
        order = list(self.model.points)
        before = set(order[: order.index(self.stream) + 1]) if self.stream else set()
        return bool(before) and all(s in before for s in (*sites, *(e.site for e in edits)))

    def _from_the_stream(self, unembed: Unembedding, state: Tensor, rows: Tensor, inputs: Inputs) -> Tensor:
        tokens = self.bound.tokens
        assert tokens is not None
        ends = state[torch.arange(len(state), device=state.device), _last_columns(inputs).to(state.device)]
        return self.bound.of_columns(unembed.columns(ends, tokens[rows]), rows)

    def _from_the_output(self, trace: Trace, rows: Tensor, inputs: Inputs) -> Tensor:
        logits = logits_of(self.model, trace.output).float()
        more: dict[str, Any] = {}
        if self.reference is not None and self.bound.metric.reference:
            more["reference"] = self.reference[rows].to(logits.device)
        if self.bound.metric.at == "all":
            if self.targets is None or logits.ndim != 3:
                raise InputError(f"{self.bound.metric.name} needs the tokens that follow, and these are no tokens.")
            return self.bound.of_logits(logits, rows, targets=self.targets[rows].to(logits.device), **more)
        if logits.ndim == 3:
            last = _last_columns(inputs) if logits.shape[1] > 1 and inputs.mask is not None else None
            logits = logits[:, -1] if last is None else logits[torch.arange(len(logits)), last.to(logits.device)]
        if logits.ndim != 2:
            raise ModelError(f"the scores have shape {tuple(logits.shape)}: not one row of classes or tokens an input.")
        return self.bound.of_logits(logits, rows, **more)

    def _last_alone(self, inputs: Inputs) -> bool:
        return self.bound.metric.at == "last" and inputs.mask is not None and "logits" in self.model.points


def _unreached(sites: str, metric: str) -> InputError:
    return InputError(
        f"no gradient reaches {sites}: {metric} is not made of it, has no gradient itself, or what lies between them "
        "(quantised weights, a replayed state) lets none through.\n  measure it exactly with ins.sweep."
    )


def last_scores(model: Model, inputs: Inputs) -> Float[Tensor, "row vocab"]:
    """Logits at each row's last real token, or of each image: what a divergence compares with."""
    only = inputs.mask is not None and "logits" in model.points
    logits = logits_of(model, run(model, inputs, output="last" if only else True).output).float()
    return logits[:, -1] if logits.ndim == 3 else logits


def n_rows_of(inputs: Inputs) -> int:
    """How many rows the inputs have."""
    if inputs.mask is not None:
        return inputs.mask.shape[0]
    given = [v for v in (*inputs.args, *inputs.kwargs.values()) if isinstance(v, Tensor) and v.ndim]
    if not given:
        raise InputError("these inputs hold no tensor, so there are no rows to attribute.")
    return given[0].shape[0]


def _last_columns(inputs: Inputs) -> Int[Tensor, " n"]:
    assert inputs.mask is not None
    mask = inputs.mask.long()
    return mask.shape[1] - 1 - mask.flip(1).argmax(1)


def _following(inputs: Inputs) -> Tensor | None:
    """The next token of every position, -1 where none follows."""
    if inputs.tokens is None or inputs.mask is None:
        return None
    both = inputs.mask[:, :-1] & inputs.mask[:, 1:]
    following = torch.full_like(inputs.tokens, -1)
    following[:, :-1] = torch.where(both, inputs.tokens[:, 1:], -1)
    return following.cpu()
