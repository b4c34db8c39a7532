"""LOS-Net: a detector that is trained on output signatures."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from inscape.core.errors import InputError, ShapeError
from inscape.core.interval import Interval
from inscape.core.progress import Progress
from inscape.core.readout import Labels, check_control, labels_of, need_fitted
from inscape.read.signatures.detection import area, check_labels, detect
from inscape.read.signatures.net import PARTS, SignatureNet
from inscape.read.signatures.signature import Signatures
from inscape.tasks.split import folds
from inscape.train import fit, no_better

Target = tuple[Signatures, Any]


@dataclass
class LOSNet:
    """Detector trained on output signatures: a small transformer over sorted top-k probabilities, the probability of
    the token that came and its rank.

    Both kinds of probability are normalised with the step's mu and sigma over the whole vocabulary, ranks by its size,
    so that a net trained on one model can be asked about another. Choose it where labelled items exist by the hundred
    and more can be told from the shape of the distributions than from their mean; choose a `SignatureBaseline` where
    there are few, and always look at those beside it.

    Cost: training is minutes for 10,000 items on a CPU; memory is a batch. Float32, deterministic from `seed`.
    Parameters: k, of the kept probabilities that are read (all when None). width, layers, heads, dropout: of the net.
    rank_encoding: "scale" or "onehot" (one vector a rank, ranks beyond k share one). inputs: which of "top", "actual",
    "rank" are read; ("actual", "rank") is the source's ablation. body: "transformer", or "mlp". mask_padding: hide
    padding from the attention; the source does not. n_max: most steps (the longest item of the fit when None);
    truncate: cut longer ones. kind: "detect", labels yes or no; "regress", labels are numbers.
    lr, weight_decay, batch, epochs, patience: of the training; it ends `patience` epochs after the best AUC (or R^2) on
    held-out items and takes the weights of that epoch. held: the share held out when `fit` is not given `valid`.
    control: "shuffle", labels in another order; "steps", the steps of every item in another order, in fit and use.
    Learned by fit: state_ (the weights), n_max_, k_, curve_ (by epoch, on held-out items), mean_, spread_ of numbers,
    model_ (whose signatures they were). Kept with `core.readout_file.save_readout`, read by `read.readouts`.
    Raises: NotFittedError before fit; InputError for labels of one class, steps without spread, items longer than
    n_max; ShapeError for another number of labels.
    Source: arXiv:2503.14043. Ours masks padding by default, learns faster (lr 1e-3) and keeps the best epoch's weights.
    """

    target: ClassVar[str] = "own"
    precision: ClassVar[str] = "float32"

    k: int | None = None
    width: int = 128
    layers: int = 1
    heads: int = 8
    rank_encoding: str = "scale"
    inputs: tuple[str, ...] = PARTS
    body: str = "transformer"
    mask_padding: bool = True
    dropout: float = 0.0
    n_max: int | None = None
    truncate: bool = False
    kind: str = "detect"
    lr: float = 1e-3
    weight_decay: float = 0.0
    batch: int = 64
    epochs: int = 300
    patience: int = 30
    held: float = 0.2
    control: str | None = None
    seed: int = 0

    def fit(
        self, x: Signatures, y: Labels, *, groups: Labels | None = None, valid: Target | None = None,
        progress: Progress = None,
    ) -> "LOSNet":  # fmt: skip
        """Train it. groups: items of one group are held out together. valid: (signatures, labels) to stop by."""
        self._check()
        truth = self._truth(y, len(x))
        if valid is None:
            kept, held = self._held_out(truth, groups)
            valid, x, truth = (x.select(held), truth[held]), x.select(kept), truth[kept]
        else:
            valid = (valid[0], self._truth(valid[1], len(valid[0])))
        if self.control == "shuffle":  # of both sides: an epoch chosen by true labels would know something
            draw = torch.Generator().manual_seed(self.seed)
            truth = truth[torch.randperm(len(truth), generator=draw)]
            valid = (valid[0], valid[1][torch.randperm(len(valid[1]), generator=draw)])
        self.k_ = min(x.k, self.k or x.k)
        self.n_max_ = self.n_max or int(max(x.lengths.max(), valid[0].lengths.max()))
        self.mean_, self.spread_, self.model_ = 0.0, 1.0, x.model
        if self.kind == "regress":
            self.mean_, self.spread_ = float(truth.mean()), max(float(truth.std()), 1e-12)
        for part in (x, valid[0]):
            self._ready(part)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = self._net()
        self.curve_: list[float] = []
        best: list[tuple[float, float]] = []
        self.state_: dict[str, Tensor] = {}
        per_epoch = math.ceil(len(x) / self.batch)
        x = self._ready(x)

        def batches(step: int) -> dict[str, Tensor]:
            epoch, at = divmod(step, per_epoch)
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed((self.seed << 24) + epoch))
            index = order[at * self.batch : (at + 1) * self.batch]
            return self._features(x.select(index)) | {"truth": (truth[index].float() - self.mean_) / self.spread_}

        def quality(module: SignatureNet) -> float:
            said = self._said(module, valid[0])
            value = area(said, valid[1]) if self.kind == "detect" else _r2(said * self.spread_ + self.mean_, valid[1])
            scaled = (valid[1].double() - self.mean_) / self.spread_
            miss = float(self._missed(said, scaled))
            if not best or (value, -miss) > best[-1]:  # the least loss among epochs that order the items as well
                best.append((value, -miss))
                self.state_ = {n: t.detach().clone() for n, t in module.state_dict().items()}
            self.curve_.append(value)
            return value

        fit(
            net, batches, self._loss, steps=self.epochs * per_epoch, lr=self.lr, seed=self.seed,
            optimizer=partial(torch.optim.AdamW, weight_decay=self.weight_decay), meters={"held": quality},
            measure=per_epoch, stop=no_better("held", self.patience), progress=progress,
        )  # fmt: skip
        return self

    def transform(self, x: Signatures) -> Float[Tensor, "item width"]:
        """What the last layer reads: the CLS state of each item."""
        net = self._fitted()
        return torch.cat([net(**part)[1] for part in self._parts(x)]).detach()

    def decision(self, x: Signatures) -> Float[Tensor, " item"]:
        """The logit of yes, or the number where numbers were learned."""
        return self._said(self._fitted(), x) * self.spread_ + self.mean_

    def predict_proba(self, x: Signatures) -> Float[Tensor, " item"]:
        """The probability of yes. Raises: InputError where numbers were learned."""
        if self.kind != "detect":
            raise InputError("this net learned numbers (kind='regress') and knows no probability: take decision(x).")
        return torch.sigmoid(self.decision(x))

    def predict(self, x: Signatures) -> Bool[Tensor, " item"] | Float[Tensor, " item"]:
        """Yes where it is more probable than no; the number where numbers were learned."""
        said = self.decision(x)
        return said > 0 if self.kind == "detect" else said

    def score(self, x: Signatures, y: Labels, *, interval: bool = False, by: Labels | None = None) -> float | Interval:
        """The area under the ROC curve, or R^2 of numbers; with an interval by item, or by group."""
        said = self.decision(x)
        if self.kind == "regress":
            truth = self._truth(y, len(x))
            if interval:
                from inscape.core.nulls import bootstrap

                return bootstrap((truth, said), lambda t, s: _r2(s, t), by=by, n=1000, method="percentile")
            return _r2(said, truth)
        return detect(said, y, groups=by).auc if interval else area(said, check_labels(y, len(x)))

    def _check(self) -> None:
        check_control(self.control, ("shuffle", "steps"), "LOSNet")
        known = {"rank_encoding": ("scale", "onehot"), "body": ("transformer", "mlp"), "kind": ("detect", "regress")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise InputError(f"{name}={getattr(self, name)!r}: it can be {' or '.join(map(repr, values))}.")
        if not set(self.inputs) <= set(PARTS) or "actual" not in self.inputs:
            raise InputError(f"inputs={self.inputs}: some of {', '.join(PARTS)}, 'actual' among them.")
        if self.body == "transformer" and self.width % (2 * self.heads):
            raise InputError(f"width={self.width} is no multiple of 2 x {self.heads} heads.")

    def _truth(self, y: Labels, n: int) -> Tensor:
        if self.kind == "detect":
            return check_labels(y, n)
        return torch.as_tensor(labels_of(y, n)).double()

    def _held_out(self, truth: Tensor, groups: Labels | None) -> tuple[Tensor, Tensor]:
        if not 0 < self.held <= 0.5:
            raise InputError(f"held={self.held}: the share held out is above 0 and at most 0.5.")
        strata = truth if self.kind == "detect" else torch.zeros(len(truth))
        fold = folds(strata, groups, n=max(2, round(1 / self.held)), seed=self.seed)
        return (fold != 0).nonzero()[:, 0], (fold == 0).nonzero()[:, 0]

    def _net(self) -> SignatureNet:
        return SignatureNet(
            k=self.k_, width=self.width, layers=self.layers, heads=self.heads, n_max=self.n_max_,
            rank_encoding=self.rank_encoding, mask_padding=self.mask_padding, inputs=self.inputs, body=self.body,
            dropout=self.dropout,
        )  # fmt: skip

    def _fitted(self) -> SignatureNet:
        need_fitted(self, "state_")
        net = self._net()
        net.load_state_dict(self.state_)
        return net.eval()

    def _ready(self, x: Signatures) -> Signatures:
        """Signatures as the net reads them: as long as it knows, none without spread, in order or out of it."""
        if x.k < self.k_:
            raise ShapeError(f"the net reads {self.k_} probabilities a step, and these keep {x.k}.")
        x.check_not_constant()
        x = x.padded(self.n_max_, truncate=self.truncate)
        return x.in_another_order(self.seed) if self.control == "steps" else x

    def _features(self, x: Signatures) -> dict[str, Tensor]:
        """What a batch is for the net; select() has cut it to its longest item, a flat reader needs all steps."""
        if self.body == "mlp":
            x = x.padded(self.n_max_)
        sigma = torch.where(x.mask, x.sigma, 1.0).float()
        rank = x.known_ranks()
        return {
            "top": (x.probabilities(self.k_) - x.mu[..., None]) / sigma[..., None],
            "actual": (x.log_prob.float().exp() - x.mu) / sigma * x.mask,
            "rank": 1 - 2 * rank / x.n_vocab,
            "place": torch.where(x.rank < 0, float(self.k_), rank).clamp(max=self.k_),
            "mask": x.mask,
        }

    def _parts(self, x: Signatures) -> list[dict[str, Tensor]]:
        x = self._ready(x)
        return [self._features(x.select(range(at, min(at + 256, len(x))))) for at in range(0, len(x), 256)]

    def _said(self, net: SignatureNet, x: Signatures) -> Float[Tensor, " item"]:
        with torch.no_grad():
            return torch.cat([net(**part)[0] for part in self._parts(x)]).double()

    def _loss(self, net: SignatureNet, batch: dict[str, Tensor]) -> Tensor:
        given = dict(batch)
        truth = given.pop("truth")
        return self._missed(net(**given)[0], truth)

    def _missed(self, said: Tensor, truth: Tensor) -> Tensor:
        if self.kind == "regress":
            return F.mse_loss(said, truth)
        return F.binary_cross_entropy_with_logits(said, truth)


def _r2(said: Tensor, truth: Tensor) -> float:
    """The share of the variance that is explained; below 0 where the mean would have been better."""
    spread = (truth - truth.mean()).square().sum().clamp(min=1e-300)
    return float(1 - (truth - said).square().sum() / spread)
