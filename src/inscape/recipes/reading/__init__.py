"""Papers that read something off activations."""
