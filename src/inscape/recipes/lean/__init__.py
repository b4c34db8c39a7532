"""Papers about doing the same with less."""
