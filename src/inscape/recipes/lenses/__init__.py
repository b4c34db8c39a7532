"""What lenses read between the layers."""
