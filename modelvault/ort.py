"""A drop-in for onnxruntime: change ``import onnxruntime`` to ``import modelvault.ort as onnxruntime``.

``InferenceSession`` has onnxruntime's own signature and opens sealed models. Identity, trust policy and audit log come
from the environment and ``$MODELVAULT_HOME``, or from keyword arguments of :func:`modelvault.load`. Every other name is
onnxruntime's own.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from modelvault.errors import ForbiddenOption
from modelvault.loader import open_into
from modelvault.session import GuardedSession

_onnxruntime = sys.modules["onnxruntime"]  # imported by the session, with its telemetry off

_HARMLESS = frozenset({"enable_fallback"})
_CLOSED = frozenset({"read_config_from_model", "disabled_optimizers"})


class InferenceSession(GuardedSession):
    """onnxruntime's constructor over a sealed file; FormatError where the file is not sealed."""

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str],
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Mapping[Any, Any]] | None = None,
        **choices: Any,
    ) -> None:
        if not isinstance(path_or_bytes, str | os.PathLike):
            raise TypeError(f"expected the path of a sealed model, got {type(path_or_bytes).__name__}")
        for name in _CLOSED & choices.keys():
            raise ForbiddenOption(f"{name}: not allowed in a guarded session")
        settings = {name: value for name, value in choices.items() if name not in _HARMLESS}
        open_into(
            self,
            path_or_bytes,
            sess_options=sess_options,
            providers=providers,
            provider_options=provider_options,
            **settings,
        )


def __getattr__(name: str) -> Any:
    return getattr(_onnxruntime, name)
