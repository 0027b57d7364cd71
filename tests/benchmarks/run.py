"""Measure modelvault beside its alternatives, and write docs/PERFORMANCE.md: python tests/benchmarks/run.py [--quick]

Everything that is compared runs in turn on the same machine, in the same run; what is reported are medians, and ratios
of medians. Peers are measured where they are installed: pip install model-signing pyopenssl pyrage.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import auditlog
import grants
import loading
import numpy as np
import onnxruntime
import synthetic
from loading import WAYS
from prepare import prepare

sys.path.insert(0, str(Path(__file__).parent.parent))

from feeds import feed_for

from modelvault.envelopes import InputEnvelope
from modelvault.fingerprint.planning import make_plan
from modelvault.fingerprint.registry import Registry
from modelvault.fingerprint.rings import Owner
from modelvault.guards import InputGuard, calibrate
from modelvault.keys import OwnerSecret, PublisherKey, RecipientKey
from modelvault.sealedfile import SealedFile
from modelvault.sealing import seal
from modelvault.trust import TrustPolicy
from modelvault.verification import verify

ROOT = Path(__file__).parent.parent.parent
MODELS = Path(os.environ.get("MODELVAULT_TEST_MODELS", ROOT / ".cache" / "models"))
SMALL = ("basic-pitch", "magika", "silero-vad", "ppocr-cls", "ppocr-rec", "minilm-l3", "minilm-int8")
BASE = "plain path, weights inside"
Table = tuple[Sequence[str], list[Sequence[object]]]


def alternate(ways: Mapping[str, Callable[..., float]], rounds: int) -> dict[str, float]:
    """The median of each way, measured in turn, and back and forth: none always follows the same other."""
    seen: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, measure in list(ways.items())[:: 1 if number % 2 else -1]:
            seen[name].append(measure())
    return {name: statistics.median(values) for name, values in seen.items()}


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def small_loads(folder: Path, rounds: int) -> Table:
    rows: list[Sequence[object]] = []
    for name in SMALL:
        place = prepare(MODELS / f"{name}.onnx", folder / name)
        ways = {
            way: (lambda way=way, place=place: loading.measure(way, place)["seconds"] * 1e3)
            for way in ("sealed, lean", "sealed, fast", BASE)
        }
        took = alternate(ways, rounds)
        bar = 1.15 * took[BASE] + 5
        rows.append((name, *(f"{took[w]:.1f}" for w in ways), f"{bar:.1f}"))
    return ("model", "sealed, lean (ms)", "sealed, fast (ms)", "plain path (ms)", "1.15 x plain + 5 ms"), rows


def fingerprinted_loads(folder: Path, rounds: int) -> Table:
    """minilm-l3 with slots for coalitions of several sizes, against the same file without."""
    model, secret = MODELS / "minilm-l3.onnx", OwnerSecret.generate()
    places = {"none": prepare(model, folder / "none")}
    plans = {}
    for coalition in (3, 5, 8):
        plan = make_plan(model, Owner(secret, Registry(folder / "registry", secret)), coalition=coalition)
        places[f"{coalition}"] = prepare(model, folder / f"for-{coalition}", fingerprint=plan)
        plans[f"{coalition}"] = plan
    took = {
        memory: alternate(
            {
                name: (lambda way=f"sealed, {memory}", p=place: loading.measure(way, p)["seconds"] * 1e3)
                for name, place in places.items()
            },
            rounds,
        )
        for memory in ("lean", "fast")
    }
    plain = (places["none"] / "model.mvlt").stat().st_size
    rows: list[Sequence[object]] = []
    for name, place in places.items():
        path = place / "model.mvlt"
        with SealedFile(path) as sealed:
            grant = max(len(g) for g in sealed.header.grants)
        ratios = [f"{took[m][name]:.1f} ({took[m][name] / took[m]['none']:.3f})" for m in ("lean", "fast")]
        slots = plans[name].layout.slots if name in plans else 0
        size = f"{path.stat().st_size / plain - 1:.1%}"
        rows.append((name, slots, size, f"{grant / 1024:.0f} KiB", *ratios))
    shutil.rmtree(folder)
    return ("colluders traced", "slots", "file grows by", "a grant", "lean, ms (ratio)", "fast, ms (ratio)"), rows


def large_loads(folder: Path, weights: int, rounds: int) -> Table:
    source = synthetic.write(folder / "source", weights)
    place = prepare(source, folder / "prepared")
    shutil.rmtree(folder / "source")
    inline = (place / "inline.onnx").exists()
    names = [w for w in WAYS if inline or w in ("sealed, lean", "sealed, fast", "plain path, external data")]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            results[name].append(loading.measure(name, place))
    size = weights * synthetic.SIDE**2 * 4
    base = statistics.median(r["seconds"] for r in results["plain path, external data"])
    rows: list[Sequence[object]] = []
    for name in names:
        took = statistics.median(r["seconds"] for r in results[name])
        peak = statistics.median(r["peak"] for r in results[name])
        rows.append((name, f"{took:.2f}", f"{took / base:.2f}", f"{peak / size:.2f}"))
    shutil.rmtree(folder)
    return ("way", "seconds", "of plain external", "peak memory / weights"), rows


def latencies(folder: Path, rounds: int) -> Table:
    """One inference, sealed beside plain, alternating call by call in one process.

    Threads of one session that spin for more work would take the cores from the next, so none spins.
    """
    still = onnxruntime.SessionOptions()
    still.add_session_config_entry("session.intra_op.allow_spinning", "0")
    rows: list[Sequence[object]] = []
    for name in SMALL:
        place = folder / name
        plain = onnxruntime.InferenceSession(MODELS / f"{name}.onnx", still, providers=["CPUExecutionProvider"])
        sessions = {way: loading.sealed(way, still)(place)() for way in ("lean", "fast")}
        auto = _auto(place)
        feed = feed_for(plain, name)
        ways = {
            "plain": lambda s=plain, f=feed: seconds(lambda: s.run(None, f)) * 1e3,
            **{w: (lambda s=s, f=feed: seconds(lambda: s.run(None, f)) * 1e3) for w, s in sessions.items()},
        }
        alternate(ways, 5)
        took = alternate(ways, rounds)
        ratio = took[auto] / took["plain"]
        rows.append((name, f"{took['plain']:.2f}", f"{took['lean']:.2f}", f"{took['fast']:.2f}", auto, f"{ratio:.3f}"))
        for session in sessions.values():
            session.close()
    return ("model", "plain (ms)", "lean (ms)", "fast (ms)", "auto is", "auto / plain"), rows


def _auto(place: Path) -> str:
    with WAYS["sealed, lean"](place)() as session:
        from modelvault.session import choose_memory

        return choose_memory("auto", session._model)


def throughput(folder: Path, weights: int, rounds: int) -> Table:
    """Seconds to protect and to check ``weights`` x 64 MiB of external data, beside programs that do a part of it."""
    source = synthetic.write(folder / "model", weights)
    place = prepare(source, folder / "prepared")
    data, gib = source.parent / "weights.bin", weights * synthetic.SIDE**2 * 4 / 2**30
    keys = {"recipients": [RecipientKey.generate().public], "signers": [PublisherKey.generate()]}
    own = RecipientKey.generate().public
    trust = TrustPolicy.read(place / "trust.toml")
    copy = ("cp", "--reflink=never", data, folder / "copy")
    ways: dict[str, Callable[[], float]] = {
        "modelvault seal": lambda: seconds(lambda: seal(source, folder / "x.mvlt", own=own, **keys)),  # type: ignore[arg-type]
        "cp and sync": lambda: seconds(lambda: _run(copy, ("sync", folder / "copy"))),
        "modelvault verify": lambda: seconds(lambda: verify(place / "model.mvlt", trust)),
        "sha256sum": lambda: seconds(lambda: _run(("sha256sum", data))),
    }
    if shutil.which("openssl"):
        encrypt = ("openssl", "enc", "-aes-256-ctr", "-pass", "pass:x", "-pbkdf2", "-in", data, "-out", folder / "enc")
        ways["openssl enc (no integrity)"] = lambda: seconds(lambda: _run(encrypt, ("sync", folder / "enc")))
    ways |= _peers(folder, data)
    took = alternate(ways, rounds)
    base = {"seal": took["cp and sync"], "check": took["sha256sum"]}
    rows: list[Sequence[object]] = []
    for name, value in took.items():
        kind = "check" if any(word in name for word in ("verify", "sha256", "check")) else "seal"
        rows.append((name, f"{value:.2f}", f"{gib / value:.2f}", f"{value / base[kind]:.2f} x {_named(kind)}"))
    shutil.rmtree(folder)
    return ("what", "seconds", "GiB/s", "against"), rows


def _named(kind: str) -> str:
    return "sha256sum" if kind == "check" else "cp and sync"


def _peers(folder: Path, data: Path) -> dict[str, Callable[[], float]]:
    peers: dict[str, Callable[[], float]] = {}
    if importlib.util.find_spec("pyrage"):
        code = (
            "import pyrage,sys; i=pyrage.x25519.Identity.generate();"
            "pyrage.encrypt_file(sys.argv[1],sys.argv[2],[i.to_public()])"
        )
        peers["age (pyrage) encrypt"] = lambda: seconds(
            lambda: _run((sys.executable, "-c", code, data, folder / "age"), ("sync", folder / "age"))
        )
    if importlib.util.find_spec("model_signing"):
        key = folder / "signing.pem"
        public = folder / "signing.pub"
        _run(("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key))
        _run(("openssl", "ec", "-in", key, "-pubout", "-out", public))
        signing = (sys.executable, "-m", "model_signing")
        signature = folder / "model.sig"
        _run((*signing, "sign", "key", data.parent, "--private_key", key, "--signature", signature))
        check = (*signing, "verify", "key", data.parent, "--public_key", public, "--signature", signature)
        peers["OpenSSF model_signing verify"] = lambda: seconds(lambda: _run(check))
    return peers


def _run(*commands: Sequence[object]) -> None:
    for command in commands:
        words = [str(c) for c in command]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def guard_cost(rounds: int) -> Table:
    """The input guard's part of a call: dtype, shape, finite and range over every value."""

    class Entry:
        name, type, shape = "x", "tensor(float)", ("n", 3, "h", "w")

    rows: list[Sequence[object]] = []
    for shape in ((1, 3, 48, 192), (1, 3, 736, 736), (16, 3, 736, 736)):
        array = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        envelope: InputEnvelope = calibrate([{"x": array}])
        guards = {"declared": InputGuard([Entry], None), "calibrated": InputGuard([Entry], envelope)}
        took = alternate(
            {n: (lambda g=g, a=array: seconds(lambda: g.check({"x": a})) * 1e6) for n, g in guards.items()},
            rounds,
        )
        rows.append(("x".join(map(str, shape)), f"{took['declared']:.1f}", f"{took['calibrated']:.1f}"))
    return ("input", "signature only (us)", "calibrated (us)"), rows


def audit_rates(folder: Path, quick: bool) -> Table:
    """Appends a second, and seconds to verify a long log."""
    folder.mkdir()
    rates = auditlog.appending(folder, 300 if quick else 2000)
    rows: list[Sequence[object]] = [
        ("append, synced, one thread", f"{rates['append_per_s']:.0f} a second"),
        ("append, synced, 16 threads", f"{rates['append_16_threads_per_s']:.0f} a second"),
        ("append, no sync", f"{rates['append_without_sync_per_s']:.0f} a second"),
    ]
    for batch in (1, 100):
        done = auditlog.verifying(folder, 50_000 if quick else 1_000_000, batch)
        what = f"verify {done['records']:,} records, {done['heads']:,} heads ({done['mb']:.0f} MB)"
        rows.append((what, f"{done['seconds']:.1f} s"))
    shutil.rmtree(folder)
    return ("what", "rate"), rows


def bulk_grants(folder: Path, quick: bool) -> Table:
    folder.mkdir()
    done = grants.measure(folder, 100 if quick else 1000, 16)
    shutil.rmtree(folder)
    rows: list[Sequence[object]] = [
        (
            f"{done['grants']:,}",
            f"{done['file_bytes'] / 2**30:.2f} GiB",
            f"{done['bytes_read']:,} bytes",
            f"{done['seconds']:.2f}",
            f"{done['seconds_to_hash_the_payload']:.2f}",
        )
    ]
    return ("grants", "for a file of", "of which was read", "seconds", "seconds to hash the file once"), rows


def machine() -> str:
    cpu = next((x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), "? : unknown")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"
    cores = f"{len(os.sched_getaffinity(0))} cores ({cpu.split(':')[1].strip()})"
    return f"{cores}, {memory:.0f} GiB, {platform.system()}, {versions}"


def markdown(table: Table) -> Iterator[str]:
    header, rows = table
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


INTRODUCTION = """# Performance

Written by `python tests/benchmarks/run.py`; nothing here is typed by hand. What is compared ran in turn on one machine,
in one run of its section; figures are medians. A load is the time from the call to a usable session in a fresh process
whose imports are done; just before it, another process has read the files and touched as much memory, since what a
virtual machine's host took back is slow to touch first. Peak memory is what the process held at most, anonymous and
mapped, over what it held before. `lean` keeps the weights once, without prepacking; `fast` prepacks; both read the
decrypted buffer in place.
"""


def sections(folder: Path, quick: bool) -> dict[str, Callable[[], Table]]:
    """Every table by its title. Inference needs the small models' files, so it makes them where they are missing."""
    few, small = (3 if quick else 15), folder / "small"

    def one_inference() -> Table:
        for name in SMALL:
            if not (small / name).exists():
                prepare(MODELS / f"{name}.onnx", small / name)
        return latencies(small, 30 if quick else 200)

    tables = {
        "Loading small models": lambda: small_loads(small, few),
        "Loading with fingerprints": lambda: fingerprinted_loads(folder / "fingerprints", 2 * few + 1),
        "Loading 1 GiB of MatMul weights": lambda: large_loads(folder / "one", 16, 3 if quick else 5),
        "Loading 4 GiB of MatMul weights": lambda: large_loads(folder / "four", 64, 3),
        "One inference": one_inference,
        "Sealing and checking 1 GiB": lambda: throughput(folder / "rate", 16, 1 if quick else 3),
        "The input guard's part of a call": lambda: guard_cost(50 if quick else 500),
        "The audit log": lambda: audit_rates(folder / "audit", quick),
        "Grants in bulk": lambda: bulk_grants(folder / "grants", quick),
    }
    if quick:
        del tables["Loading 4 GiB of MatMul weights"]
    return tables


def replaced(page: str, title: str, text: str) -> str:
    """The page with one section put in its place, or added at its end."""
    heading = f"## {title}\n"
    if heading not in page:
        return f"{page.rstrip()}\n\n{text}"
    before, _, after = page.partition(heading)
    following = after.find("\n## ")
    return before + text + (after[following:] if following >= 0 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, no 4 GiB model, and no file written")
    parser.add_argument("--only", action="append", metavar="WORDS", help="sections whose title holds WORDS; repeatable")
    options = parser.parse_args()
    target = ROOT / "docs" / "PERFORMANCE.md"
    page = f"{INTRODUCTION}\nMachine: {machine()}.\n"
    if options.only and target.exists():
        page = target.read_text()
    with tempfile.TemporaryDirectory(prefix="modelvault-bench-") as name:
        for title, measure in sections(Path(name), options.quick).items():
            if options.only and not any(words in title for words in options.only):
                continue
            text = "\n".join([f"## {title}", "", *markdown(measure()), ""])
            print(text, flush=True)
            page = replaced(page, title, text)
    if not options.quick:
        target.write_text(page)


if __name__ == "__main__":
    main()
