"""What stands between a caller and the model: the input guard, the query guard, the output guard."""

from modelvault.envelopes import InputEnvelope, TensorEnvelope
from modelvault.guards.inputs import InputGuard, calibrate
from modelvault.guards.outputs import OutputLimits, harden
from modelvault.guards.queries import QueryGuard, QueryLimits

__all__ = [
    "InputEnvelope",
    "InputGuard",
    "OutputLimits",
    "QueryGuard",
    "QueryLimits",
    "TensorEnvelope",
    "calibrate",
    "harden",
]
