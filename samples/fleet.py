"""Verify the audit logs of a whole fleet on a Dask cluster: python fleet.py FOLDER (hostN.log and hostN.pub in it)

Needs: pip install 'dask[distributed]'. Any other engine maps the same function.
"""

import sys
from pathlib import Path

from distributed import Client

from modelvault.audit.findings import examine


def main(folder: str = ".") -> int:
    logs = sorted(Path(folder).glob("*.log"))
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        found = cluster.gather(cluster.map(examine, logs, [str(log.with_suffix(".pub")) for log in logs]))
    for one in found:
        print(f"{Path(one.log).name}: {one.verdict}, {one.records} records, {one.denied.total()} denied {one.reason}")
    return 0 if all(one.verdict == "ok" for one in found) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
