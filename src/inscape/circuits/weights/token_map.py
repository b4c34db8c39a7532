"""What each head would say of each token: from a token, through values and output, to scores of other tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.circuits.weights.head import HeadWeights, head
from inscape.circuits.weights.head import heads as every_head
from inscape.circuits.weights.layer import Layer, block_of, layers
from inscape.circuits.weights.token_states import token_states
from inscape.core.errors import InputError, ModelError, TokenError
from inscape.core.metrics import token_ids
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.unembed import unembedding
from inscape.models.model import Model

Heads = str | HeadWeights | tuple[int, int] | Sequence[Any]
BATCH, TOKENS = 8, 1024  # texts at once in context mode, or more of them where they are short rows of ids


@dataclass(frozen=True, eq=False)
class TokenMap:
    """Scores of every target token for every source token, head by head.

    Scores are comparable within a row: the norm's size at the end, and a post-norm's, is one number a row.
    count: how often each source token was met, in context mode; NaN rows belong to tokens that never were.
    how: where the states of tokens came from and which norms were applied.
    """

    heads: tuple[str, ...]
    scores: Float[Tensor, "head source target"]
    sources: Int[Tensor, " source"]
    targets: Int[Tensor, " target"]
    how: str
    count: Int[Tensor, " source"] | None = None

    def of(self, head: str) -> Float[Tensor, "source target"]:
        """The map of one head, by its name ("layers.3.head.1")."""
        if head not in self.heads:
            raise InputError(f"no head is called {head!r} here; there are {', '.join(self.heads[:4])} ...")
        return self.scores[self.heads.index(head)]


def token_map(
    model: Model,
    heads: Heads = "all",
    source_tokens: Any = None,
    target_tokens: Any = None,
    *,
    pre: str = "embed+mlp0",
    inputs: Any = None,
    progress: Progress = None,
) -> TokenMap:
    """`M_h[s, t] = W_U[t] . final_norm( norm(x_s) W_V,h W_O,h )`: which tokens a head promotes when it attends to s.

    Nothing is run but embedding and first MLP; norms are this model's own modules, so gains, centring and sizes are
    right. Constants (biases of values, of norms) are left out: they are the same for every token. What follows the head
    in its layer (a multiplier, a post-norm) is applied with its gain; the size a post-norm divides by depends on all
    heads, and one number a row does not change which target is largest.
    heads: "all", or some of `weights.heads(model)`, or (layer, head) pairs.
    source_tokens, target_tokens: ids or texts of one token each; targets are the sources when left out.
    pre: what x_s is: "embed", "mlp0" or "embed+mlp0" (see `token_states`); or "context": the mean of what the head's
        norm gives at the places of s in `inputs` (texts), so what other layers have written there counts.
    Cost: one row a token through the first layer; then one d x d_head pair of products a head and token, and the head's
        columns of the targets. Memory: 4 bytes x heads x sources x targets.
    Raises: TokenError for a text that is not one token; ModelError without a head, or heads that cannot be taken apart.
    Source: Gould et al. 2023, arXiv:2312.09230, "effective OV"; which terms it keeps is not said, so all are here.
    """
    if source_tokens is None:
        raise InputError("token_map needs source_tokens=: ids, or texts of one token each.")
    sources = _ids(model, source_tokens, "source_tokens")
    targets = sources if target_tokens is None else _ids(model, target_tokens, "target_tokens")
    chosen = _chosen(model, heads)
    unembed = unembedding(model)
    by_layer: dict[str, list[HeadWeights]] = {}
    for one in chosen:
        by_layer.setdefault(one.layer, []).append(one)
    wired = dict(zip(by_layer, layers(model, [block_of(model, n) for n in by_layer]), strict=True))
    count = None
    if pre == "context":
        sized, count = _in_context(model, wired, sources, inputs, progress)
        how = f"mean of what each head's norm gives at {int(count.sum())} places in texts"
    elif inputs is not None:
        raise InputError(f"inputs= is for pre='context'; pre={pre!r} runs no text.")
    else:
        states = token_states(model, sources, pre)
        sized, how = {n: _sized(w, states.values) for n, w in wired.items()}, states.how
    scores = {}
    for number, (name, members) in enumerate(by_layer.items()):
        tell(progress, f"heads of {name}", number / len(by_layer))
        for one in members:
            out = one.OV.apply(sized[name])
            scores[one.name] = unembed.columns(out, targets).cpu()
    folded = ", ".join(dict.fromkeys(h.folded for h in chosen))
    names = tuple(h.name for h in chosen)
    return TokenMap(
        names, torch.stack([scores[n] for n in names]), sources, targets, f"{how}; {folded}; {unembed.how}", count
    )


def token_scores(
    model: Model, head: HeadWeights, states: Float[Tensor, "n d_model"], targets: Int[Tensor, " target"]
) -> Float[Tensor, "n target"]:
    """The same scores for any states of the stream in place of tokens': of edited ones, for instance.

    Raises: InputError for a head whose norms are not folded.
    """
    (head,) = _chosen(model, head)
    (wired,) = layers(model, [block_of(model, head.layer)])
    return unembedding(model).columns(head.OV.apply(_sized(wired, states)), targets).cpu()


def _chosen(model: Model, heads: Heads) -> list[HeadWeights]:
    if isinstance(heads, str):
        if heads != "all":
            raise InputError(
                f"heads={heads!r}: it can be 'all', heads of weights.heads(model), or (layer, head) pairs."
            )
        return every_head(model)
    many = [heads] if isinstance(heads, HeadWeights) or _is_pair(heads) else list(heads)
    made = [h if isinstance(h, HeadWeights) else head(model, *h) for h in many]
    raw = next((h for h in made if h.folded.startswith("as published")), None)
    if not made or raw is not None:
        raise InputError(
            "token_map needs at least one head" + (f", with its norms folded; {raw.name} is not." if raw else ".")
        )
    return made


def _is_pair(heads: Any) -> bool:
    return isinstance(heads, tuple) and len(heads) == 2 and all(isinstance(x, int) for x in heads)


def _ids(model: Model, tokens: Any, what: str) -> Tensor:
    if isinstance(tokens, str | int):
        tokens = [tokens]
    tokens = tokens.tolist() if isinstance(tokens, Tensor) else list(tokens)
    if not tokens:
        raise TokenError(f"{what} is empty: give at least one token.")
    return token_ids(model.tokenizer, tokens, len(tokens), what=what)[:, 0]


def _sized(wired: Layer, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
    """The stream over the size of the norm that feeds this layer's attention: what folded weights apply to."""
    if wired.norm is None or wired.norm_module is None:
        return x
    like = next(wired.norm_module.parameters(), x)
    with torch.no_grad():
        y = wired.norm_module(x.to(like)[None])[0]
    return x.to(y.device) / wired.norm.size(x.to(y.device), y)


def _in_context(
    model: Model, wired: dict[str, Layer], sources: Tensor, inputs: Any, progress: Progress
) -> tuple[dict[str, Tensor], Tensor]:
    """Per layer, the mean sized stream at the places of each source token in the texts; how many places there were."""
    if inputs is None:
        raise InputError("pre='context' needs inputs=: texts, or lists of token ids, in which the tokens stand.")
    if any(w.reads.endswith("attn.in") for w in wired.values()):
        raise ModelError("pre='context' needs heads that read the stream through a norm; these read something else.")
    if getattr(model.config, "is_encoder_decoder", False):
        raise ModelError(f"pre='context' reads one text a row, and {type(model.module).__name__} reads two.")
    rows = [inputs] if isinstance(inputs, str) else list(inputs)
    longest = max((len(row) for row in rows), default=1)
    batch = BATCH if any(isinstance(row, str) for row in rows) else max(BATCH, TOKENS // max(1, longest))
    total: dict[str, Tensor] = {}
    count = torch.zeros(len(sources), dtype=torch.long)
    for start in range(0, len(rows), batch):
        tell(progress, "reading tokens in their contexts", start / len(rows))
        trace = run(model, rows[start : start + batch], read=[w.reads for w in wired.values()])
        if trace.tokens is None or trace.mask is None:
            raise InputError("pre='context' needs inputs= of tokens: texts, or lists of token ids.")
        ids, real = trace.tokens.cpu(), trace.mask.bool().cpu()
        row, column, which = ((ids[..., None] == sources) & real[..., None]).nonzero(as_tuple=True)
        count += torch.bincount(which, minlength=len(sources))
        for name, w in wired.items():
            states = trace[w.reads][row.to(trace[w.reads].device), column.to(trace[w.reads].device)]
            sized = _sized(w, states.float()).double()
            total.setdefault(name, sized.new_zeros(len(sources), sized.shape[-1]))
            total[name].index_add_(0, which.to(sized.device), sized)
    if not bool(count.any()):
        raise InputError("none of the source tokens stands in the inputs.")
    mean = {
        n: torch.where(count[:, None] > 0, t.cpu() / count[:, None].clamp(min=1), torch.nan) for n, t in total.items()
    }
    return {n: m.float().to(model.device) for n, m in mean.items()}, count
