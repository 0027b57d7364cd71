"""Keeping a log for years: pruning, redaction, publication."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import Parties

from audit.conftest import Verdict, fill
from audit.test_proofs import command
from modelvault import merkle
from modelvault.audit import AuditLog, LogKey, read_leaves, read_records, verify_log
from modelvault.audit.openings import openings_path
from modelvault.audit.proofs import check_proof, follow, prove, succession
from modelvault.audit.pruning import prune
from modelvault.audit.segments import segment_path
from modelvault.audit.tiles import export_tiles, tile_path
from modelvault.audit.tip import state_path
from modelvault.errors import AuditUnavailable, FileError, FormatError
from modelvault.keys import HostPublic


@pytest.fixture
def years(writer: AuditLog) -> Path:
    """Four epochs, three of them closed: records 0-5, 6-10, 11-15, and five more."""
    for _ in range(3):
        fill(writer, 4)
        writer.rotate()
    fill(writer, 5)
    return writer.path


def now() -> datetime:
    return datetime.now(UTC)


def test_pruned_records_leave_their_hashes(years: Path, writer: AuditLog, pinned: HostPublic) -> None:
    before, leaves = read_leaves(years, pinned)
    saved = prove(years, pinned, 3).to_text()
    minimum, paths = prune(writer, pinned, now())
    assert (minimum, [p.name[-6:] for p in paths]) == (16, ["000000", "000001", "000002"])
    report, kept = read_leaves(years, pinned)
    assert kept[: before.size] == leaves
    assert (report.pruned, report.epoch, report.size) == (15, 3, 22)
    assert verify_log(years, pinned, against=before.head).size == 22
    assert [r.seq for r in read_records(years, pinned)] == [0, 5, 10, *range(15, 22)]
    keys = follow(pinned, succession(years, pinned), "succession")
    assert check_proof(saved, keys, "proof").seq == 3
    assert check_proof(prove(years, pinned, 17).to_text(), keys, "proof").seq == 17
    with pytest.raises(FormatError, match="was pruned"):
        prove(years, pinned, 3)
    state_path(years).unlink()
    fill(writer, 2)
    writer.rotate()
    fill(writer, 1)
    assert verify_log(years, pinned).size == 26
    assert prune(writer, pinned, now())[1] == [segment_path(years, 3)]
    assert verify_log(years, pinned).size == 27
    assert prune(writer, pinned, now() - timedelta(days=1)) == (24, [])


def test_pruning_without_permission_is_damage(
    years: Path, writer: AuditLog, pinned: HostPublic, verdict: Verdict
) -> None:
    first, second = segment_path(years, 0), segment_path(years, 1)
    whole = second.read_bytes()
    prune(writer, pinned, now())
    pruned = second.read_bytes()
    second.write_bytes(whole)
    assert verdict(years) == "ok"  # killed between one segment and the next
    lines = years.read_bytes().splitlines(keepends=True)
    years.write_bytes(b"".join(lines[:-2]))
    state_path(years).unlink()
    assert verdict(years) == "modified"  # the permission is gone
    years.write_bytes(b"".join(lines))
    for path in (first, second):
        data = pruned if path == second else path.read_bytes()
        parts = data.splitlines(keepends=True)
        for at in range(len(parts)):
            path.write_bytes(b"".join(parts[:at] + parts[at + 1 :]))
            assert verdict(years) != "ok", (path, at)
            path.write_bytes(b"".join(parts[: at + 1] + parts[at:]))
            assert verdict(years) != "ok", (path, at)
        for at in range(0, len(data), 7):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert verdict(years) != "ok", (path, at)
        path.write_bytes(data)
    assert verdict(years) == "ok"


def test_a_record_beyond_the_minimum_is_not_pruned(
    years: Path, writer: AuditLog, pinned: HostPublic, verdict: Verdict
) -> None:
    prune(writer, pinned, now())
    lines = years.read_bytes().splitlines(keepends=True)
    leaf = merkle.leaf_hash(lines[4][:-1])
    from modelvault.audit.lines import Pruned

    lines[4] = Pruned(leaf=leaf).to_line() + b"\n"
    years.write_bytes(b"".join(lines))
    assert verdict(years) == "modified"


def test_what_is_concealed_can_be_redacted(writer: AuditLog, host: LogKey, pinned: HostPublic) -> None:
    assert host.path is not None
    writer.concealed = ("recipient", "file")
    for number in range(3):
        writer.append("load.intent", recipient=f"customer-{number}", file="secret name", number=number)
    side = openings_path(writer.path)
    assert b"customer" not in writer.path.read_bytes()
    assert side.stat().st_mode & 0o777 == 0o600
    key = str(host.path.with_suffix(".pub"))

    def shown() -> list[object]:
        records = json.loads(command("audit", "show", writer.path, "--key", key, "--json"))
        return [(r["recipient"], r["file"]) for r in records if "recipient" in r]

    assert shown() == [(f"customer-{n}", "secret name") for n in range(3)]
    with open(side, "rb") as held:
        told = json.loads(
            command("audit", "redact", 2, "--field", "recipient", "--log", writer.path, "--key", host.path, "--json")
        )
        assert held.read().strip(b"\0") == b""
    assert (told["values_deleted"], told["fields"]) == (1, ["recipient"])
    assert b"customer-1" not in side.read_bytes()
    assert shown() == [("customer-0", "secret name"), ("(redacted)", "secret name"), ("customer-2", "secret name")]
    record = read_records(writer.path, pinned)[-1]
    assert (record.event, record.fields["records"]) == ("redacted", [2])
    side.write_bytes(side.read_bytes().replace(b"customer-2", b"customer-9") + b"{torn")
    assert shown()[2] == ("(redacted)", "secret name")  # an opening that was changed opens nothing
    side.unlink()
    assert len(shown()) == 3


def test_the_trust_policy_names_what_to_conceal(parties: Parties, sealed: Path) -> None:
    policy = parties.folder / "trust.toml"
    policy.write_text(policy.read_text() + '[audit]\nconceal = ["recipient", "grant"]\n')
    parties.load(sealed).close()
    fields = parties.records()[1].fields
    assert set(fields["recipient"]) == set(fields["grant"]) == {"concealed"}
    assert fields["model"]["name"] == "direction"


def test_no_load_where_the_openings_cannot_be_kept(writer: AuditLog, pinned: HostPublic) -> None:
    fill(writer, 1)
    writer.concealed = ("recipient",)
    openings_path(writer.path).mkdir()
    with pytest.raises(AuditUnavailable):
        writer.append("load.intent", recipient="customer")
    assert verify_log(writer.path, pinned).size == 2


def test_published_tiles(writer: AuditLog, pinned: HostPublic, tmp_path: Path) -> None:
    folder = tmp_path / "tiles"
    for count in (300, 700):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fdatasync", lambda descriptor: None)
            fill(writer, count)
        export_tiles(writer.path, pinned, folder)
    report, leaves = read_leaves(writer.path, pinned)
    assert (folder / "checkpoint").read_text() == report.head
    found = b"".join((folder / "tile/0" / tile_path(n, 256)).read_bytes() for n in range(3))
    found += (folder / "tile/0" / tile_path(3, 1001 - 768)).read_bytes()
    assert found == b"".join(leaves)
    above = (folder / "tile/1" / tile_path(0, 3)).read_bytes()
    assert above == b"".join(merkle.root(leaves[at : at + 256]) for at in (0, 256, 512))
    assert not (folder / "tile/2").exists()
    bundle, entries = (folder / "tile/entries" / tile_path(1, 256)).read_bytes(), []
    while bundle:
        size = int.from_bytes(bundle[:2], "big")
        entries.append(bundle[2 : 2 + size])
        bundle = bundle[2 + size :]
    assert [merkle.leaf_hash(e) for e in entries] == leaves[256:512]
    other = AuditLog(writer.path.with_name("other.log"), writer._file.key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda descriptor: None)
        fill(other, 256)
    with pytest.raises(FileError, match="another log"):
        export_tiles(other.path, pinned, folder)


def test_tile_paths() -> None:
    assert tile_path(1234067, 256) == "x001/x234/067"
    assert (tile_path(0, 7), tile_path(999, 256), tile_path(1000, 255)) == ("000.p/7", "999", "x001/000.p/255")


def test_tiles_of_a_pruned_log(years: Path, writer: AuditLog, pinned: HostPublic, host: LogKey, tmp_path: Path) -> None:
    assert host.path is not None
    assert "first_record_kept" in command("audit", "prune", years, "--before", "0m", "--key", host.path)
    command("audit", "export", years, "--key", host.path.with_suffix(".pub"), "--tiles", tmp_path / "tiles")
    assert (tmp_path / "tiles/tile/0/000.p/23").exists()  # with the records "usage.kept" and "pruned"
    assert not (tmp_path / "tiles/tile/entries").exists()
