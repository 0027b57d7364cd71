"""modelvault run"""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from modelvault import _files
from modelvault._codec import NUMBER
from modelvault.cli.common import (
    FILE,
    PLACE,
    ask_passphrase,
    bytes_in,
    json_option,
    passphrase_option,
    print_fields,
    print_json,
    print_table,
    progress_bar,
    read_arrays,
)
from modelvault.errors import FileError, FormatError, ModelError, ModelVaultError

if TYPE_CHECKING:
    from modelvault.session import GuardedSession

MAX_RANDOM = 2**28  # elements
_TYPES: dict[str, str] = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


@click.command(
    "run",
    epilog="Examples: modelvault run fraud.mvlt --random   |   modelvault run fraud.mvlt --input x.npz --output y.npz",
)
@click.argument("file", type=PLACE)
@click.option("--input", "source", type=FILE, help=".npz with arrays by input name, or .npy for a single input.")
@click.option("--random", "make", is_flag=True, help="Make inputs from the model's own signature.")
@click.option("--shape", "shapes", multiple=True, metavar="INPUT=N,N", help="With --random: fix an input's shape.")
@click.option("--output", type=FILE, help="Write the outputs to an .npz file.")
@click.option("--identity", metavar="KEY", help="Recipient key: name or path. Default: default.")
@click.option("--grant", type=PLACE, help="A grant kept beside the file.")
@click.option(
    "--trust", type=PLACE, help="Trust policy: path, or URL#sha256=HEX. Default: $MODELVAULT_HOME/trust.toml."
)
@click.option("--audit", type=FILE, help="Audit log. Default: $MODELVAULT_HOME/audit/audit.log.")
@click.option("--hardening", type=click.Choice(["standard", "strict"]), default="standard", show_default=True)
@click.option("--input-guard", type=click.Choice(["reject", "warn", "off"]), default="reject", show_default=True)
@click.option("--purpose", help="Declare what for; recorded, and checked where the licence limits it.")
@click.option("--memory", type=click.Choice(["auto", "lean", "fast"]), default="auto", show_default=True)
@passphrase_option
@json_option
def command(
    file: str | Path,
    source: Path | None,
    make: bool,
    shapes: tuple[str, ...],
    output: Path | None,
    identity: str | None,
    grant: str | Path | None,
    trust: str | Path | None,
    audit: Path | None,
    hardening: str,
    input_guard: str,
    purpose: str | None,
    memory: str,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Load a sealed FILE in a guarded session and run it once; without --input or --random, only load it."""
    from modelvault.loader import load

    if source and make:
        raise click.UsageError("choose one: --input or --random")
    began = time.perf_counter()
    with progress_bar("loading", bytes_in(file)) as step:
        session = load(
            file,
            identity=identity,
            trust=trust,
            audit=audit,
            grant=grant,
            passphrase=ask_passphrase(passphrase_file),
            memory=memory,
            purpose=purpose,
            hardening=hardening,
            input_guard=input_guard,
            progress=step,
        )
    with session:
        loaded = time.perf_counter() - began
        facts: dict[str, Any] = {"model": f"{session.statement.name} {session.statement.version}"}
        facts |= {"memory": session.memory, "load_seconds": round(loaded, 4), "assets": list(session.assets)}
        outputs: dict[str, Any] = {}
        if source or make:
            feed = _read_inputs(source, session) if source else _random_inputs(session, shapes)
            outputs, facts["run_seconds"] = _run(session, feed)
        if output:
            _write_outputs(output, outputs)
            facts["output"] = str(output)
    rows = [(name, *_describe(value)) for name, value in outputs.items()]
    if as_json:
        print_json(facts | {"outputs": [dict(zip(("name", "dtype", "shape"), row, strict=True)) for row in rows]})
        return
    print_fields([(key, value) for key, value in facts.items() if value != []])
    if rows:
        click.echo()
        print_table(["output", "type", "shape"], [(n, t, "x".join(map(str, s)) or "scalar") for n, t, s in rows])


def _run(session: "GuardedSession", feed: dict[str, Any]) -> tuple[dict[str, Any], float]:
    names = [o.name for o in session.get_outputs()]
    began = time.perf_counter()
    try:
        values = session.run(None, feed)
    except ModelVaultError:
        raise
    except Exception as error:
        words = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ModelError(f"{session.statement.name}: the run failed: {words}") from None
    return dict(zip(names, values, strict=True)), round(time.perf_counter() - began, 4)


def _read_inputs(path: Path, session: "GuardedSession") -> dict[str, Any]:
    loaded = read_arrays(path)
    return loaded if isinstance(loaded, dict) else {_single_input(session, path): loaded}


def _single_input(session: "GuardedSession", path: Path) -> str:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise FormatError(
            f"{path}: one array, but the model has {len(inputs)} inputs; expected an .npz with their names"
        )
    return str(inputs[0].name)


def _random_inputs(session: "GuardedSession", shapes: tuple[str, ...]) -> dict[str, Any]:
    """Normal floats, and integers 0 or 1 (safe as ids and lengths); dimensions without a number become 1."""
    fixed = dict(_shape(text) for text in shapes)
    rng, feed = np.random.default_rng(0), {}
    for entry in session.get_inputs():
        shape = fixed.pop(entry.name, None) or tuple(d if isinstance(d, int) and d > 0 else 1 for d in entry.shape)
        feed[entry.name] = _random_array(rng, entry.type, shape)
    if fixed:
        raise click.BadParameter(f"the model has no input {next(iter(fixed))!r}", param_hint="--shape")
    return feed


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition("=")
    numbers = dims.split(",")
    if not all(NUMBER.fullmatch(n) for n in numbers):
        raise click.BadParameter(f"expected INPUT=N,N, got {text[:200]!r}", param_hint="--shape")
    return name, tuple(int(n) for n in numbers)


def _random_array(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Any:
    if math.prod(shape) > MAX_RANDOM:
        raise ModelError(f"a random input of shape {shape} is beyond {MAX_RANDOM} elements; use --input")
    if kind == "tensor(string)":
        return np.full(shape, "a", dtype=object)
    if kind not in _TYPES:
        raise ModelError(f"cannot make a random {kind}; use --input")
    dtype = np.dtype(_TYPES[kind])
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)


def _describe(value: Any) -> tuple[str, list[int]]:
    if isinstance(value, np.ndarray):
        return ("str" if value.dtype == object else str(value.dtype)), list(value.shape)
    return type(value).__name__, [len(value)] if hasattr(value, "__len__") else []


def _write_outputs(path: Path, outputs: dict[str, Any]) -> None:
    arrays = {}
    for name, value in outputs.items():
        array = np.asarray(value)
        arrays[name] = array.astype(str) if array.dtype == object else array
        if array.dtype == object and not all(isinstance(x, str) for x in array.ravel()):
            raise FileError(f"{path}: output {name!r} is not an array and cannot be written to .npz")
    with _files.atomic_write(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
