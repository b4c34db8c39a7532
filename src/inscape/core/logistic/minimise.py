"""Many penalised classification problems solved at once: Newton steps whose factor is used for as long as it pays.

The objective of a problem (one site, one column of labels, one set of training rows):
    F(W, b) = sum_i loss(W x_i + b, y_i) + |W|^2 / (2 C),   loss = cross-entropy, b without a penalty.
1. Start at 0, where the Hessian is a multiple of the Gram matrix: one product a site and set of rows, one Cholesky.
2. The step is L-BFGS whose first guess of the Hessian is that factor (of its diagonal where d is large), so a few
   gradients correct what the factor misses. A gradient costs two thin products, a Hessian a fat one.
3. Two classes: where the gradients say that far more steps would be needed than a new Hessian costs, it is made anew.
4. A step that does not lower F enough is halved. A problem whose gradient is small leaves; a site all of whose problems
   left is no longer read.
5. All of this in float32; then the same steps in float64 until its gradient is below the tolerance, and so are the
   objective and the gradient that are reported.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inscape.core.logistic.design import Design
from inscape.core.progress import Progress, tell

DENSE = 2048  # units up to which a Hessian is made and factored
PATIENCE = 100  # gradients foretold from the last step at which a Hessian, the price of some 7, pays: steps get better
MEMORY = 8  # pairs that L-BFGS remembers
ROUGH = 3e-6  # what float32 gradients are good for
BLOCK = 192  # units; blocks of the upper triangle of a Hessian


@dataclass(frozen=True, eq=False)
class Columns:
    """Problems that share rows: labels [n, column] as class numbers, and which group of rows each is trained on."""

    labels: Int[Tensor, "n column"]
    groups: Bool[Tensor, "group n"]
    group_of: tuple[int, ...]
    n_classes: int

    @property
    def outputs(self) -> int:
        return 1 if self.n_classes == 2 else self.n_classes


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where each problem ended: weight [site, column, output, d + 1] for standardised rows.

    objective: `C sum loss + |W|^2 / 2`, as scikit-learn counts it. gradient: the largest entry of the gradient of
    `F / n`. rounds: gradients taken; hessians: made.
    """

    weight: Float[Tensor, "site column output d1"]
    objective: Float[Tensor, "site column"]
    gradient: Float[Tensor, "site column"]
    rounds: Int[Tensor, "site column"]
    hessians: Int[Tensor, "site column"]


def minimise(
    design: Design, columns: Columns, *, C: float, tol: float, max_rounds: int, progress: Progress = None
) -> Minimum:
    """Solve every problem of a design; problems share passes over the rows, and leave when they are done."""
    return _Batch(design, columns, C, tol, max_rounds, progress).solved()


class _Batch:
    def __init__(
        self, design: Design, columns: Columns, C: float, tol: float, max_rounds: int, progress: Progress
    ) -> None:
        self.design, self.C, self.tol, self.max_rounds, self.progress = design, C, tol, max_rounds, progress
        self.S, self.J, self.K = len(design.names), len(columns.group_of), columns.outputs
        self.P, self.B = self.K * (design.d + 1), self.S * self.J
        self.is_binary, self.is_dense = columns.n_classes == 2, design.d + 1 <= DENSE
        device = design.device
        self.labels = columns.labels.to(device)
        self.group_of = columns.group_of
        self.mask = columns.groups.double().T.to(device)  # [n, group]
        self.count = columns.groups.sum(1).double().to(device)[list(columns.group_of)].repeat(self.S)  # [B]
        # weights on the design's common scale, penalised as on the scale of each problem's own rows
        ratio = design.spread.transpose(0, 1) / design.scale[:, None]  # [site, group, d]
        own = torch.nn.functional.pad(ratio.square() / C, (0, 1))  # the bias has no penalty
        self.penalty = own[:, list(columns.group_of)].reshape(self.B, 1, -1).expand(-1, self.K, -1).reshape(self.B, -1)
        zeros = partial(torch.zeros, dtype=torch.float64, device=device)
        self.theta, self.g, self.f = zeros(self.B, self.P), zeros(self.B, self.P), zeros(self.B)
        self.moved, self.turned = zeros(MEMORY, self.B, self.P), zeros(MEMORY, self.B, self.P)
        self.curvature = zeros(MEMORY, self.B)  # s . y; 0 marks an empty place
        self.factor: dict[int, Tensor] = {}  # problem -> Cholesky factor (dense) or diagonal
        self.fresh = torch.ones(self.B, dtype=torch.bool)  # the factor is of where the problem is
        self.room = torch.empty(0, self.design.d + 1, device=device)
        self.rounds, self.hessians = (torch.zeros(self.B, dtype=torch.int64) for _ in range(2))

    def solved(self) -> Minimum:
        everyone = torch.arange(self.B)
        self.f, self.g = self._evaluate(everyone, self.theta, torch.float32)
        self._first_factors()
        left = self._descend(everyone, torch.float32, max(self.tol, ROUGH))
        self.f, self.g = self._evaluate(everyone, self.theta, torch.float64)
        left = self._descend(everyone, torch.float64, self.tol)
        del left
        shape = (self.S, self.J)
        return Minimum(
            self.theta.reshape(*shape, self.K, -1).cpu(),
            (self.C * self.f).reshape(shape).cpu(),
            self._size(everyone).reshape(shape).cpu(),
            self.rounds.reshape(shape),
            self.hessians.reshape(shape),
        )

    def _size(self, problems: Tensor) -> Tensor:
        """The largest entry of the gradient of F / n."""
        return self.g[problems].abs().amax(1) / self.count[problems]

    def _descend(self, problems: Tensor, dtype: torch.dtype, tol: float) -> Tensor:
        """Steps in one precision, until each problem's gradient is small or nothing gets better."""
        active = problems[(self._size(problems) > tol).cpu()]
        step = torch.ones(self.B, dtype=torch.float64, device=self.theta.device)
        stuck = torch.zeros(self.B, dtype=torch.int64)
        eps = 1e-7 if dtype == torch.float32 else 1e-15
        direction = self._direction(active)
        while len(active):
            if int(self.rounds[active].max()) >= self.max_rounds:
                break
            tell(self.progress, f"solving {len(active)} of {self.B} probes", 1 - len(active) / self.B)
            before = self._size(active)
            trial = self.theta.clone()
            trial[active] += step[active, None] * direction
            f, g = self._evaluate(active, trial, dtype)
            slope = (self.g[active] * direction).sum(1)
            bound = self.f[active] + 1e-4 * step[active] * slope + eps * (1 + self.f[active].abs())
            good = f[active] <= bound
            self._take(active[good.cpu()], trial, f, g)
            missed = active[~good.cpu()]
            step[active[good.cpu()]] = 1.0
            step[missed] *= 0.5
            stuck[missed] += 1
            stuck[active[good.cpu()]] = 0
            after = self._size(active)
            stay = (after > tol).cpu() & (stuck[active] < 30)
            slow = self._worth_a_hessian(active, before, after, good, tol) & stay
            active_next = active[stay]
            if bool(slow.any()):
                self._refactor(active[slow])
                step[active[slow]] = 1.0
            kept = direction[stay.to(direction.device)]
            fresh = self._direction(active_next)
            again = (stuck[active_next] > 0) & ~slow[stay]  # the same direction, half as far
            again = again.to(direction.device)[:, None]
            direction = torch.where(again, kept, fresh)
            active = active_next
        return active

    def _take(self, problems: Tensor, trial: Tensor, f: Tensor, g: Tensor) -> None:
        if not len(problems):
            return
        s, y = trial[problems] - self.theta[problems], g[problems] - self.g[problems]
        self.moved[:-1, problems], self.turned[:-1, problems] = (
            self.moved[1:, problems].clone(),
            self.turned[1:, problems].clone(),
        )
        self.curvature[:-1, problems] = self.curvature[1:, problems].clone()
        curved = (s * y).sum(1)
        floor = 1e-12 * s.norm(dim=1) * y.norm(dim=1)
        self.moved[-1, problems], self.turned[-1, problems] = s, y
        self.curvature[-1, problems] = torch.where(curved > floor, curved, torch.zeros_like(curved))
        self.theta[problems], self.f[problems], self.g[problems] = trial[problems], f[problems], g[problems]
        self.fresh[problems] = False

    def _worth_a_hessian(self, active: Tensor, before: Tensor, after: Tensor, good: Tensor, tol: float) -> Tensor:
        """Would too many gradients be needed at the rate of the last step, which L-BFGS will better?"""
        if not (self.is_binary and self.is_dense):
            return torch.zeros(len(active), dtype=torch.bool)
        gain = (before / after.clamp(min=1e-300)).log().clamp(min=1e-3)
        needed = (after / tol).clamp(min=1).log() / gain
        return (((needed > PATIENCE) & (after > tol)) | ~good).cpu() & ~self.fresh[active]

    def _direction(self, problems: Tensor) -> Tensor:
        """Minus the gradient times the approximate inverse Hessian: the two loops of L-BFGS around the factor."""
        q = self.g[problems].clone()
        kept = []
        for k in reversed(range(MEMORY)):
            s, y, c = self.moved[k, problems], self.turned[k, problems], self.curvature[k, problems]
            a = torch.where(c > 0, (s * q).sum(1) / c.clamp(min=1e-300), torch.zeros_like(c))
            q -= a[:, None] * y
            kept.append((k, a))
        y, c = self.turned[-1, problems], self.curvature[-1, problems]
        r = self._through_factor(problems, q)
        has = c > 0
        if bool(has.any()):
            scale = c / (y * self._through_factor(problems, y)).sum(1).clamp(min=1e-300)
            r *= torch.where(has, scale.clamp(0.1, 100.0), torch.ones_like(c))[:, None]
        for k, a in reversed(kept):
            s, y, c = self.moved[k, problems], self.turned[k, problems], self.curvature[k, problems]
            b = torch.where(c > 0, (y * r).sum(1) / c.clamp(min=1e-300), torch.zeros_like(c))
            r += torch.where(c > 0, a - b, torch.zeros_like(c))[:, None] * s
        return -r

    def _through_factor(self, problems: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(v)
        for i, b in enumerate(problems.tolist()):
            rows = v[i].reshape(self.K, -1)
            found = self.factor[b]
            if found.ndim == 1:
                out[i] = (rows / found).reshape(-1)
            else:
                half = torch.linalg.solve_triangular(found, rows.T.to(found.dtype), upper=False)
                out[i] = torch.linalg.solve_triangular(found.mT, half, upper=True).T.reshape(-1).double()
        return out

    def _evaluate(self, problems: Tensor, theta: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """F and its gradient of these problems, in one pass over their sites."""
        f, g = torch.zeros_like(self.f), torch.zeros_like(self.g)
        of_site = self._by_site(problems)
        weight = {
            s: theta[s * self.J + torch.tensor(js)].reshape(len(js) * self.K, -1).to(dtype) for s, js in of_site.items()
        }
        for s, rows, x in self.design.parts(list(of_site), dtype):
            js = of_site[s]
            z = (x @ weight[s].T).double().reshape(len(x), len(js), self.K)
            loss, left = self._loss(z, rows, js)
            at = s * self.J + torch.tensor(js, device=f.device)
            f[at] += loss
            flat = left.reshape(len(x), -1).to(dtype)
            g[at] += (flat.T @ x).double().reshape(len(js), self.P)
        self.rounds[problems] += 1
        p = problems.to(f.device)
        f[p] += 0.5 * (self.penalty[p] * theta[p].square()).sum(1)
        g[p] += self.penalty[p] * theta[p]
        return f, g

    def _loss(self, z: Tensor, rows: slice, js: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Loss of each column [column] and its derivative by z [m, column, output]."""
        y = self.labels[rows][:, js]
        weight = self.mask[rows][:, [self.group_of[j] for j in js]]
        if self.is_binary:
            z = z[..., 0]
            loss = torch.nn.functional.softplus(z) - y * z
            return (weight * loss).sum(0), (weight * (torch.sigmoid(z) - y))[..., None]
        total = z.logsumexp(-1)
        loss = total - z.gather(-1, y[..., None])[..., 0]
        share = (z - total[..., None]).exp_()
        share.scatter_add_(-1, y[..., None], torch.full_like(share[..., :1], -1.0))
        return (weight * loss).sum(0), weight[..., None] * share

    def _first_factors(self) -> None:
        """At 0 every row weighs the same, so columns of a group share a Hessian; several classes: Boehning's bound."""
        at_zero = 0.25 if self.is_binary else 0.5
        for s, gs in {s: sorted(set(self.group_of)) for s in range(self.S)}.items():
            sums = self._second_moments(s, gs)
            for j in range(self.J):
                b = s * self.J + j
                held = at_zero * sums[self.group_of[j]]
                self.factor[b] = self._factored(held, self.penalty[b, : self.design.d + 1])
        if self.is_dense:
            self.hessians += 1

    def _second_moments(self, site: int, groups: Sequence[int]) -> dict[int, Tensor]:
        """Sum of x x^T of each group's rows (upper triangle), or of x^2 where d is large."""
        d1 = self.design.d + 1
        shape = (d1, d1) if self.is_dense else (d1,)
        out = {g: torch.zeros(shape, device=self.theta.device) for g in groups}
        for _, rows, x in self.design.parts([site], torch.float32):
            for g in groups:
                weight = self.mask[rows, g].float()[:, None]
                if self.is_dense:
                    self._add_upper(out[g], x, weight)
                else:
                    out[g] += (x.square() * weight).sum(0)
        return out

    def _refactor(self, problems: Tensor) -> None:
        """Hessians at where these problems are; what L-BFGS knew of the old ones is forgotten."""
        for s, js in self._by_site(problems).items():
            weight = self.theta[s * self.J + torch.tensor(js)].float()
            sums = [torch.zeros(self.P, self.P, device=self.theta.device) for _ in js]
            for _, rows, x in self.design.parts([s], torch.float32):
                share = torch.sigmoid((x @ weight.T).double())
                curve = share * (1 - share) * self.mask[rows][:, [self.group_of[j] for j in js]]
                for i in range(len(js)):
                    self._add_upper(sums[i], x, curve[:, i : i + 1].float())
            for i, j in enumerate(js):
                b = s * self.J + j
                self.factor[b] = self._factored(sums[i], self.penalty[b])
        self.hessians[problems] += 1
        self.fresh[problems] = True
        self.curvature[:, problems.to(self.curvature.device)] = 0

    def _add_upper(self, total: Float[Tensor, "d d"], x: Float[Tensor, "m d"], weight: Float[Tensor, "m 1"]) -> None:
        """Add the upper triangle of x^T diag(weight) x, by blocks."""
        if len(self.room) < len(x):
            self.room = torch.empty_like(x)  # kept: fresh memory costs as much as the products' smallest block
        weighted = torch.mul(x, weight, out=self.room[: len(x)])
        for start in range(0, x.shape[1], BLOCK):
            total[start : start + BLOCK, start:].addmm_(weighted[:, start : start + BLOCK].T, x[:, start:])

    def _factored(self, upper: Tensor, penalty: Tensor) -> Tensor:
        """Cholesky factor of an upper triangle and its penalty; the triangle is used up."""
        if upper.ndim == 1:
            return upper.double() + penalty.clamp(min=1e-12)
        upper.diagonal().add_(penalty.float())
        found, failed = torch.linalg.cholesky_ex(upper.mT)
        grown = 1e-7
        while bool(failed):  # a Hessian that float32 cannot tell from a singular one
            wide = upper.double()
            wide.diagonal().add_(grown * upper.diagonal().mean().double())
            found, failed = torch.linalg.cholesky_ex(wide.mT)
            grown *= 10
            if not math.isfinite(grown) or grown > 1e6:
                return upper.diagonal().double().abs().clamp(min=1e-12)
        return found

    def _by_site(self, problems: Tensor) -> dict[int, list[int]]:
        out: dict[int, list[int]] = {}
        for b in problems.tolist():
            out.setdefault(b // self.J, []).append(b % self.J)
        return out
