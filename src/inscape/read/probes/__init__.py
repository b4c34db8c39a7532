"""Probes: what can be read off activations, as directions and decision rules."""

from inscape.read.probes.mean_difference import MeanDifference

__all__ = ["MeanDifference"]
