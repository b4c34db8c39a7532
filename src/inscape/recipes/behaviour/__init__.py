"""Papers about what models do when they are asked."""
