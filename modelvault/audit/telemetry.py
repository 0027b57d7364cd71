"""The log's counts as OpenTelemetry metrics, and its records on Python's logging. Extra: telemetry.

The application that loads models sets up where they go; here nothing is sent anywhere.
"""

import logging
from collections.abc import Callable

from modelvault.audit.lines import Record
from modelvault.errors import ModelVaultError

logger = logging.getLogger("modelvault.audit")


def make_observer() -> Callable[[Record], None]:
    """A callable for ``AuditLog.observe``. ModelVaultError where OpenTelemetry's API is not installed.

    Counters ``modelvault.loads``, ``modelvault.denials`` (by reason), ``modelvault.runs`` and
    ``modelvault.rejected_inputs``; histogram ``modelvault.session.duration`` in seconds; attributes
    ``modelvault.model.name``, ``modelvault.model.version`` and, for denials, ``error.type``.
    """
    try:
        from opentelemetry import metrics
    except ImportError:
        raise ModelVaultError("telemetry needs OpenTelemetry: pip install 'modelvault[telemetry]'") from None
    meter = metrics.get_meter("modelvault")
    loads = meter.create_counter("modelvault.loads", unit="{load}", description="Models loaded")
    denials = meter.create_counter("modelvault.denials", unit="{load}", description="Loads refused")
    runs = meter.create_counter("modelvault.runs", unit="{run}", description="Inferences of closed sessions")
    rejected = meter.create_counter("modelvault.rejected_inputs", unit="{input}", description="Inputs refused")
    seconds = meter.create_histogram("modelvault.session.duration", unit="s", description="Seconds a session was open")

    def observe(record: Record) -> None:
        about = _model(record)
        if record.event == "load.done":
            loads.add(1, about)
        elif record.event == "load.denied":
            denials.add(1, {**about, "error.type": str(record.fields.get("reason"))})
        elif record.event == "session.closed":
            runs.add(_count(record, "runs"), about)
            rejected.add(_count(record, "rejected"), about)
            seconds.record(float(record.fields.get("seconds", 0)), about)
        level = logging.WARNING if record.event in ("load.denied", "recovered") else logging.INFO
        logger.log(level, "%s seq=%d %s", record.event, record.seq, record.fields.get("reason", ""), extra=about)

    return observe


def _model(record: Record) -> dict[str, str]:
    model = record.fields.get("model")
    if not isinstance(model, dict):
        return {}
    return {f"modelvault.model.{part}": str(model.get(part)) for part in ("name", "version")}


def _count(record: Record, name: str) -> int:
    value = record.fields.get(name, 0)
    return value if isinstance(value, int) else 0
