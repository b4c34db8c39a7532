"""Steering: directions found, applied, measured."""
"""Papers about changing what a model does while it runs."""
