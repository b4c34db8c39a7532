"""Which parts cause an output: patching, attribution, ablation, paths, heads, edges.

| you want | take |
|---|---|
| what every site, position and head carries, exactly | `ins.sweep`; `attribution` for a first look from gradients |
| what one head tells another, or the prediction, directly | `paths.path_patching`; `discover.discover` backwards |
| whether a set of heads is the circuit | `knockout.knock_out`; `faithfulness.faithfulness_curve` for every size |
| who tells whom, edge by edge | `edges`: greedy cuts, scores, learned masks, all tried exactly |
| which heads are of a known kind, where they look | `heads.head_atlas`, `role_attention.role_attention` |
| what one head is needed for in ordinary text | `ablation_loss.ablation_loss` |
| what a head does, from its weights | `weights`; `channels` for what two heads say to each other |
| what each part adds to a logit | `direct.direct_logits` |
| a site's mean by key, to ablate with | `bank.ablation_bank` |
| in which layers tokens need each other | `transfer_window.transfer_window`, `transfer_heads.heads_needed`, `masks` |
| a direction that carries the answer, and whether it is an illusion | `subspaces` |
| neurons of all layers that act together | `neuron_path` |
"""
