"""The guarded session: onnxruntime's interface, without its ways to let the model out."""

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

# onnxruntime 1.32 records events about processes and sessions in ~/.cache and uploads them, unless told before import;
# and it takes options from the model's own metadata where the second variable says so, whatever its caller wants.
_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "ORT_LOAD_CONFIG_FROM_MODEL": "0"}
os.environ.update(_ENVIRONMENT)

import onnxruntime

from modelvault import options
from modelvault._memory import SecureBuffer, wipe_bytes
from modelvault.decryption import Decrypted
from modelvault.errors import FileError, ForbiddenOption, ModelError, SessionClosed
from modelvault.graphcheck import WEIGHTS_NAME
from modelvault.manifest import ModelStatement

NOWHERE = "/dev/null/modelvault"  # no path can stand below it
QUANTISED = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"})
MEMORY_MODES = ("auto", "lean", "fast")

onnxruntime.disable_telemetry_events()  # for a process that had imported it before

_open_sessions: "weakref.WeakSet[GuardedSession]" = weakref.WeakSet()


def choose_memory(mode: str, model: Decrypted) -> str:
    """``lean`` keeps the weights once and skips prepacking; ``fast`` prepacks.

    ``auto`` is lean where most of the weights are floats: quantised kernels need prepacking, float kernels hardly
    notice (docs/PERFORMANCE.md).
    """
    if mode not in MEMORY_MODES:
        raise ValueError(f"memory: expected one of {', '.join(MEMORY_MODES)}, got {mode!r}")
    if mode != "auto":
        return mode
    tensors = model.index.tensors
    floats = sum(t.length for t in tensors if t.dtype not in QUANTISED)
    return "lean" if 2 * floats > sum(t.length for t in tensors) else "fast"


def available_providers() -> list[str]:
    return list(onnxruntime.get_available_providers())


def plain_session(model: os.PathLike[str] | bytes) -> onnxruntime.InferenceSession:
    """An ordinary session of an owner's own unsealed model: what a watermark did to it is measured in one.

    Raises whatever onnxruntime raises.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = options.ERROR + 1  # fatal: the caller reports what went wrong
    source = model if isinstance(model, bytes) else os.fspath(model)
    return onnxruntime.InferenceSession(source, settings, providers=[options.CPU])


class GuardedSession(onnxruntime.InferenceSession):
    """An :class:`onnxruntime.InferenceSession` over decrypted weights that it owns, and wipes when closed.

    Made by :func:`modelvault.load`; a context manager; safe to use from several threads. Whatever would write the
    model, copy the session or build it anew raises ForbiddenOption; any use after closing raises SessionClosed.
    """

    def __init__(
        self,
        model: Decrypted,
        statement: ModelStatement,
        *,
        sess_options: onnxruntime.SessionOptions | None,
        providers: Mapping[str, Mapping[str, str]],
        memory: str,
        on_close: Callable[[dict[str, Any]], None],
    ) -> None:
        self._closed = True  # until it is whole
        self._runs = self._active = 0
        self._changed = threading.Condition()
        self._began = time.monotonic()
        self._on_close = on_close
        self._model = model
        self.statement = statement
        self.memory = choose_memory(memory, model)
        try:
            self._open(sess_options, providers)
        except BaseException:
            model.wipe()
            raise
        self._closed = False
        _open_sessions.add(self)

    def _open(self, given: Any, providers: Mapping[str, Mapping[str, str]]) -> None:
        os.environ.update(_ENVIRONMENT)  # somebody may have set them since
        chosen = options.rebuild(given, onnxruntime.SessionOptions())
        self._public_options = options.rebuild(given, onnxruntime.SessionOptions())
        chosen.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
        weights = self._model.weights
        if self.memory == "lean":
            chosen.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
            chosen.add_session_config_entry("session.disable_prepacking", "1")
        if weights.size:
            # onnxruntime does not check this length against the buffer: it must be the buffer's own.
            chosen.add_external_initializers_from_files_in_memory([WEIGHTS_NAME], [weights.view], [len(weights.view)])
        graph = bytes(self._model.graph.view)
        try:
            super().__init__(
                graph,
                chosen,
                providers=list(providers),
                provider_options=[dict(o) for o in providers.values()],
                read_config_from_model=0,
                enable_fallback=0,
            )
        except Exception as error:
            raise ModelError(f"onnxruntime refused the model: {_first_line(error)}") from None
        finally:
            # What onnxruntime keeps to build the session anew: the graph, and options that point at the weights.
            self._model_bytes = None
            self._sess_options = self._sess_options_initial = self._public_options
            wipe_bytes(graph)
            self._model.graph.wipe()
        if self.memory != "lean":
            weights.wipe()

    @property
    def assets(self) -> tuple[str, ...]:
        """Names of the files sealed beside the model."""
        return tuple(self._model.assets)

    def asset(self, name: str) -> bytes:
        """A copy of one sealed file's bytes; FileError where there is none of that name."""
        with self._in_use(count=False):
            if name not in self._model.assets:
                raise FileError(f"{self.statement.name}: no asset {name[:80]!r}")
            return bytes(self._model.assets[name].view)

    @contextlib.contextmanager
    def _in_use(self, *, count: bool = True) -> Iterator[None]:
        self._enter(count)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, count: bool = True) -> None:
        with self._changed:
            if self._closed:
                raise SessionClosed(f"session of {self.statement.name} is closed")
            self._active += 1
            self._runs += count

    def _leave(self) -> None:
        with self._changed:
            self._active -= 1
            if self._closed:
                self._changed.notify_all()

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As onnxruntime's; raises SessionClosed."""
        with self._in_use():
            return super().run(output_names, input_feed, run_options)

    def run_with_ort_values(self, output_names: Any, input_dict_ort_values: Any, run_options: Any = None) -> Any:
        """As onnxruntime's; raises SessionClosed."""
        with self._in_use():
            return super().run_with_ort_values(output_names, input_dict_ort_values, run_options)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """As onnxruntime's; raises SessionClosed."""
        with self._in_use():
            super().run_with_iobinding(iobinding, run_options)

    def run_with_ortvaluevector(self, *args: Any) -> None:
        """As onnxruntime's; raises SessionClosed."""
        with self._in_use():
            super().run_with_ortvaluevector(*args)

    def run_async(
        self, output_names: Any, input_feed: Any, callback: Any, user_data: Any, run_options: Any = None
    ) -> None:
        """As onnxruntime's; closing waits for the callback. Raises SessionClosed."""

        def done(*args: Any) -> None:
            try:
                callback(*args)
            finally:
                self._leave()

        self._enter()
        try:
            super().run_async(output_names, input_feed, done, user_data, run_options)
        except BaseException:
            self._leave()
            raise

    def io_binding(self) -> Any:
        """As onnxruntime's; raises SessionClosed."""
        with self._in_use(count=False):
            return super().io_binding()

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> NoReturn:
        raise ForbiddenOption("set_providers: would build the session anew; load the model again instead")

    def enable_fallback(self) -> NoReturn:
        raise ForbiddenOption("enable_fallback: would build the session anew")

    def end_profiling(self) -> NoReturn:
        raise ForbiddenOption("end_profiling: profiles name the model's nodes")

    def get_provider_graph_assignment_info(self) -> NoReturn:
        raise ForbiddenOption("get_provider_graph_assignment_info: names the model's nodes")

    def get_tuning_results(self) -> NoReturn:
        raise ForbiddenOption("get_tuning_results: names the model's operations")

    def __repr__(self) -> str:
        return f"<GuardedSession {self.statement.name} {self.statement.version}{', closed' if self._closed else ''}>"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a guarded session cannot be copied or pickled")

    def __enter__(self) -> "GuardedSession":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def close(self) -> None:
        """Wait for runs in other threads, wipe the weights, write the audit record. Closing twice is harmless.

        Raises AuditUnavailable; the weights are wiped by then.
        """
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: self._active == 0)
        _release(self.__dict__.pop("_sess", None), self._model)
        self._sess = None
        self._on_close({"runs": self._runs, "seconds": round(time.monotonic() - self._began, 3)})


def _release(native: Any, model: Decrypted) -> None:
    """Wipe once the native session is gone; an io_binding that a caller still holds keeps it, and its weights, alive.

    Then the weights become zeros at once, and their memory stays mapped for as long as the native session does.
    """
    alive = weakref.ref(native)
    keep: list[SecureBuffer] = [model.weights]
    del native
    if (held := alive()) is not None:
        model.weights.clear()
        weakref.finalize(held, keep.clear)
        del held
        return
    model.wipe()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


@atexit.register
def _close_all() -> None:
    for session in list(_open_sessions):
        with contextlib.suppress(Exception):
            session.close()
