"""Directions that change what a model does: found from texts, measured, carried to other models.

| you want | take |
|---|---|
| the direction between two sets of texts, at every layer | `fit_directions.fit_directions` |
| a direction a row: what an image or a document does to this very input | `contrast.contrast_direction` |
| the same input without its image, or without any tokens | `spans.without_image`, `spans.without_tokens` |
| scores that are partly those of earlier layers | `early_logits.early_logits` |
| a direction between words, without running a text | `tokens.token_direction` |
| one scale and shift a unit that make texts look like others inside, sparse if wanted | `fit_affine.fit_affine` |
| when to steer, how strongly and at which layers, learned from inputs of two kinds | `fit_controller.fit_controller` |
| how far texts are from others inside, with edits and without | `transport.transport` |
| what makes given texts likelier, trained end to end | `optimise.optimise_direction` |
| many shuffles of a fit, to compare with | `shuffles.fit_shuffles` |
| how strongly, for a budget of KL | `calibrate.calibrate_strength` |
| what each dose does, what it costs, and what controls do | `dose_response.dose_response` |
| the same on a closed list of answers: accuracy, answer mass, KL, entropy | `sweep_answers.sweep_answers` |
| vectors beside random ones that move predictions as far | `equal_kl.beside_random` |
| two ways of steering at the same effect | `matched_dose.matched_dose` |
| whether a text is as it should be | `core.judges`, `judges.classifier`, `judges.answer_mass` |
| one model's behaviour to choose the vector for another, token by token | `hybrid.hybrid_generate` |
| whether a direction is any good, on texts it has not seen | `quality.quality` |
| states that no linear probe can tell labels from | `erase.Eraser` |
| edits in the weights themselves, where that is exact | `merge.merge_edits` |
| the experts of a mixture that a behaviour uses | `experts` |
| a fine-tune beside its base, or one model that steers another | `two_models` |
| them in another program | `export` |
| a direction in another model, through a map between states | `transfer.transfer` |
"""
