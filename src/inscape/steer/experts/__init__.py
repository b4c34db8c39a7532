"""Experts of a mixture: how much texts use them, which ones a behaviour uses, and what follows when that is changed.

`use.expert_use` counts, `scores.score_experts` compares two sets of texts, `tuning.tune_experts` learns how much chosen
experts should weigh. The edits are `ins.mask_experts`, `force_experts`, `boost_experts` and `scale_experts`.
"""
