"""How far an edit moves a model's prediction, measured at a few positions so that large vocabularies stay cheap."""

from typing import Any

import torch
from torch import Tensor

from inscape.core.edit import Edit
from inscape.core.errors import InputError, ModelError
from inscape.engine.forward import run
from inscape.engine.unembed import Unembedding, in_chunks, reads_as_the_model_does, unembedding
from inscape.models.model import Model


class Measure:
    """The clean run's scores at the measured positions, and how far an edited run is from them.

    places: rows and columns that are measured. state: what the head reads there. whole: the clean log probabilities of
    a model whose head cannot be called on its own.
    """

    places: tuple[Tensor, Tensor]
    state: Tensor
    whole: Tensor | None
    n: int
    rows: int

    def __init__(self, model: Model, inputs: Any, site: str, unembed: Unembedding | None) -> None:
        self.model, self.inputs, self.site, self.unembed = model, inputs, site, unembed
        self.next: Tensor | None = None
        self.losses: Tensor | None = None
        self.kept: Tensor | None = None

    @classmethod
    def of(cls, model: Model, inputs: Any, positions: int, causal: bool, seed: int) -> "Measure":
        blocks = model.blocks
        last = f"{blocks[-1].name}.resid_post"
        prefix = blocks[0].name.rsplit("layers.", 1)[0]
        unembed = None
        if "logits" in model.sites:
            try:
                unembed = unembedding(model)
                if reads_as_the_model_does(model, unembed, inputs if not causal else _short(inputs)) > 5e-2:
                    unembed = None
            except ModelError:
                unembed = None
        site = (
            f"{prefix}final_norm"
            if unembed is not None and unembed.norm is not None and f"{prefix}final_norm" in model.sites
            else last
        )
        self = cls(model, inputs, site, unembed)
        trace = run(model, inputs, read=site, output=True if unembed is None and "logits" in model.sites else None)
        self.state = trace[site].float()
        self.whole = _log_scores(trace) if unembed is None else None
        self._choose(trace.mask, trace.tokens, positions, causal, seed)
        self.state = self._at(self.state)
        if unembed is not None:
            self.losses = self._loss(self.state)
        return self

    def _choose(self, mask: Tensor | None, tokens: Tensor | None, positions: int, causal: bool, seed: int) -> None:
        shape = self.state.shape[:2]
        real = mask.cpu().bool() if mask is not None and mask.shape == shape else torch.ones(shape, dtype=torch.bool)
        if causal:  # a position counts when a real token follows it
            real = real & torch.cat([real[:, 1:], torch.zeros_like(real[:, :1])], 1)
            real = real & (real.long().cumsum(1) > 1) if bool((real.sum(1) > 1).all()) else real
        where = real.nonzero()
        if not len(where):
            raise InputError("there is no position to measure: every input needs at least two tokens.")
        if len(where) > positions:
            chosen = torch.randperm(len(where), generator=torch.Generator().manual_seed(seed))[:positions]
            where = where[chosen.sort().values]
        self.places = (where[:, 0], where[:, 1])
        self.n = len(where)
        self.rows = shape[0]
        if causal and tokens is not None:
            self.next = tokens.cpu()[where[:, 0], where[:, 1] + 1]

    def _at(self, state: Tensor) -> Tensor:
        rows, columns = self.places
        return state[rows.to(state.device), columns.to(state.device)]

    def _loss(self, state: Tensor) -> Tensor | None:
        following, unembed = self.next, self.unembed
        if following is None or unembed is None:
            return None
        out = torch.zeros(len(state))

        def use(scores: Tensor, here: slice) -> None:
            wanted = following[here].to(scores.device)
            out[here] = (scores.logsumexp(-1) - scores.gather(-1, wanted[:, None])[:, 0]).cpu()

        in_chunks(unembed, state, use, normed=self.normed)
        return out

    @property
    def normed(self) -> bool:
        """Are the states those after the final norm?"""
        return self.site.endswith("final_norm")

    def _clean_scores(self, unembed: Unembedding, here: slice, keep: bool) -> Tensor:
        """Log probabilities of the clean run; made once where they fit in one chunk."""
        if self.kept is not None:
            return self.kept
        scores = torch.log_softmax(unembed(self.state[here], self.normed), -1)
        if keep:
            self.kept = scores
        return scores

    @property
    def mean_loss(self) -> float | None:
        return float(self.losses.mean()) if self.losses is not None else None

    def loss_change(self, edit: Edit) -> Tensor | None:
        """The loss at every measured position with the edit, less that without: `against` for a third of its cost."""
        if self.losses is None:
            return None
        trace = run(self.model, self.inputs, read=self.site, edits=[edit])
        edited = self._loss(self._at(trace[self.site].float()))
        return edited - self.losses if edited is not None else None

    def against(self, edit: Edit) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """(kl, loss change, relative change of the final state) at every measured position."""
        output = True if self.whole is not None else None
        trace = run(self.model, self.inputs, read=self.site, edits=[edit], output=output)
        state = self._at(trace[self.site].float())
        moved = ((state - self.state).norm(dim=-1) / self.state.norm(dim=-1).clamp(min=1e-6)).cpu()
        if self.whole is not None:
            scores = _log_scores(trace)
            return _kl(self.whole, scores) if scores is not None else None, None, moved
        if self.unembed is None:
            return None, None, moved
        kl, loss = torch.zeros(len(state)), torch.zeros(len(state))
        step = max(1, self.unembed.rows_at_once() // 2)
        for start in range(0, len(state), step):
            here = slice(start, start + step)
            clean = self._clean_scores(self.unembed, here, len(state) <= step)
            edited = torch.log_softmax(self.unembed(state[here], self.normed), -1)
            kl[here] = _kl(clean, edited)
            if self.next is not None:
                loss[here] = -edited.gather(-1, self.next[here].to(edited.device)[:, None])[:, 0].cpu()
        return kl, loss - self.losses if self.losses is not None else None, moved


def _short(inputs: Any) -> Any:
    """One short row is enough to see whether head and stream fit."""
    if isinstance(inputs, list) and inputs and isinstance(inputs[0], list):
        return [inputs[0][:12]]
    return inputs


def _log_scores(trace: Any) -> Tensor | None:
    scores = getattr(trace.output, "logits", None) if trace.has_output else None
    return torch.log_softmax(scores.detach().float(), -1) if isinstance(scores, Tensor) and scores.ndim >= 2 else None


def _kl(clean: Tensor, edited: Tensor) -> Tensor:
    """sum p (log p - log q) along the last axis; flat over the rest."""
    p = clean.exp()
    gap = (clean - edited).clamp(-1e4, 1e4)
    return (p * gap).sum(-1).clamp(min=0).flatten().cpu()
