"""The guarded session: onnxruntime's interface, without its ways to let the model out."""

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

# onnxruntime 1.32 records events about processes and sessions in ~/.cache and uploads them, unless told before import;
# and it takes options from the model's own metadata where the second variable says so, whatever its caller wants.
_ENVIRONMENT = {"ORT_DISABLE_TELEMETRY": "1", "ORT_LOAD_CONFIG_FROM_MODEL": "0"}
os.environ.update(_ENVIRONMENT)

import onnxruntime

from modelvault import options
from modelvault._memory import overwritten_frees, wipe_bytes
from modelvault.binding import GuardedBinding
from modelvault.decryption import Decrypted
from modelvault.errors import FileError, ForbiddenOption, InputRejected, ModelError, SessionClosed
from modelvault.graphcheck import WEIGHTS_NAME
from modelvault.guards import InputGuard, OutputLimits, QueryGuard, QueryLimits, harden
from modelvault.manifest import ModelStatement
from modelvault.releasing import detached, release

NOWHERE = "/dev/null/modelvault"  # no path can stand below it
LEAN_FROM = 256 * 2**20
QUANTISED = frozenset({"INT8", "UINT8", "INT4", "UINT4", "INT2", "UINT2"})
MEMORY_MODES = ("auto", "lean", "fast")
INPUT_GUARDS = ("reject", "warn", "off")

onnxruntime.disable_telemetry_events()  # for a process that had imported it before

_open_sessions: "weakref.WeakSet[GuardedSession]" = weakref.WeakSet()
_caller: ContextVar[str] = ContextVar("modelvault_caller", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """What a caller chooses about a session, checked before anything is decrypted.

    ``memory`` is auto, lean or fast; ``input_guard`` reject, warn (count only) or off; ``queries`` and ``outputs`` are
    limits by caller and on what is answered. ``before_run`` may refuse a run by raising.
    """

    sess_options: Any = None
    providers: Mapping[str, Mapping[str, str]]
    memory: str = "auto"
    input_guard: str = "reject"
    queries: QueryLimits | None = None
    outputs: OutputLimits | None = None
    before_run: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("memory", self.memory, MEMORY_MODES),
            ("input_guard", self.input_guard, INPUT_GUARDS),
        ):
            if value not in allowed:
                raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")
        options.rebuild(self.sess_options, onnxruntime.SessionOptions())


def choose_memory(mode: str, model: Decrypted) -> str:
    """``lean`` holds the weights once, without prepacking; ``fast`` holds them beside onnxruntime's prepacked copies.

    ``auto`` is lean where the weights are many and mostly floats: quantised kernels need prepacking, float kernels lose
    a few per cent without it, and a second copy of a small model costs little (docs/PERFORMANCE.md).
    """
    if mode != "auto":
        return mode
    weights = model.index.weights
    floats = sum(size for dtype, size in weights.items() if dtype not in QUANTISED)
    return "lean" if floats >= LEAN_FROM and 2 * floats > sum(weights.values()) else "fast"


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
    model, copy the session or build it anew raises ForbiddenOption; any use after closing, or in a forked child, raises
    SessionClosed.
    """

    def __init__(self) -> None:
        raise TypeError("a guarded session is made by modelvault.load")

    def _start(
        self,
        model: Decrypted,
        statement: ModelStatement,
        settings: SessionSettings,
        on_close: Callable[[dict[str, Any]], None],
    ) -> None:
        self._closed = True  # until it is whole
        self._process = os.getpid()
        self._runs = self._active = self._rejected = 0
        self._changed = threading.Condition(threading.Lock())
        self._began = time.monotonic()
        self._on_close = on_close
        self._model = model
        self._settings = settings
        self.statement = statement
        self.memory = choose_memory(settings.memory, model)
        self._queries = QueryGuard(settings.queries) if settings.queries else None
        try:
            self._open(settings)
            self._inputs = InputGuard(self.get_inputs(), model.index.guard)
        except BaseException:
            model.wipe()
            raise
        self._closed = False
        _open_sessions.add(self)

    def _open(self, settings: SessionSettings) -> None:
        os.environ.update(_ENVIRONMENT)  # somebody may have set them since
        chosen = options.rebuild(settings.sess_options, onnxruntime.SessionOptions())
        self._public_options = options.rebuild(settings.sess_options, onnxruntime.SessionOptions())
        chosen.add_session_config_entry("session.model_external_initializers_file_folder_path", NOWHERE)
        weights = self._model.weights
        # onnxruntime reads this very buffer: no copy of a weight is made that could not be wiped.
        chosen.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
        if self.memory == "lean":
            chosen.add_session_config_entry("session.disable_prepacking", "1")
        if weights.size:
            # onnxruntime does not check this length against the buffer: it must be the buffer's own.
            chosen.add_external_initializers_from_files_in_memory([WEIGHTS_NAME], [weights.view], [len(weights.view)])
        graph = bytes(self._model.graph.view)
        self._model.graph.wipe()
        try:
            with overwritten_frees():
                super().__init__(
                    graph,
                    chosen,
                    providers=list(settings.providers),
                    provider_options=[dict(o) for o in settings.providers.values()],
                    read_config_from_model=0,
                    enable_fallback=0,
                )
        except Exception as error:
            raise ModelError(f"onnxruntime refused the model: {_first_line(error)}") from None
        else:
            self._inputs_meta, self._outputs_meta = (
                [detached(a) for a in m] for m in (self._inputs_meta, self._outputs_meta)
            )
            self._model_meta = detached(self._model_meta)
        finally:
            # What onnxruntime keeps to build the session anew: the graph, and options that point at the weights.
            self._model_bytes = None
            self._sess_options = self._sess_options_initial = self._public_options
            wipe_bytes(graph)

    @property
    def assets(self) -> tuple[str, ...]:
        """Names of the files sealed beside the model."""
        return tuple(self._model.assets)

    def asset(self, name: str) -> bytes:
        """A copy of one sealed file's bytes; FileError where there is none of that name."""
        with self._in_use(count=0):
            if name not in self._model.assets:
                raise FileError(f"{self.statement.name}: no asset {name[:80]!r}")
            return bytes(self._model.assets[name].view)

    @contextlib.contextmanager
    def caller(self, name: str) -> Iterator[None]:
        """Calls inside this context, in this thread or task, count as this caller's for the query guard."""
        token = _caller.set(name)
        try:
            yield
        finally:
            _caller.reset(token)

    @contextlib.contextmanager
    def _in_use(self, *, count: int = 1) -> Iterator[None]:
        self._enter(count)
        try:
            yield
        finally:
            self._leave()

    def _enter(self, count: int = 1) -> None:
        if os.getpid() != self._process:
            raise SessionClosed(f"session of {self.statement.name} belongs to the process that loaded it")
        if count and self._settings.before_run is not None and not self._closed:
            self._settings.before_run()
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

    def _guard(self, feed: Mapping[str, Any]) -> None:
        """Query guard, then input guard; both count into the audit record of the session."""
        if not isinstance(feed, dict | Mapping):
            # onnxruntime's bindings answer a wrong type by printing the arguments that they were given
            raise TypeError(f"inputs: expected a mapping of names to values, got {type(feed).__name__}")
        if self._queries is not None:
            with self._changed:
                self._queries.admit(_caller.get(), feed)
        rejection = self._judge(feed)
        if self._queries is not None:
            with self._changed:
                self._queries.note_rejection(_caller.get(), rejection is not None)
        if rejection is None:
            return
        with self._changed:
            self._rejected += 1
        if self._settings.input_guard == "reject":
            raise rejection

    def _guard_values(self, values: Mapping[str, Any]) -> None:
        """The same for OrtValues, which are looked into only where something would look."""
        if self._settings.input_guard != "off" or self._queries is not None:
            self._guard({name: host_array(value) for name, value in values.items()})

    def _judge(self, feed: Mapping[str, Any]) -> InputRejected | None:
        if self._settings.input_guard != "off":
            try:
                self._inputs.check(feed)
            except InputRejected as rejection:
                return rejection
        return None

    def _answer(self, outputs: Any) -> Any:
        return outputs if self._settings.outputs is None else harden(outputs, self._settings.outputs)

    def run(self, output_names: Any, input_feed: Any, run_options: Any = None) -> Any:
        """As onnxruntime's; raises SessionClosed, InputRejected, QueryRefused."""
        self._enter()  # not as a context manager: some models answer in microseconds
        try:
            self._guard(input_feed)
            return self._answer(super().run(output_names, input_feed, run_options))
        finally:
            self._leave()

    def run_with_ort_values(self, output_names: Any, input_dict_ort_values: Any, run_options: Any = None) -> Any:
        """As onnxruntime's; raises SessionClosed, InputRejected, QueryRefused."""
        self._unlimited("run_with_ort_values")
        with self._in_use():
            self._guard_values(input_dict_ort_values)
            return super().run_with_ort_values(output_names, input_dict_ort_values, run_options)

    def run_with_iobinding(self, iobinding: Any, run_options: Any = None) -> None:
        """As onnxruntime's, with a binding that this session made; raises as :meth:`run`."""
        self._unlimited("run_with_iobinding")
        if not isinstance(iobinding, GuardedBinding):
            raise ForbiddenOption("run_with_iobinding: expected a binding made by this session's io_binding()")
        with self._in_use():
            self._guard_values(iobinding.bound)
            super().run_with_iobinding(iobinding, run_options)

    def run_with_ortvaluevector(
        self, run_options: Any, feed_names: Any, feeds: Any, fetch_names: Any, fetches: Any, fetch_devices: Any
    ) -> NoReturn:
        raise ForbiddenOption("run_with_ortvaluevector: its inputs cannot be checked; use run_with_iobinding")

    def run_async(
        self, output_names: Any, input_feed: Any, callback: Any, user_data: Any, run_options: Any = None
    ) -> None:
        """As onnxruntime's; closing waits for the callback. Raises as :meth:`run`."""

        def done(outputs: Any, data: Any, error: Any) -> None:
            try:
                callback(self._answer(outputs) if not error else outputs, data, error)
            finally:
                self._leave()

        self._enter()
        try:
            self._guard(input_feed)
            super().run_async(output_names, input_feed, done, user_data, run_options)
        except BaseException:
            self._leave()
            raise

    def _unlimited(self, call: str) -> None:
        if self._settings.outputs is not None:
            raise ForbiddenOption(f"{call}: its outputs cannot be limited; use run")

    def io_binding(self) -> GuardedBinding:
        """As onnxruntime's; raises SessionClosed."""
        with self._in_use(count=0):
            judged = self._settings.input_guard == "reject" and self._model.index.guard is not None
            return GuardedBinding(self, raw_pointers=not judged)

    def get_session_options(self) -> Any:
        """Options as the caller gave them, rebuilt: they know nothing of the weights."""
        return self._public_options

    def set_providers(self, providers: Any = None, provider_options: Any = None) -> NoReturn:
        raise ForbiddenOption("set_providers: would build the session anew; load the model again instead")

    def _reset_session(self, providers: Any, provider_options: Any) -> NoReturn:
        raise ForbiddenOption("_reset_session: would build the session anew")

    def enable_fallback(self) -> NoReturn:
        raise ForbiddenOption("enable_fallback: would build the session anew")

    def end_profiling(self) -> NoReturn:
        raise ForbiddenOption("end_profiling: profiles name the model's nodes")

    def get_provider_graph_assignment_info(self) -> NoReturn:
        raise ForbiddenOption("get_provider_graph_assignment_info: names the model's nodes")

    def get_tuning_results(self) -> NoReturn:
        raise ForbiddenOption("get_tuning_results: names the model's operations")

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return f"<{type(self).__name__} {self.statement.name} {self.statement.version}{state}>"

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

        Raises AuditUnavailable; the weights are wiped by then. In a forked child it only wipes the child's copy.
        """
        if os.getpid() != self._process:
            self._model.wipe()
            return
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.wait_for(lambda: self._active == 0)
        release(self.__dict__.pop("_sess"), self._model)
        self._sess = None
        self._on_close(self._counters())

    def _counters(self) -> dict[str, Any]:
        counters = {"runs": self._runs, "rejected": self._rejected}
        queries = {} if self._queries is None else {"queries": self._queries.summary()}
        return {**counters, **queries, "seconds": round(time.monotonic() - self._began, 3)}


def host_array(value: Any) -> Any:
    """An OrtValue as an array where it lies in the host's memory, without a copy; anything else as it is."""
    on_host = isinstance(value, onnxruntime.OrtValue) and value.device_name() == "cpu" and value.is_tensor()
    return value.numpy() if on_host else value


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


@atexit.register
def _close_all() -> None:
    for session in list(_open_sessions):
        with contextlib.suppress(Exception):
            session.close()
