"""Several sampled traces of every question, with all that a score of them may look at."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from inscape.core.errors import InputError
from inscape.core.progress import Progress, tell
from inscape.engine.generate import generate
from inscape.models.model import Model
from inscape.read.generation.confidence import ConfidenceStream, layer_geometry
from inscape.read.generation.selection import Drawn
from inscape.read.generation.trajectory import Signals
from inscape.read.generation.trajectory_stream import TrajectoryStream


@dataclass(frozen=True, eq=False)
class Pool:
    """k traces of every question, question by question.

    tokens: of the whole response, the end included. signals: of the rationale. early: after its first `early_tokens`
    tokens. confidence: log_prob, entropy, margin. geometry: see `layer_geometry`. means: of the segments.
    """

    k: int
    texts: tuple[str, ...]
    answers: tuple[Hashable, ...]
    tokens: Int[Tensor, " trace"]
    signals: Signals
    early: Signals
    early_tokens: int
    confidence: Float[Tensor, "trace three"]
    geometry: Float[Tensor, "trace two"]
    means: tuple[Float[Tensor, "_segment layer d"], ...]

    @property
    def question(self) -> Int[Tensor, " trace"]:
        """The question of each trace, by its number."""
        return torch.arange(len(self.texts)) // self.k

    def sampler(self, normalize: bool = False) -> Callable[[int, int], Drawn]:
        """The traces as `select_traces` asks for them, in the order in which they were drawn."""
        table, early = self.signals.table(normalize), self.early.table(normalize)

        def sample(question: int, number: int) -> Drawn:
            i = question * self.k + number
            return Drawn(self.answers[i], int(self.tokens[i]), table[i], early[i], self.early_tokens)

        return sample


def sample_traces(
    model: Model,
    prompts: Sequence[str],
    answer_of: Callable[[str], Hashable],
    *,
    k: int = 8,
    block: int = 16,
    stop: tuple[int, ...] = (),
    early_blocks: int = 2,
    temperature: float = 1.0,
    max_new_tokens: int = 200,
    batch: int = 64,
    seed: int = 0,
    progress: Progress = None,
) -> Pool:
    """Sample k responses to each prompt and watch each rationale, from the first new token to the first of `stop`.

    answer_of: the answer that a response gives, None where it gives none. Prompts of one length of tokens are not
    needed: they are padded on the left. No vocabulary is cut off (top_k=0).
    Cost: the generation; memory: means of segments, one row of scores. Raises: InputError for no prompts.
    """
    if not prompts or k < 1:
        raise InputError(f"{len(prompts)} prompts and k={k}: there is nothing to sample.")
    asked = [prompt for prompt in prompts for _ in range(k)]
    texts: list[str] = []
    tokens, signals, early, sure, shape, means = [], [], [], [], [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(asked), batch):
            tell(progress, f"sampling traces, {start} of {len(asked)}", start / len(asked))
            path = TrajectoryStream(block, stop=stop, keep_means=True, keep_history=True)
            scores = ConfidenceStream(stop)
            out = generate(
                model, asked[start : start + batch], watch=[path, scores], max_new_tokens=max_new_tokens,
                do_sample=True, temperature=temperature, top_k=0,
            )  # fmt: skip
            assert out.trace.mask is not None
            texts += out.text
            tokens.append(out.trace.mask[:, -out.tokens.shape[1] :].sum(1))
            signals.append(path.signals)
            early.append(_at_block(path, early_blocks))
            sure.append(scores.table)
            shape.append(layer_geometry(path.latest))
            means += path.means
    return Pool(
        k, tuple(texts), tuple(map(answer_of, texts)), torch.cat(tokens), Signals.of(signals), Signals.of(early),
        early_blocks * block, torch.cat(sure), torch.cat(shape), tuple(means),
    )  # fmt: skip


def _at_block(path: TrajectoryStream, blocks: int) -> Signals:
    """Each row's signals once it had so many blocks; of all of it where it never had."""
    steps, last = path.history, path.signals
    names = ("net", "cumulative", "aligned", "norm", "n_segments", "n_tokens")
    out: dict[str, list[Tensor]] = {name: [] for name in names}
    for row in range(len(last)):
        first = next((s for s in steps if int(s.n_tokens[row]) >= blocks * path.block), last)
        for name in names:
            out[name].append(getattr(first, name)[row])
    return Signals(*(torch.stack(out[name]) for name in names))
