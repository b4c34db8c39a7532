"""How what a model holds is laid out in space."""
