"""Papers about what the layers of a network are used for, and at which depth something is known."""
