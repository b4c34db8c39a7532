"""Circuits of edges: found greedily, by scores or by learned masks, and tried with every other edge cut."""

from inscape.circuits.edges.best import best_edges
from inscape.circuits.edges.exact import EdgeRuns
from inscape.circuits.edges.faithful import EdgesTried, edge_faithfulness
from inscape.circuits.edges.greedy import GreedyCost, greedy_cost, greedy_edges
from inscape.circuits.edges.learned import learned_edges
from inscape.circuits.edges.wiring import Wiring

__all__ = [
    "EdgeRuns", "EdgesTried", "GreedyCost", "Wiring", "best_edges", "edge_faithfulness", "greedy_cost", "greedy_edges",
    "learned_edges",
]  # fmt: skip
