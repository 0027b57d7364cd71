"""Logs of a small fleet over a month, with a made clock: python fleet.py FOLDER"""

import random
import sys
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from unittest import mock

from modelvault.audit import AuditLog, LogKey
from modelvault.keys import HostKey, store

BEGIN = datetime(2026, 3, 1, tzinfo=UTC)
CALLERS = ["SHA256:" + letter * 43 for letter in "abcde"]
MODELS = [("fraud", "2.3"), ("fraud", "2.4"), ("spam", "1.0"), ("scan", "7.1")]


class Clock(datetime):
    """Stands where the writer looks for the time."""

    moment = BEGIN

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> "Clock":
        return cls.fromtimestamp(cls.moment.timestamp(), UTC)


def load(log: AuditLog, chance: random.Random, caller: str) -> None:
    name, version = MODELS[min(chance.randrange(5), 3)]
    record = {"load": f"{chance.randrange(2**64):016x}", "model": {"name": name, "version": version}}
    log.append("load.intent", **record, recipient=caller)
    if chance.random() < 0.06:
        reason = chance.choice(["PolicyDenied", "PolicyDenied", "NoMatchingKey", "PayloadTampered"])
        log.append("load.denied", **record, reason=reason)
        return
    log.append("load.done", **record, recipient=caller, memory="lean")
    runs = chance.randrange(500)
    log.append("session.closed", **record, runs=runs, rejected=runs // 90, seconds=runs / 10)


def make(folder: Path, hosts: int = 3, days: int = 30, loads: int = 6) -> None:
    """``folder``/hostN.log with its key hostN.pub; the last host's log is damaged."""
    with mock.patch("modelvault.audit.writing.datetime", Clock), mock.patch("os.fdatasync"):
        for number in range(hosts):
            chance, key = random.Random(number), HostKey.generate()
            path = store.write_pair(folder, f"host{number}", key.to_pem(None), key.public.to_pem())
            log = AuditLog(folder / f"host{number}.log", LogKey.read(str(path)))
            for day in range(days):
                busy = loads if (BEGIN + timedelta(days=day)).weekday() < 5 else 1
                count = chance.randrange(busy) + busy // 2 + 1
                for minute in sorted(chance.randrange(6 * 60, 20 * 60) for _ in range(count)):
                    Clock.moment = BEGIN + timedelta(days=day, minutes=minute)
                    load(log, chance, chance.choice(CALLERS[:4]))
                if (number, day) == (1, 17):
                    Clock.moment = BEGIN + timedelta(days=day, hours=27, minutes=5)
                    load(log, chance, CALLERS[4])
                if day % 10 == 9:
                    log.rotate("age")
    damaged = folder / f"host{hosts - 1}.log.000001"
    damaged.write_bytes(damaged.read_bytes().replace(b'"fraud"', b'"frauD"', 1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
