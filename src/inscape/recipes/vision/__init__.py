"""Papers about networks that see."""
