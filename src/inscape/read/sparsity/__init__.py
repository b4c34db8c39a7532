"""How few neurons a model works with, and how few it needs.

| you want | take |
|---|---|
| shares at work, dead neurons, effective numbers | `profile.profile`, `store_profile`; `sparsity_meter` in training |
| how much of an MLP's output is lost below a threshold | `cett.cett_curves`, `cett.cett_thresholds` |
| the fewest neurons at a budget of perplexity | `ppl.ppl_sparsity` |
| what makes a neuron fire | `examples.top_examples`, `store_examples` |
| what that would save | `flops.estimate_flops` |

To keep only some neurons in a run, `core.edits.sparsify` has the edits.
"""
