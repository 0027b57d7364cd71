"""What operators and auditors look at: findings, the page, metrics, the copy elsewhere."""

import importlib.util
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Parties

from audit import fleet
from audit.conftest import fill
from audit.test_proofs import command
from modelvault.audit import AuditLog, read_records, verify_log
from modelvault.audit.findings import examine
from modelvault.audit.pruning import prune
from modelvault.audit.report import make_report
from modelvault.audit.shipping import ship
from modelvault.audit.telemetry import make_observer
from modelvault.audit.tip import state_path
from modelvault.cli.main import cli, status_of
from modelvault.errors import AuditTampered, FileError, ModelVaultError, NoMatchingKey
from modelvault.keys import HostPublic, store


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    fleet.make(folder, days=21)
    return folder


def test_findings_add_up(hosts: Path) -> None:
    found = examine(hosts / "host1.log", str(hosts / "host1.pub"))
    records = read_records(hosts / "host1.log", store.load_host_public(str(hosts / "host1.pub")))
    events = [r.event for r in records]
    assert (found.verdict, found.records, found.epochs) == ("ok", len(records), 3)
    assert found.loads.total() == events.count("load.done") == sum(m.loads for m in found.models.values())
    assert found.denied.total() == events.count("load.denied") == found.reasons.total()
    assert sum(m.runs for m in found.models.values()) == sum(r.fields.get("runs", 0) for r in records)
    assert found.callers[fleet.CALLERS[4]] == 1
    assert (found.first, found.last, found.steps_back) == (records[0].time, records[-1].time, 0)


def test_a_damaged_log_counts_for_nothing(hosts: Path) -> None:
    found = examine(hosts / "host2.log", str(hosts / "host2.pub"))
    assert (found.verdict, found.records, found.loads.total()) == ("modified", 0, 0)
    assert "host2.log.000001: line" in found.reason
    assert examine(hosts / "none.log", str(hosts / "host2.pub")).verdict == "unreadable"
    assert examine(hosts / "host0.log", str(hosts / "none.pub")).verdict == "unreadable"


def test_the_page(hosts: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    logs = [str(hosts / f"host{n}.log") for n in range(3)]
    result = CliRunner().invoke(cli, ["audit", "report", *logs, "--keys", str(hosts), "-o", str(page)])
    assert isinstance(result.exception, AuditTampered)
    assert status_of(result.exception) == 20
    text = page.read_text()
    assert text.count("<svg") == text.count("</svg>") == 3
    assert "<script" not in text
    outside = re.findall(r"(?:src|href)=[\"'](?!#)([^\"']*)", re.sub(r"xlink:href=\"#[^\"]*\"", "", text))
    assert outside == []
    for words in ("host2.log", "modified", "PolicyDenied", "2026-03-19 03h", fleet.CALLERS[4], "rejected inputs"):
        assert words in text, words


def test_what_a_log_says_cannot_script_the_page(writer: AuditLog, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    model = {"name": evil, "version": '"><img src=x>'}
    for event in ("load.done", "load.denied"):
        writer.append(event, model=model, recipient=evil, reason=evil)
    assert writer._file.key.path is not None
    text = make_report([examine(writer.path, str(writer._file.key.path.with_suffix(".pub")))])
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize("odd", ["$\\frac{", "\u7121\U0001f600\u202e", "x" * 5000, "\0\x1b", ""])
def test_odd_names_and_times_do_not_stop_the_page(writer: AuditLog, odd: str) -> None:
    for event in ("load.done", "load.denied"):
        writer.append(event, model={"name": odd, "version": odd}, recipient=odd, reason=odd)
    assert writer._file.key.path is not None
    found = examine(writer.path, str(writer._file.key.path.with_suffix(".pub")))
    found.loads.update({"0001-01-01T00": 1, "9999-12-31T23": 200, "2026-01-01T05": 1})
    text = make_report([found])
    assert text.count("<svg") == 3


def test_an_empty_fleet_has_a_page(writer: AuditLog) -> None:
    fill(writer, 1)
    assert writer._file.key.path is not None
    assert "No loads" in make_report([examine(writer.path, str(writer._file.key.path.with_suffix(".pub")))])
    assert "0 logs" in make_report([])


def test_json_of_a_report(hosts: Path) -> None:
    told = json.loads(command("audit", "report", hosts / "host0.log", "--keys", hosts, "--json"))
    assert told[0]["verdict"] == "ok"
    assert told[0]["loads"] > 50


@pytest.mark.slow
def test_a_fleet_on_dask(hosts: Path) -> None:
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("Dask is not installed")
    sample = Path(__file__).parents[2] / "samples" / "fleet.py"
    done = subprocess.run([sys.executable, sample, hosts], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(",")[0] for line in lines] == ["host0.log: ok", "host1.log: ok", "host2.log: modified"]


def test_metrics(
    parties: Parties, sealed: Path, sample_input: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    metrics.set_meter_provider(MeterProvider([reader]))
    log = parties.log
    log.observe = make_observer()
    with caplog.at_level(logging.INFO, "modelvault.audit"):
        with parties.load(sealed, audit=log) as session:
            session.run(None, sample_input)
        with pytest.raises(NoMatchingKey):
            parties.load(sealed, audit=log, identity=parties.stranger)
    data = json.loads(reader.get_metrics_data().to_json())  # type: ignore[union-attr]
    found = {m["name"]: m["data"]["data_points"] for m in data["resource_metrics"][0]["scope_metrics"][0]["metrics"]}
    assert [p["value"] for p in found["modelvault.loads"]] == [1]
    assert [p["value"] for p in found["modelvault.runs"]] == [1]
    assert found["modelvault.denials"][0]["attributes"]["error.type"] == "NoMatchingKey"
    assert found["modelvault.loads"][0]["attributes"]["modelvault.model.name"] == "direction"
    assert found["modelvault.session.duration"][0]["count"] == 1
    assert [r.levelname for r in caplog.records if "load.denied" in r.message] == ["WARNING"]


def test_an_observer_that_fails_stops_nothing(
    writer: AuditLog, pinned: HostPublic, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(record: object) -> None:
        raise RuntimeError("no collector")

    writer.observe = fails
    fill(writer, 2)
    assert verify_log(writer.path, pinned).size == 3
    assert "observer failed" in caplog.text


def test_shipping_goes_on_where_it_stopped(writer: AuditLog, pinned: HostPublic, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    fill(writer, 3)
    assert ship(writer.path, pinned, str(target)) == ["audit.log", "audit.log.checkpoint-000000000004"]
    assert ship(writer.path, pinned, f"file://{target}") == []
    writer.rotate()
    fill(writer, 2)
    (target / "audit.log.000000.part").write_bytes(b"half")
    assert ship(writer.path, pinned, str(target)) == [
        "audit.log.000000",
        "audit.log",
        "audit.log.checkpoint-000000000007",
    ]
    assert verify_log(target / "audit.log", pinned).size == 7
    from datetime import UTC, datetime

    prune(writer, pinned, datetime.now(UTC))
    assert "audit.log.000000" not in ship(writer.path, pinned, str(target))
    assert len(read_records(target / "audit.log", pinned)) == 8  # the copy keeps what was pruned here
    assert not list(target.glob("*.part"))


def test_a_cut_log_is_not_shipped(writer: AuditLog, pinned: HostPublic, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    fill(writer, 5)
    ship(writer.path, pinned, str(target))
    kept = (target / "audit.log").read_bytes()
    lines = writer.path.read_bytes().splitlines(keepends=True)
    writer.path.write_bytes(b"".join(lines[:-4]))
    for grown, verdict in ((0, "truncated"), (9, "rollback")):
        state_path(writer.path).unlink(missing_ok=True)
        fill(writer, grown)
        with pytest.raises(AuditTampered) as caught:
            ship(writer.path, pinned, str(target))
        assert caught.value.verdict == verdict
    assert (target / "audit.log").read_bytes() == kept


def test_shipping_to_memory_and_to_nowhere(writer: AuditLog, pinned: HostPublic, tmp_path: Path) -> None:
    fill(writer, 1)
    assert len(ship(writer.path, pinned, "memory://shipped/host")) == 2
    assert ship(writer.path, pinned, "memory://shipped/host") == []
    (tmp_path / "file").write_bytes(b"")
    for bad in (str(tmp_path / "file" / "below"), "nosuchscheme://x"):
        with pytest.raises(FileError):
            ship(writer.path, pinned, bad)


@pytest.mark.parametrize("missing", ["matplotlib", "fsspec", "opentelemetry"])
def test_what_is_not_installed_is_named(
    writer: AuditLog, pinned: HostPublic, monkeypatch: pytest.MonkeyPatch, hosts: Path, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    fill(writer, 1)
    calls: dict[str, Any] = {
        "matplotlib": lambda: make_report([examine(hosts / "host0.log", str(hosts / "host0.pub"))]),
        "fsspec": lambda: ship(writer.path, pinned, "/nowhere"),
        "opentelemetry": make_observer,
    }
    with pytest.raises(ModelVaultError, match="pip install 'modelvault"):
        calls[missing]()
