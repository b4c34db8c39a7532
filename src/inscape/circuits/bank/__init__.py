"""Ablation banks: what a site says on average, over everything, by position, or by a key of the token's own."""

from inscape.circuits.bank.bank import Bank, Coverage
from inscape.circuits.bank.building import ablation_bank
from inscape.circuits.bank.lookup import UnseenKeyWarning

__all__ = ["Bank", "Coverage", "UnseenKeyWarning", "ablation_bank"]
