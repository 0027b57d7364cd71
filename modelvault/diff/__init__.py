"""Compare two models: graph and weights. What the words and figures mean is in docs/DIFF.md."""

from modelvault.diff.comparing import Comparison, compare
from modelvault.diff.verdict import SAME, Verdict

__all__ = ["SAME", "Comparison", "Verdict", "compare"]
