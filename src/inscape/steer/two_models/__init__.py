"""Two models run together: a base beside its fine-tune on one stream, or one model that steers another.

| you want | take |
|---|---|
| how much of an answer is due to fine-tuning | `contribution.tuning_contribution` |
| more or less of it, in runs and in generation | `scaling.scale_tuning` |
| a base changed as much, but at random: the control | `control.random_tuning` |
| edits that are chosen by what another model thinks | `guided.guided`, `guided.guided_generate` |
"""
