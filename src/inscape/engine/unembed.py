"""From the residual stream to the model's own scores: its final norm, its head and the rules after the head.

Lenses and skip effects need the scores of a few positions only. Running these modules on the positions that are
wanted costs a fraction of the full output where the vocabulary is large (262,144 columns in Gemma 3).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from inscape.core.errors import ModelError
from inscape.engine.forward import run
from inscape.models.model import Model

BUDGET = 192 * 2**20  # bytes of float32 logits alive at once; statistics make about three such tensors


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The model's last steps as one function: `rules(head(norm(h)))`, in float32.

    norm: the model's own final norm, None where every block ends in one. rules: (kind, number) after the head, in
    order: "softcap" c tanh(x / c), "times", "divide". how: the same in words, for figures.
    """

    norm: nn.Module | None
    head: nn.Module
    rules: tuple[tuple[str, float], ...]
    how: str
    n_vocab: int

    def __call__(self, hidden: Float[Tensor, "*rows d_model"], normed: bool = False) -> Float[Tensor, "*rows vocab"]:
        """Scores for states of the stream; `normed` for states that have passed the final norm already."""
        with _grad_of(hidden):
            return self._ruled(self.head(self._ready(hidden, normed)).float())

    def columns(
        self, hidden: Float[Tensor, "rows d_model"], tokens: Int[Tensor, "*rows k"], normed: bool = False
    ) -> Float[Tensor, "rows k"]:
        """Scores of k tokens alone, the same for all rows [k] or k a row: rows of the head's matrix, not all of it."""
        shared, head = tokens.ndim == 1, self.matrix
        if head is None:
            tokens = tokens.to(hidden.device)
            return self(hidden, normed).gather(-1, tokens.expand(len(hidden), -1) if shared else tokens)
        with _grad_of(hidden):
            ready, tokens = self._ready(hidden, normed), tokens.to(head.weight.device)
            weight = head.weight[tokens]
            scores = ready @ weight.T if shared else (weight @ ready[..., None])[..., 0]
            if head.bias is not None:
                scores = scores + head.bias[tokens]
            return self._ruled(scores.float())

    @property
    def matrix(self) -> nn.Linear | None:
        """The head where it is one matrix (and a bias), so that parts of its scores can be computed alone."""
        head = self.head
        return head if type(head) is nn.Linear and head.weight.is_floating_point() else None

    def slabs(
        self,
        ready: Float[Tensor, "rows d_model"],
        width: int,
        *,
        ruled: bool = True,
        dtype: torch.dtype | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "rows part"]]]:
        """The scores of `width` tokens after the other, as (first token, scores), for states that `ready` gave.

        All scores never exist at once where the head is one matrix; other heads give them whole, cut afterwards. What
        was given last is overwritten by the next. No gradient passes. ruled=False: before the rules, see `bent`.
        dtype: of the products, the matrix's own when left out.
        """
        with torch.no_grad():
            head = self.matrix
            if head is None:
                scores = self.head(ready).float()
                scores = self._ruled(scores) if ruled else scores
                for start in range(0, scores.shape[-1], width):
                    yield start, scores[:, start : start + width]
                return
            weight, bias, dtype = head.weight, head.bias, dtype or head.weight.dtype
            room = torch.empty(len(ready), min(width, len(weight)), dtype=dtype, device=weight.device)
            ready = ready.to(dtype)
            for start in range(0, len(weight), width):
                part = weight[start : start + width].to(dtype)
                out = room[:, : len(part)]
                if bias is None:
                    torch.mm(ready, part.T, out=out)
                else:
                    torch.addmm(bias[start : start + width].to(dtype), ready, part.T, out=out)
                yield start, self._ruled(out.float()) if ruled else out.float()

    def ready(self, hidden: Float[Tensor, "*rows d_model"], normed: bool = False) -> Float[Tensor, "*rows d_model"]:
        """States as the head reads them: past the final norm, on its device, in its dtype."""
        with _grad_of(hidden):
            return self._ready(hidden, normed)

    def _ready(self, hidden: Tensor, normed: bool) -> Tensor:
        weight = next(self.head.parameters(), None)
        hidden = hidden.to(device=weight.device) if weight is not None else hidden
        if self.norm is not None and not normed:
            hidden = self.norm(hidden)
        return hidden.to(weight.dtype) if weight is not None and weight.is_floating_point() else hidden

    def _ruled(self, scores: Tensor) -> Tensor:
        """Scores after the rules that follow the head."""
        for kind, number in self.rules:
            if kind == "softcap":
                scores = torch.tanh(scores / number) * number
            else:
                scores = scores * number if kind == "times" else scores / number
        return scores

    def bent(self, raw: Float[Tensor, "*rows vocab"]) -> tuple[Float[Tensor, "*rows vocab"], Tensor | float]:
        """Scores after the rules, and what the rules do to a small change: one number where they are linear."""
        scores, slope = raw, 1.0
        for kind, number in self.rules:
            if kind == "softcap":
                bend = torch.tanh(scores / number)
                scores, slope = bend * number, slope * (1 - bend.square())
            else:
                factor = number if kind == "times" else 1 / number
                scores, slope = scores * factor, slope * factor
        return scores, slope

    def rows_at_once(self, budget: int = BUDGET) -> int:
        """How many rows of scores fit the budget; at least one."""
        return max(1, budget // (4 * self.n_vocab))


def predicts_next(model: Model) -> bool:
    """Does this model score the next token at every position? True for decoders that can generate."""
    can = getattr(model.module, "can_generate", None)
    config = model.config
    return bool(can and can() and "logits" in model.sites and not getattr(config, "is_encoder_decoder", False))


def unembedding(model: Model) -> Unembedding:
    """The final norm, head and rules of this model, by its sites.

    Raises: ModelError when the model has no head that turns one state of the stream into one row of scores. Whether
    they give the model's own scores is a question for `reads_as_the_model_does`.
    """
    logits = model.points.get("logits")
    if logits is None:
        raise ModelError(f"{type(model.module).__name__} has no head: nothing in it turns the stream into scores.")
    if logits.kind != "module" or logits.side != "out" or logits.index not in (None, 0) or logits.part is not None:
        raise ModelError(
            f"the scores of {type(model.module).__name__} ({logits.path}) are not the output of one module."
        )
    blocks = model.blocks
    prefix = blocks[0].name.rsplit("layers.", 1)[0] if blocks else ""
    norm = model.points.get(f"{prefix}final_norm")
    if norm is not None and (norm.side != "out" or norm.part is not None):
        raise ModelError(
            f"the final norm ({norm.path}) is no module of its own, so nothing else can be passed through it."
        )
    rules, said = [], []
    for rule in model.family.logits_after:
        kind, _, name = rule.partition(":")
        value = _number(model.config, name)
        if value:
            rules.append((kind, value))
            said.append(
                {"softcap": f"softcap {value:g}", "times": f"times {value:g}", "divide": f"divided by {value:g}"}[kind]
            )
    parts = [
        f"norm {norm.path}" if norm is not None else "no norm (every block ends in one)",
        f"head {logits.path}",
        *said,
    ]
    return Unembedding(
        norm.module if norm is not None else None,
        logits.module,
        tuple(rules),
        ", ".join(parts),
        _width(model, logits.module),
    )


def reads_as_the_model_does(model: Model, unembed: Unembedding, inputs: Any) -> float:
    """Largest difference between scores made from the last layer's stream and the model's own, over the largest score.

    Cost: one forward with its head; give a few tokens.
    Raises: ModelError when the two differ in shape: the model does not score every position (a class token, a pool).
    """
    site = f"{model.blocks[-1].name}.resid_post" if model.blocks else ""
    if site not in model.sites:
        raise ModelError(f"{type(model.module).__name__} has no residual stream to make scores from.")
    trace = run(model, inputs, read=site, output=True)
    own = getattr(trace.output, "logits", None)
    if not isinstance(own, Tensor):
        raise ModelError(f"the output of {type(model.module).__name__} has no logits to compare with.")
    if own.ndim != 3 or own.shape[:2] != trace[site].shape[:2]:
        raise ModelError(
            f"this model gives scores of shape {tuple(own.shape)} for {tuple(trace[site].shape[:2])} positions: "
            "not one row a position."
        )
    try:
        made = unembed(trace[site])
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"the head cannot be applied to the stream alone: {error}") from error
    if made.shape != own.shape:
        raise ModelError(
            f"scores made from the stream have shape {tuple(made.shape)}, the model's own {tuple(own.shape)}."
        )
    own = own.float()
    mask = (
        trace.mask
        if trace.mask is not None and trace.mask.shape == own.shape[:2]
        else torch.ones(own.shape[:2], dtype=torch.bool)
    )
    return float((made - own)[mask].abs().max() / own[mask].abs().max().clamp(min=1e-9))


def in_chunks(
    unembed: Unembedding,
    hidden: Float[Tensor, "rows d_model"],
    use: Callable[[Tensor, slice], Any],
    *,
    normed: bool = False,
    rows: int | None = None,
) -> None:
    """Call `use(scores, rows)` for one chunk of rows after the other, so that all scores never exist at once."""
    step = rows or unembed.rows_at_once()
    for start in range(0, len(hidden), step):
        here = slice(start, min(start + step, len(hidden)))
        use(unembed(hidden[here], normed), here)


def _number(config: Any, name: str) -> float | None:
    for owner in (config, getattr(config, "get_text_config", lambda: None)()):
        value = getattr(owner, name, None)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _width(model: Model, head: nn.Module) -> int:
    width = getattr(head, "out_features", None)
    if isinstance(width, int):
        return width
    text = getattr(model.config, "get_text_config", lambda: model.config)()
    return int(getattr(text, "vocab_size", None) or getattr(model.config, "num_labels", 1))


def _grad_of(hidden: Tensor) -> torch.set_grad_enabled:
    """A graph where the states are part of one, none otherwise."""
    return torch.set_grad_enabled(torch.is_grad_enabled() and hidden.requires_grad)
