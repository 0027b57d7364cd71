"""Many threads, many loads, many processes: right results, memory that does not grow, a complete log."""

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Parties
from feeds import same

THREADS, RUNS, CYCLES, PROCESSES = 16, 1000, 50, 8


@pytest.mark.slow
def test_sixteen_threads_of_a_thousand_runs(parties: Parties, sealed: Path) -> None:
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((1, 3, 16, 32)).astype(np.float32)} for _ in range(THREADS)]
    with parties.load(sealed) as session:
        expected = [session.run(None, feed) for feed in feeds]
        good = [0] * THREADS

        def work(number: int) -> None:
            for _ in range(RUNS):
                good[number] += same(expected[number], session.run(None, feeds[number]))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert good == [RUNS] * THREADS
    assert parties.records()[-1].fields["runs"] == THREADS * (RUNS + 1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("memory", ["lean", "fast"])
def test_loading_and_closing_does_not_grow(
    parties: Parties, sealed: Path, memory: str, sample_input: dict[str, Any]
) -> None:
    sizes = []
    for cycle in range(CYCLES):
        with parties.load(sealed, memory=memory) as session:
            session.run(None, sample_input)
        del session
        if cycle % 10 == 9:
            gc.collect()
            sizes.append(resident())
    assert sizes[-1] - sizes[0] < 16 * 2**20  # the model itself is half a MiB: forty copies of it would show
    assert parties.events() == ["opened", *["load.intent", "load.done", "session.closed"] * CYCLES]


LOADER = """
import sys
from pathlib import Path
from modelvault.audit import AuditLog
from modelvault.keys import HostKey, RecipientKey
from modelvault.loader import load
import numpy as np
folder = Path(sys.argv[1])
customer = RecipientKey.from_pem((folder / "customer.key").read_bytes(), None, "customer")
log = AuditLog(folder / "audit.log", HostKey.from_pem((folder / "host.key").read_bytes(), None, "host"))
feed = {"x": np.ones((1, 3, 48, 192), np.float32)}
for _ in range(5):
    with load(folder / "model.mvlt", identity=customer, trust=folder / "trust.toml", audit=log) as session:
        print(session.run(None, feed)[0].round(4).tolist())
"""


@pytest.mark.slow
def test_eight_processes_load_at_once(parties: Parties, sealed: Path) -> None:
    (parties.folder / "customer.key").write_bytes(parties.customer.to_pem(None))
    (parties.folder / "host.key").write_bytes(parties.host.to_pem(None))
    command = [sys.executable, "-c", LOADER, str(parties.folder)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [p.returncode for p in running] == [0] * PROCESSES
    assert len({line for output in outputs for line in output.splitlines()}) == 1
    records = parties.records()
    loads: dict[str, list[str]] = {}
    for record in records[1:]:
        loads.setdefault(record.fields["load"], []).append(record.event)
    assert len(loads) == PROCESSES * 5
    assert all(events == ["load.intent", "load.done", "session.closed"] for events in loads.values())
