"""Papers about what happens while a model generates."""
