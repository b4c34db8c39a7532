"""What depth is used for.

| you want to know | take |
|---|---|
| which later layers mind that one is skipped, now and at later tokens | `downstream.downstream_effects` |
| what the next prediction loses without a layer | `last_token.last_effects` |
| from where on the prediction stands | `lens_profile.lens_profile`, `settling.effective_depth` and `depth_score` |
| until when a token's own state is needed | `erasure.residual_erasure` |
| all of it, with intervals | `report.depth_report` |
| from which layer on a label can be read | `concept.depth_profile`; `compare.compare_profiles` for two conditions |
"""
