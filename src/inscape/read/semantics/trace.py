"""A wrong answer, layer by layer: the concepts that are there, which pushes which, and when it is decided."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.extra import package
from inscape.core.progress import Progress
from inscape.engine.forward import run
from inscape.models.model import Model
from inscape.read.lenses.logit import checked_unembedding, logit_lens
from inscape.read.semantics.concepts import Concepts, concepts_of, said
from inscape.read.semantics.support import support_matrix


@dataclass(frozen=True, eq=False)
class SemanticTrace:
    """The concepts at the last position of a prompt, layer by layer.

    probability: of each as the lens reads it. support: S_l(u -> v) in logits, [layer, from u, to v]; control: of
    changes as long along random directions. margin: lens score of `answer` less that of `rival`. drift: cosine of the
    state with that of the contrast prompt; None without one. contrast: probabilities there.
    """

    prompt: str
    concepts: Concepts
    layers: tuple[str, ...]
    probability: Float[Tensor, "layer concept"]
    support: Float[Tensor, "layer from to"]
    control: Float[Tensor, "layer from to"]
    answer: str
    rival: str
    margin: Float[Tensor, " layer"]
    drift: Float[Tensor, " layer"] | None
    contrast: Float[Tensor, "layer concept"] | None

    @property
    def commitment(self) -> int | None:
        """The first layer after which the answer leads for good, as the lens reads it."""
        behind = (self.margin <= 0).nonzero()
        first = int(behind[-1]) + 1 if len(behind) else 0
        return first if first < len(self.layers) else None

    @property
    def fades(self) -> tuple[int, ...]:
        """Concepts that the contrast prompt lowers at the last layer: what the context is about (C+) if that prompt is
        without it. Choose by this before the answer is looked at."""
        if self.contrast is None:
            raise InputError("without a contrast prompt nothing says which concepts are the context's.")
        less = self.contrast[-1] < self.probability[-1]
        return tuple(int(i) for i in self.concepts.ids[less])

    def edges(self, threshold: float | None = None) -> list[tuple[int, str, str, float]]:
        """(layer, from, to, support) of other concepts, the strongest first.

        threshold: in logits; when None, what the largest of 20 changes by chance would reach (the 0.95 quantile of
        the control's absolute values).
        """
        least = float(self.control.abs().flatten().quantile(0.95)) if threshold is None else threshold
        words = self.concepts.words
        found = [
            (layer, words[u], words[v], float(self.support[layer, u, v]))
            for layer, u, v in (self.support.abs() > least).nonzero().tolist()
            if u != v
        ]
        return sorted(found, key=lambda edge: -abs(edge[3]))

    def to_networkx(self, threshold: float | None = None, least: float = 0.01) -> Any:
        """The layered graph: a node (layer, concept) with its probability, an edge to (the end, concept) with the
        support that goes there. least: probability from which on a concept without an edge is shown."""
        graph = package("networkx", "hf", "the graph of a trace").DiGraph(prompt=self.prompt, answer=self.answer)
        words, end = self.concepts.words, len(self.layers)
        for layer in range(end):
            for i, word in enumerate(words):
                if float(self.probability[layer, i]) >= least:
                    graph.add_node((layer, word), probability=float(self.probability[layer, i]))
        for layer, u, v, weight in self.edges(threshold):
            graph.add_edge((layer, u), (end, v), weight=weight)
        return graph


def trace_semantics(
    model: Model,
    prompt: str,
    contrast_prompt: str | None = None,
    concepts: Sequence[str | int] | None = None,
    k: int = 10,
    *,
    most: int = 40,
    seed: int = 0,
    progress: Progress = None,
) -> SemanticTrace:
    """What stands at the answer's position of a prompt, layer by layer, and which concept carries which.

    1. The k most probable tokens of every layer (logit lens), merged, and the user's concepts (first token each).
    2. Their probabilities at every layer, and `support_matrix` between all of them beside changes as long.
    3. The margin of the answer over its rival: over what the contrast prompt says, else over the second.
    contrast_prompt: the same question with the context put right, or without it; any length. most: concepts kept, the
        user's first, then those with the highest probability anywhere.
    Cost: layers x concepts restarted runs, twice; minutes for 40 concepts on a model of a billion parameters.
    Lens probabilities of early layers are miscalibrated: look at margins and supports. Raises: TokenError for concepts
    that begin alike, ModelError where the lens does not fit the model.
    Source: arXiv:2510.06107, Distributional Semantics Tracing; ours adds the control and never draws an edge below it.
    """
    unembed = checked_unembedding(model, prompt)
    lens = logit_lens(model, [prompt], k=k, control=None)
    given = concepts_of(model, concepts or [])
    best: dict[int, float] = {}
    for layer in range(len(lens.layers)):
        for token, p in zip(lens.top[layer, 0, -1].tolist(), lens.probability[layer, 0, -1].tolist(), strict=True):
            best[token] = max(best.get(token, 0.0), p)
    answer = int(lens.final[0, -1])
    others = sorted((t for t in best if t not in given.ids.tolist() and t != answer), key=lambda t: -best[t])
    first = [answer] if answer not in given.ids.tolist() else []
    chosen = [*given.ids.tolist(), *first, *others][: max(most, len(given) + 1)]
    words = {**dict(zip(given.ids.tolist(), given.words, strict=True))}
    every = Concepts(
        tuple(words.get(t, said(model, t)) for t in chosen), torch.tensor(chosen),
        tuple(t in words and given.is_first[given.ids.tolist().index(t)] for t in chosen),
    )  # fmt: skip
    names = [f"{block.name}.resid_post" for block in model.blocks]
    both = [prompt, *([contrast_prompt] if contrast_prompt is not None else [])]
    runs = [run(model, [one], read=names, reduce="last") for one in both]
    scored = [torch.stack([_log_probs(unembed, t[n]) for n in names]) for t in runs]
    rival = _rival(scored, answer)
    support = support_matrix(model, [prompt], [chosen], [chosen], seed=seed, progress=progress)
    assert support.control is not None
    drift = None
    if contrast_prompt is not None:
        drift = torch.stack([torch.cosine_similarity(runs[0][n].float(), runs[1][n].float())[0] for n in names]).cpu()
    return SemanticTrace(
        prompt, every, tuple(names), scored[0][:, chosen].exp(), support.values[0], support.control[0],
        said(model, answer), said(model, rival), scored[0][:, answer] - scored[0][:, rival], drift,
        scored[1][:, chosen].exp() if len(scored) > 1 else None,
    )  # fmt: skip


def _rival(scored: list[Tensor], answer: int) -> int:
    """What the contrast prompt says in place of the answer, else the second most probable."""
    last = scored[-1][-1].clone()
    last[answer] = -torch.inf
    return int(last.argmax())


def _log_probs(unembed: Any, state: Tensor) -> Float[Tensor, " vocab"]:
    with torch.no_grad():
        return torch.log_softmax(unembed(state)[0], -1).cpu()
