"""Lenses: states read as scores over the vocabulary.

| you want | take |
|---|---|
| what the model would say if it stopped after each layer | `logit.logit_lens` |
| the same where early layers speak another basis | `tuned.TunedLens`, trained from a store; `compare.compare_lenses` |
| how probable named sets of tokens are | `token_set_lens.token_set_lens`, sets from `token_set.token_set` |
| how probable a few answers are, of any length | `candidates.candidate_lens` |
| how far up given tokens are while a model generates | `token_ranks.token_rank_trace` |
| what another prompt makes of a state | `patching.patch_lens` |
| which class each patch of an image would be | `images.class_lens` |
| the language a model passes through | `language.language_profile`, `language_direction.language_directions` |
"""
