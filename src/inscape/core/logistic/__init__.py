"""Penalised classification, solved exactly for many sites at once: what probes and steering directions are made of."""
