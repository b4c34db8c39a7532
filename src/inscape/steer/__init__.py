"""Directions that change what a model does: found from texts, measured, carried to other models.

| you want | take |
|---|---|
| edits in the weights themselves, where that is exact | `merge.merge_edits` |
"""
