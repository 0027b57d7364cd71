"""An io_binding that remembers its inputs, so that the session can check them when it runs."""

from typing import Any

import onnxruntime

from modelvault.errors import ForbiddenOption


class GuardedBinding(onnxruntime.IOBinding):
    """As onnxruntime's. ``bound`` maps input names to the arrays or OrtValues that are bound to them.

    Where the session rejects inputs by their values, raw pointers cannot be bound.
    """

    def __init__(self, session: Any, *, raw_pointers: bool) -> None:
        super().__init__(session)
        self.bound: dict[str, Any] = {}
        self._raw_pointers = raw_pointers

    def bind_cpu_input(self, name: str, arr_on_cpu: Any) -> None:
        super().bind_cpu_input(name, arr_on_cpu)
        self.bound[name] = arr_on_cpu

    def bind_ortvalue_input(self, name: str, ortvalue: Any) -> None:
        super().bind_ortvalue_input(name, ortvalue)
        self.bound[name] = ortvalue

    def bind_input(
        self, name: Any, device_type: Any, device_id: Any, element_type: Any, shape: Any, buffer_ptr: Any
    ) -> None:
        if not self._raw_pointers:
            raise ForbiddenOption("bind_input: values behind a raw pointer cannot be checked; use bind_ortvalue_input")
        super().bind_input(name, device_type, device_id, element_type, shape, buffer_ptr)
        self.bound.pop(name, None)

    def clear_binding_inputs(self) -> None:
        super().clear_binding_inputs()
        self.bound.clear()
