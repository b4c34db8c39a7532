"""What can be learned from activations without changing the model. A room a question:

| you ask | room |
|---|---|
| what would it say here, and in which language | `lenses` |
| which layer knows this, and along which direction | `probes` |
| are two sites, layers or models the same inside | `similarity`; `compare_models` for a base and its tuned descendant |
| what does one cloud of states look like | `geometry` |
| what are the layers used for | `depth` |
| what happens over the tokens of a generation | `generation` |
| how few neurons does it need | `sparsity` |
| which values are a thousand times the others, where does attention sink | `outliers` |
| which concepts carried a wrong answer | `semantics` |
| what do the probabilities alone tell | `signatures` |
| how integrated is a sequence of states | `integrated` |
| does it answer what is right or what is usual | `behaviour` |
| does a number say something about an outcome | `compare_scores` |

What learns is a readout (`core.readout`: fit, transform or predict, score; saved with `ins.save_readout`); what only
measures is a function. Both stand beside their null.
"""
