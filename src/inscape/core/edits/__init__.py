"""The edits a user writes: each constructor returns a `core.edit.Edit`."""
