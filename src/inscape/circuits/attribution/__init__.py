"""Which parts an output is made of, from gradients: a few backward passes in place of one run a part.

| you want | take | cost |
|---|---|---|
| what patching each place would do, roughly | `attribution_patching` | two forwards and one backward |
| what any edits would do, entry by entry | `first_order` | one forward and one backward |
| the same for zero ablation, at one place after another | `gradient_times_activation` | one forward and one backward |
| shares that add up to the whole effect of an edit | `integrated_gradients` | `steps` of these |
| which part writes to which | `edge_attribution` (EAP), with steps= EAP-IG | two forwards and `steps` backwards |
| attributions of the inputs by any method of Captum | `input_attribution` | the method's |
| whether a gradient can be trusted here | `relevance`, against an exact `ins.sweep` | none |

All are first looks: a gradient sees what an infinitely small change would do. Where it matters, run the edit. They are
good at heads' z and at what MLPs write, and poor at whole streams, where a patch is a large change and norms follow it:
there take integrated gradients, or the sweep itself (`bench/attribution.py` measures both).
"""
