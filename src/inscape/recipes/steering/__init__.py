"""Steering: directions found, applied, measured."""
