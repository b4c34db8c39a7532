"""Output signatures from a model: the head runs on the wanted positions only, a few rows at a time.

1. The stream before the head is read at every position (one forward, or during generation).
2. Of each wanted token, the state one position earlier: what that state says is the distribution the token came from.
3. The head makes scores of a chunk of these states; sorted top-k, rank, mu and sigma are taken, the rest is let go.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.errors import FileError, InputError, ModelError, TokenError
from inscape.core.progress import Progress, tell
from inscape.engine.forward import run
from inscape.engine.generate import Generation, generate
from inscape.engine.unembed import Unembedding, in_chunks
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding
from inscape.read.signatures.file import load_signatures, read_part, save_signatures
from inscape.read.signatures.signature import Signatures, together

VALUES = ("probability", "log")
PER_TOKEN = ("log_prob", "rank", "mu", "sigma", "log_mean", "log_std")


def capture(
    model: Model,
    inputs: Any,
    k: int = 1000,
    *,
    span: str | Bool[Tensor, "batch pos"] = "given",
    values: str = "probability",
    store: str | Path | None = None,
    rows: int = 32,
    budget: int | None = None,
    texts: bool = True,
    progress: Progress = None,
    **generate_kwargs: Any,
) -> Signatures:
    """The signature of every text that is given, or of every answer that the model generates.

    inputs: texts, token ids (a list of rows, or [row, pos] without padding), chats, a tokenizer's dict; for
        "generated" prompts, which are answered here (`generate_kwargs`: max_new_tokens, do_sample, ...), or what
        `ins.generate(..., read=signature_site(model))` gave.
    k: probabilities kept a step, at most the vocabulary. span: which tokens are steps: "given", all but the first
        (which nothing predicted); "generated", the new ones; or a mask of the tokens of `inputs`, as they are padded.
    values: "probability", in float16, where those below 6e-8 become 0; "log" keeps small ones, to 3 digits.
    store: a folder; each `rows` items are written there when they are done, and are not computed again by the same call
        later. budget: bytes of scores at once. texts: keep the texts (of token ids what they
        stand for), for baselines that compress them.
    Cost: one forward without its head (or the generation), and one row of the head a step; 2k + 40 bytes a step.
    Raises: InputError for k above the vocabulary or an unknown span; TokenError where no token or the first is asked
        for; ModelError when the head cannot be applied alone; FileError where the folder holds another capture.
    Source: arXiv:2503.14043; there the whole logits are kept until they are sorted.
    """
    if values not in VALUES:
        raise InputError(f"values={values!r}: it can be 'probability' or 'log'.")
    if isinstance(span, str) and span not in ("given", "generated"):
        raise InputError(f"span={span!r}: it can be 'given', 'generated' or a mask of tokens.")
    if k < 1:
        raise InputError(f"k={k}: at least one probability has to be kept.")
    if generate_kwargs and span != "generated":
        raise InputError(f"{', '.join(generate_kwargs)} is for span='generated'; nothing is generated here.")
    head = _Head(model, k, values, budget)
    if isinstance(inputs, Generation):
        if span != "generated":
            raise InputError("these inputs were generated: pass span='generated'.")
        return head.of_generation(inputs)
    place = Path(store) if store is not None else None
    parts: list[Signatures] = []
    batches = list(_batches(inputs, span, rows))
    for i, (batch, wanted) in enumerate(batches):
        tell(progress, f"signatures, part {i + 1} of {len(batches)}", i / len(batches))
        asked = _asked(model, k, values, span, batch, wanted, generate_kwargs) if place is not None else {}
        held = _kept(place, i, asked)
        if held is None:
            held = head.generated(batch, texts, generate_kwargs) if span == "generated" else None
            held = head.given(batch, wanted, texts) if held is None else held
            if place is not None:
                place.mkdir(parents=True, exist_ok=True)
                save_signatures(_part(place, i), held, asked=asked)
        parts.append(held)
    if place is not None:
        more = [p.name for p in place.glob("part-*.safetensors") if int(p.stem.split("-")[1]) >= len(batches)]
        if more:
            raise FileError(f"{str(place)!r} holds {more[0]}, which is of a longer capture.\n  take another folder.")
        return load_signatures(place)
    return together(parts)


def signature_site(model: Model) -> str:
    """The site whose states the head reads: what to read while generating, so that `capture` needs no second run."""
    prefix = model.blocks[0].name.rsplit("layers.", 1)[0] if model.blocks else ""
    if f"{prefix}final_norm" in model.points:
        return f"{prefix}final_norm"
    if not model.blocks or f"{model.blocks[-1].name}.resid_post" not in model.points:
        raise ModelError(f"{type(model.module).__name__} has no stream that a head reads.")
    return f"{model.blocks[-1].name}.resid_post"


class _Head:
    """The model's head, and what a signature keeps of its scores."""

    def __init__(self, model: Model, k: int, values: str, budget: int | None) -> None:
        self.model, self.k, self.values, self.budget = model, k, values, budget
        self.site = signature_site(model)
        self.unembed: Unembedding | None = None

    def given(self, batch: Any, wanted: Tensor | None, texts: bool) -> Signatures:
        self._ready(batch)
        trace = run(self.model, batch, read=self.site)
        states = trace[self.site]
        tokens, mask = trace.tokens, trace.mask
        if tokens is None or tokens.shape != states.shape[:2]:
            raise ModelError(f"{type(self.model.module).__name__} does not score the tokens it is given.")
        real = mask.bool() if mask is not None else torch.ones_like(tokens, dtype=torch.bool)
        first = real & (real.long().cumsum(1) == 1)
        steps = real & ~first
        if wanted is not None:
            asked = wanted.to(real.device).bool()
            if asked.shape != real.shape:
                raise TokenError(f"the mask is {tuple(asked.shape)} and the tokens are {tuple(real.shape)}.")
            if bool((asked & first).any()):
                row = int((asked & first).any(1).nonzero()[0])
                raise TokenError(
                    f"the mask asks for the first token of row {row}, which nothing comes before.\n"
                    "  leave it out; the distribution at a position is about the token after it."
                )
            steps = steps & asked
        kept = self._texts(batch, tokens, real) if texts else ()
        return self._signatures(states, tokens, steps, "given" if wanted is None else "mask", kept)

    def _texts(self, batch: Any, tokens: Tensor, real: Tensor) -> tuple[str, ...]:
        """The texts that were given, or those that the tokens stand for."""
        given = [batch] if isinstance(batch, str) else batch
        if isinstance(given, list) and all(isinstance(b, str) for b in given):
            return tuple(given)
        if self.model.tokenizer is None:
            return ()
        rows = (row[is_real].tolist() for row, is_real in zip(tokens, real, strict=True))
        return tuple(self.model.tokenizer.decode(row, skip_special_tokens=True) for row in rows)

    def generated(self, prompts: Any, texts: bool, options: Mapping[str, Any]) -> Signatures:
        made = generate(self.model, prompts, read=self.site, **options)
        return self.of_generation(made, texts)

    def of_generation(self, made: Generation, texts: bool = True) -> Signatures:
        if self.site not in made.trace:
            raise InputError(
                f"this generation did not read {self.site!r}, so what the model said at each step is gone.\n"
                f"  generate with read={self.site!r}, or give capture the prompts."
            )
        tokens, states = made.trace.tokens, made.trace[self.site]
        if tokens is None or states.shape[:2] != tokens.shape:
            raise ModelError("the tokens of this generation are not those of its stream (an encoder beside a decoder).")
        self._ready([tokens[0].tolist()])
        mask = made.trace.mask
        steps = mask.bool().clone() if mask is not None else torch.ones_like(tokens, dtype=torch.bool)
        steps[:, : tokens.shape[1] - made.tokens.shape[1]] = False
        return self._signatures(states, tokens, steps, "generated", tuple(made.text) if texts else ())

    def _ready(self, batch: Any) -> None:
        """The head, checked once against the model's own scores."""
        if self.unembed is None:
            self.unembed = checked_unembedding(self.model, batch)
            if self.k > self.unembed.n_vocab:
                raise InputError(
                    f"k={self.k:,} probabilities of a vocabulary of {self.unembed.n_vocab:,}.\n  take k at most that."
                )

    def _signatures(
        self,
        states: Float[Tensor, "batch pos d_model"],
        tokens: Int[Tensor, "batch pos"],
        steps: Bool[Tensor, "batch pos"],
        span: str,
        texts: tuple[str, ...],
    ) -> Signatures:
        assert self.unembed is not None
        if not bool(steps.any(1).all()):
            row = int((~steps.any(1)).nonzero()[0])
            raise TokenError(f"row {row} has no token to take a step from; one after its first is needed.")
        steps, tokens = steps.to(states.device), tokens.to(states.device)
        row, column = steps.nonzero(as_tuple=True)
        came = tokens[row, column]
        before = states[row, column - 1]  # off by one here and every number is about another token
        flat = self._statistics(before, came)
        lengths = steps.sum(1).cpu()
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]

        def spread(value: Tensor) -> Tensor:
            wide = torch.zeros(*mask.shape, *value.shape[1:], dtype=value.dtype)
            wide[mask] = value
            return wide

        wide: dict[str, Any] = {name: spread(value) for name, value in flat.items()}
        return Signatures(
            **wide,
            mask=mask, tokens=spread(came.cpu().int()), n_vocab=self.unembed.n_vocab, values=self.values, span=span,
            model=self.model.fingerprint, texts=texts if len(texts) == len(mask) else (),
        )  # fmt: skip

    def _statistics(self, states: Float[Tensor, "n d"], came: Int[Tensor, " n"]) -> dict[str, Tensor]:
        assert self.unembed is not None
        n = len(states)
        out = {name: torch.zeros(n) for name in PER_TOKEN} | {"top": torch.zeros(n, self.k, dtype=torch.float16)}
        out["rank"] = torch.zeros(n, dtype=torch.int32)

        def use(scores: Tensor, here: slice) -> None:
            for name, value in step_statistics(scores, came[here].to(scores.device), self.k, self.values).items():
                out[name][here] = value.cpu().to(out[name].dtype)

        at_once = self.unembed.rows_at_once(self.budget) if self.budget else None
        with torch.no_grad():
            in_chunks(self.unembed, states, use, normed=self.site.endswith("final_norm"), rows=at_once)
        return out


def step_statistics(
    scores: Float[Tensor, "n vocab"], came: Int[Tensor, " n"], k: int, values: str = "probability"
) -> dict[str, Tensor]:
    """What a signature keeps of whole rows of scores and of the tokens that came; mu and sigma of the whole row."""
    logp = torch.log_softmax(scores.float(), -1)
    own = logp.gather(1, came[:, None])
    place = torch.arange(logp.shape[1], device=logp.device)
    rank = (logp > own).sum(1) + ((logp == own) & (place < came[:, None])).sum(1)
    top = logp.topk(k, 1).values
    p = logp.exp()
    mu = p.mean(1)
    sigma = (p - mu[:, None]).square().mean(1).sqrt()
    logp = logp.clamp(min=-1e4)  # a token that is ruled out has no part in a mean, and -inf * 0 is not 0
    log_mean = torch.einsum("nv,nv->n", p, logp)
    log_std = torch.einsum("nv,nv->n", p, (logp - log_mean[:, None]).square()).sqrt()
    return {"top": top if values == "log" else top.exp(), "log_prob": own[:, 0], "rank": rank, "mu": mu,
            "sigma": sigma, "log_mean": log_mean, "log_std": log_std}  # fmt: skip


def _batches(inputs: Any, span: Any, rows: int) -> Iterator[tuple[Any, Tensor | None]]:
    """A few rows of the inputs at a time, and the rows of the mask that belong to them."""
    mask = span if isinstance(span, Tensor) else None
    if isinstance(inputs, str):
        inputs = [inputs]
    is_rows = isinstance(inputs, list) and bool(inputs) and not isinstance(inputs[0], (int, Mapping))
    if isinstance(inputs, Tensor) and inputs.ndim == 2:
        whole: Any = inputs
    elif is_rows and mask is None:
        whole = inputs
    elif isinstance(inputs, Mapping) and all(isinstance(v, Tensor) for v in inputs.values()):
        n = len(next(iter(inputs.values())))
        for at in range(0, n, rows):
            part = {name: value[at : at + rows] for name, value in inputs.items()}
            yield part, mask[at : at + rows] if mask is not None else None
        return
    else:  # a mask of ragged rows is as wide as the longest of all
        yield inputs, mask
        return
    for at in range(0, len(whole), rows):
        yield whole[at : at + rows], mask[at : at + rows] if mask is not None else None


def _part(place: Path, i: int) -> Path:
    return place / f"part-{i:05d}.safetensors"


def _kept(place: Path | None, i: int, asked: dict[str, Any]) -> Signatures | None:
    """What an earlier call wrote of these items."""
    if place is None or not _part(place, i).is_file():
        return None
    held, theirs = read_part(_part(place, i))
    if theirs != asked:
        other = ", ".join(name for name in asked if theirs.get(name) != asked[name])
        raise FileError(
            f"{str(_part(place, i))!r} holds signatures of another capture ({other} differ).\n  take another folder."
        )
    return held


def _asked(
    model: Model, k: int, values: str, span: Any, batch: Any, wanted: Tensor | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for value in (*(batch.values() if isinstance(batch, Mapping) else [batch]), wanted):
        held = value.cpu().tolist() if isinstance(value, Tensor) else value
        digest.update(repr(held).encode())
    kept = {name: repr(value) for name, value in sorted(options.items())}
    named = span if isinstance(span, str) else "mask"
    return {"model": model.fingerprint, "k": k, "values": values, "span": named, "items": digest.hexdigest()[:16],
            "options": kept}  # fmt: skip
