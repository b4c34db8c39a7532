"""Directions that change what a model does: found from texts, measured, carried to other models.

| you want | take |
|---|---|
| the direction between two sets of texts, at every layer | `fit_directions.fit_directions` |
| edits in the weights themselves, where that is exact | `merge.merge_edits` |
"""
