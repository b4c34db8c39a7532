"""Every measure beside its null where there is nothing, and where something was planted: a file a room.

A row is a small function of a seed and an effect that gives a p value (or whether something was found): effect 0 is
random data, 1 planted data. What has no row, because nothing in it says yes or no:

- `store` statistics, `updates`, `class_means`, `principal_basis`, `binary_network`, `top_examples`, `cett`, `gates`,
  `estimate_flops`, `ActivationMonitor`, `anchor_cosines`, `answer_over_tokens`, `layer_geometry`, `ConfidenceStream`,
  `sample_traces`, `choose`, `continuation_log_probs`: they describe; what is made of their numbers has rows of `nulls`.
- `sparsity.profile`: its Gaussian control says what a dense code looks like, which no net has to be unlike.
- `ppl_sparsity`: with as many random neurons perplexity is another number beside it; small neurons do cost less than
  random ones in any net, so there is no net in which the two are the same.
- `attention_sinks`, `downstream_effects` and `residual_erasure` beside noise: the control says what any push of that
  size does, and a random net treats the two unlike (a skip shortens the stream); with no way to later tokens the
  effects are 0, which has rows.
- `sink_origin` always names the part that adds most, `effective_depth` and `points_of` the place where a curve crosses.
- `rank_correlation`, `Spectrum.alpha`, `changepoint(...).at`: numbers of a curve; the break's own p has rows.
- `last_effects`: its interval is `depth_score`. `judged_rate`: its interval is `nulls.share`. `class_lens`: the control
  of `logit_lens`, in the same function, with patches for tokens.
- `trace_semantics`: edges are drawn above what 19 of 20 random changes reach, one by one; `support_matrix` has a row.
- `compare_models`: shows numbers of tests beside controls and judges none; `choose_threshold` chooses.
"""

from bench.nothing_there import (
    depth,
    generation,
    geometry,
    integrated,
    lenses,
    nulls,
    outliers,
    probes,
    semantics,
    signatures,
    similarity,
)  # fmt: skip
from bench.nothing_there.case import Case

ROOMS = (nulls, probes, similarity, geometry, lenses, depth, generation, signatures, outliers, semantics, integrated)
CASES: dict[str, Case] = {name: case for room in ROOMS for name, case in room.CASES.items()}
assert len(CASES) == sum(len(room.CASES) for room in ROOMS)
