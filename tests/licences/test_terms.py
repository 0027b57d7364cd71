"""Each term on each side of its limit, with the audit line; counted ones across restarts and processes."""

import shutil
import signal
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from licences.field import Field, clock
from modelvault import _version, admission, granting, ledger, machine, metering, permit
from modelvault.audit import verify_log
from modelvault.audit.cosigned import cosigned_path
from modelvault.checkpoint import Note
from modelvault.cosignature import COSIGNATURE, VerifierKey, cosign
from modelvault.errors import FormatError, ModelVaultError, PolicyDenied, QueryRefused
from modelvault.guards import QueryLimits
from modelvault.keys import HostKey
from modelvault.policy import Terms
from modelvault.sealedfile import UnverifiedGrant
from modelvault.termtable import PERIODS, TERMS, Cosigned, Queries, Quota
from modelvault.usage import subject

NOON = datetime(2031, 5, 4, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CPU = "CPUExecutionProvider"


def load(field: Field, sealed: Path, **choices: Any) -> str:
    """ok, or the words of the denial, which must stand in the log, with nothing decrypted after it."""
    before = len(field.parties.records()) if (field.parties.folder / "audit.log").exists() else 0
    try:
        with field.parties.load(sealed, **choices):
            return "ok"
    except ModelVaultError as error:
        last = field.parties.records()[-1]
        assert last.event == "load.denied"
        assert last.fields["reason"] == type(error).__name__
        assert last.fields["detail"] == str(error)
        assert "load.intent" not in [r.event for r in field.parties.records()[before:]]
        return str(error)


@pytest.mark.parametrize("where", ["licence", "policy"])
@pytest.mark.parametrize(
    ("terms", "moment", "words"),
    [
        ({"not_before": NOON}, NOON - SECOND, "not valid before 2031-05-04T12:00:00Z"),
        ({"not_before": NOON}, NOON, "ok"),
        ({"not_before": NOON}, NOON + SECOND, "ok"),
        ({"not_after": NOON}, NOON - SECOND, "ok"),
        ({"not_after": NOON}, NOON, "ok"),
        ({"not_after": NOON}, NOON + SECOND, "expired at 2031-05-04T12:00:00Z"),
    ],
)
def test_the_window(
    field: Field, monkeypatch: pytest.MonkeyPatch, where: str, terms: dict[str, Any], moment: datetime, words: str
) -> None:
    sealed = field.parties.seal(name="m", policy=Terms(**terms) if where == "policy" else Terms())
    grant = field.grant(sealed, **(terms if where == "licence" else {}))
    clock(monkeypatch, moment, permit)
    assert words in load(field, sealed, grant=grant)


def test_the_window_of_a_real_clock(field: Field, sealed: Path) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=8)
    grant = field.grant(sealed, not_after=ends)
    assert field.load(sealed, grant=grant)[0] == "ok"
    while datetime.now(UTC) <= ends:
        threading.Event().wait(0.2)
    kind, words = field.load(sealed, grant=grant)
    assert (kind, "expired at" in words) == ("PolicyDenied", True)
    assert field.last("load.denied").fields["detail"] == words


def test_terms_of_place_and_kind(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "machine_id", lambda: "ab" * 32)
    parties, sealed = field.parties, field.parties.seal(name="m", version="2.1")
    parties.load(sealed).close()
    origin = parties.records()[0].fields["origin"]
    mine = parties.host.public.fingerprint
    sides: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        ({"versions": ("2.1",)}, {}, "ok"),
        ({"versions": ("1", "2.*")}, {}, "ok"),
        ({"versions": ("2", "2.2")}, {}, "model version 2.1 is not among 2, 2.2"),
        ({"versions": ()}, {}, "is not among (nothing)"),
        ({"providers": (CPU,)}, {}, "ok"),
        ({"providers": ("CUDAExecutionProvider",)}, {}, f"provider {CPU} is not among"),
        ({"hosts": (mine,)}, {}, "ok"),
        ({"hosts": ("SHA256:other",)}, {}, f"host key {mine} is not among SHA256:other"),
        ({"machines": ("ab" * 32,)}, {}, "ok"),
        ({"machines": ("cd" * 32,)}, {}, "machine abab"),
        ({"logs": (origin,)}, {}, "ok"),
        ({"logs": ("modelvault/audit/0",)}, {}, f"audit log {origin} is not among"),
        ({"memory": "fast"}, {"memory": "fast"}, "ok"),
        ({"memory": "fast"}, {"memory": "lean"}, "needs memory mode fast, got lean"),
        ({"hardening": "standard"}, {}, "ok"),
        ({"hardening": "strict"}, {}, "needs hardening strict, got standard"),
        ({"purposes": ("screening",)}, {"purpose": "screening"}, "ok"),
        ({"purposes": ("screening",)}, {"purpose": "resale"}, "purpose resale is not among screening"),
        ({"purposes": ("screening",)}, {}, "purpose (none) is not among"),
        ({"min_loader": _version.__version__}, {}, "ok"),
        ({"min_loader": "999"}, {}, "needs modelvault 999 or later"),
    ]
    for terms, choices, words in sides:
        assert words in load(field, sealed, grant=field.grant(sealed, **terms), **choices), terms


def test_a_machine_without_an_id_is_no_machine(
    field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "PLACES", (tmp_path / "none", tmp_path / "id"))
    assert machine.machine_id() is None
    assert "machine (none) is not among" in load(field, sealed, grant=field.grant(sealed, machines=("",)))
    for bad in ("uninitialized\n", "0" * 32, "A" * 32):
        (tmp_path / "id").write_text(bad)
        assert machine.machine_id() is None
    (tmp_path / "id").write_text("0123456789abcdef0123456789abcdef\n")
    value = machine.machine_id()
    assert value is not None
    assert len(value) == 64
    assert "0123456789abcdef" not in value
    assert load(field, sealed, grant=field.grant(sealed, machines=(value,))) == "ok"


def test_auto_memory_becomes_what_the_terms_ask_for(field: Field) -> None:
    sealed = field.parties.seal(name="m", policy=Terms(memory="fast"))
    with field.parties.load(sealed, grant=field.grant(sealed)) as session:
        assert session.memory == "fast"
    assert field.last("load.done").fields["memory"] == "fast"
    grant = field.grant(sealed, memory="lean")
    assert "ask for different memory modes" in load(field, sealed, grant=grant)


def test_loads_are_counted_across_processes_and_restarts(field: Field, sealed: Path) -> None:
    grant = field.grant(sealed, max_loads=Quota(count=3, per="ever"))
    assert [field.load(sealed, grant=grant)[0] for _ in range(3)] == ["ok"] * 3
    words = f"{sealed}: grant {field.last('load.done').fields['grant']}: 3 loads in all allowed, 3 are used up"
    assert field.load(sealed, grant=grant) == ("PolicyDenied", words)
    assert field.last("load.denied").fields["detail"] == words
    assert field.load(sealed, grant=field.grant(sealed, "new.grant", max_loads=Quota(count=1, per="ever")))[0] == "ok"
    assert field.load(sealed)[0] == "ok"  # the embedded grant is another one


def test_racing_loads_cannot_share_the_last_one(field: Field, sealed: Path) -> None:
    grant = field.grant(sealed, max_loads=Quota(count=2, per="day"))
    processes = [field.start(sealed, grant=grant) for _ in range(4)]
    assert sorted(field.answer(p)[0] for p in processes) == ["PolicyDenied", "PolicyDenied", "ok", "ok"]


@pytest.mark.parametrize("per", PERIODS)
def test_a_period_ends_with_the_calendar(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch, per: str) -> None:
    last = {"hour": NOON, "day": NOON.replace(hour=0), "month": datetime(2031, 5, 1, tzinfo=UTC), "ever": NOON}[per]
    grant = field.grant(sealed, max_loads=Quota(count=1, per=per))
    clock(monkeypatch, last - 2 * SECOND, permit)
    assert load(field, sealed, grant=grant) == "ok"
    clock(monkeypatch, last - SECOND, permit)
    assert "1 loads" in load(field, sealed, grant=grant)
    clock(monkeypatch, last, permit)
    assert ("ok" if per != "ever" else "1 loads in all") in load(field, sealed, grant=grant)


def test_a_policy_counts_for_every_recipient(field: Field) -> None:
    p = field.parties
    sealed = p.seal(name="m", policy=Terms(max_loads=Quota(count=2, per="ever")), recipients=[p.stranger.public])
    granting.embed(sealed, field.grant(sealed).read_bytes())
    assert load(field, sealed) == "ok"
    assert load(field, sealed, identity=p.stranger) == "ok"
    assert "policy: 2 loads in all allowed" in load(field, sealed)


def test_runs_are_counted_across_sessions(field: Field, sealed: Path) -> None:
    grant = field.grant(sealed, max_runs=Quota(count=5, per="ever"))
    assert field.load(sealed, grant=grant, runs=3)[0] == "ok"
    kind, words = field.load(sealed, grant=grant, runs=3)
    assert (kind, "5 runs in all allowed, 5 are used up" in words) == ("PolicyDenied", True)
    assert field.last("run.denied").fields["detail"] == words
    assert field.load(sealed, grant=grant)[0] == "PolicyDenied"
    assert field.last("load.denied").fields["detail"] == words


def test_unused_leases_are_given_back_and_killed_ones_are_not(
    field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = field.grant(sealed, max_runs=Quota(count=1000, per="ever"))
    grant_id = UnverifiedGrant.from_bytes(grant.read_bytes(), "g").statement.grant_id

    def used() -> int:
        seen = ledger.peek(field.parties.log)
        assert seen is not None
        return seen[0].runs(subject("grant", grant_id), "ever", "2031")

    assert field.load(sealed, grant=grant, runs=3)[0] == "ok"
    assert used() == 3
    assert field.load(sealed, grant=grant, runs=3, wait="kill")[0] == "ok"
    assert used() == 3 + 1000 // metering.LEASES
    assert [r.fields["runs"] for r in field.parties.records() if r.event == "runs.leased"] == [10, 10]


def test_a_lease_is_not_carried_into_another_period(
    field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch, sample_input: dict[str, Any]
) -> None:
    grant = field.grant(sealed, max_runs=Quota(count=200, per="hour"))
    clock(monkeypatch, NOON - SECOND, permit, metering)
    with field.parties.load(sealed, grant=grant) as session:
        session.run(None, sample_input)
        clock(monkeypatch, NOON, permit, metering)
        session.run(None, sample_input)  # the first lease has one more run, but not for this hour
    assert [r.time for r in field.parties.records() if r.event == "runs.leased"] == [
        "2031-05-04T11:59:59Z",
        "2031-05-04T12:00:00Z",
    ]


def test_sessions_at_once(field: Field, sealed: Path) -> None:
    grant = field.grant(sealed, max_sessions=2)
    first, second = (field.start(sealed, grant=grant, wait="wait") for _ in range(2))
    assert [field.answer(p)[0] for p in (first, second)] == ["ok", "ok"]
    kind, words = field.load(sealed, grant=grant)
    assert (kind, "2 session(s) allowed at once, all are open" in words) == ("PolicyDenied", True)
    assert field.last("load.denied").fields["detail"] == words
    field.end(first)
    assert field.load(sealed, grant=grant)[0] == "ok"
    second.send_signal(signal.SIGKILL)
    second.wait()
    third, fourth = (field.start(sealed, grant=grant, wait="wait") for _ in range(2))
    assert [field.answer(p)[0] for p in (third, fourth)] == ["ok", "ok"]
    assert field.last("session.lost").fields["load"] in {r.fields.get("load") for r in field.parties.records()}
    assert len(list((field.parties.folder / "audit.log.sessions").iterdir())) == 2


def test_removing_a_seat_does_not_free_it(field: Field, sealed: Path) -> None:
    grant = field.grant(sealed, max_sessions=1)
    holder = field.start(sealed, grant=grant, wait="wait")
    assert field.answer(holder)[0] == "ok"
    for seat in (field.parties.folder / "audit.log.sessions").iterdir():
        seat.unlink()
    assert "all are open" in load(field, sealed, grant=grant)
    field.end(holder)
    assert load(field, sealed, grant=grant) == "ok"


def test_a_failed_load_gives_its_seat_back(field: Field, sealed: Path) -> None:
    grant = field.grant(sealed, max_sessions=1)
    data = bytearray(sealed.read_bytes())
    data[-100] ^= 1
    sealed.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ModelVaultError, match="does not decrypt"):
            field.parties.load(sealed, grant=grant)
    assert not list((field.parties.folder / "audit.log.sessions").iterdir())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"not_afer": "2031-01-01T00:00:00Z"}, "t: unknown key 'not_afer'"),
        ({"not_after": "soon"}, "t.not_after: not an RFC 3339 time"),
        ({"max_loads": 3}, "t.max_loads: expected an object, got int"),
        ({"max_loads": {"count": 3, "per": "week"}}, "t.max_loads.per: expected one of hour, day, month, ever"),
        ({"max_loads": {"count": 3, "each": "day"}}, "t.max_loads: unknown key 'each'"),
        ({"max_runs": {"per": "day"}}, "t.max_runs.count: missing"),
        ({"max_sessions": -1}, "t.max_sessions: expected 0 to"),
        ({"max_sessions": True}, "t.max_sessions: expected an integer, got bool"),
        ({"memory": "auto"}, "t.memory: expected one of lean, fast, got 'auto'"),
        ({"hardening": "none"}, "t.hardening: expected one of standard, strict"),
        ({"min_loader": "1.x"}, "t.min_loader: expected numbers joined by dots"),
        ({"min_loader": "\u0661"}, "t.min_loader: expected numbers joined by dots"),
        ({"hosts": "SHA256:x"}, "t.hosts: expected a list, got str"),
        ({"queries": {"rejected": 2}}, "t.queries.rejected: expected 0 to 1, got 2"),
        ({"queries": {"rejected": True}}, "t.queries.rejected: expected a number, got bool"),
        ({"queries": {"per_hour": 2}}, "t.queries: unknown key 'per_hour'"),
        ({"cosigned": {"by": []}}, "t.cosigned.threshold: 1 of 0 witnesses"),
        ({"cosigned": {"by": ["w"]}}, "t.cosigned.by[0]: expected the verifier key"),
    ],
)
def test_what_is_not_understood_is_an_error(value: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError) as error:
        Terms.from_dict(value, "t")
    assert words in str(error.value)


def test_every_term_survives_its_own_writing() -> None:
    whole = Terms(
        not_before=NOON,
        not_after=NOON,
        versions=("2.*",),
        providers=(CPU,),
        hosts=("SHA256:x",),
        machines=("ab",),
        logs=("l",),
        max_sessions=0,
        max_loads=Quota(count=1, per="day"),
        max_runs=Quota(count=2, per="ever"),
        min_loader="0.1",
        memory="lean",
        hardening="strict",
        purposes=("p",),
        queries=Queries(per_minute=1, rejected=0.5),
        cosigned=Cosigned(by=(VerifierKey(name="w", algorithm=b"\x04", key=HostKey.generate().public),), hours=3),
    )
    assert list(whole.to_dict()) == list(TERMS)
    assert Terms.from_dict(whole.to_dict(), "t") == whole
    assert Terms.from_dict({}, "t") == Terms()


def test_query_limits_are_the_stricter_of_both(field: Field, sample_input: dict[str, Any]) -> None:
    sealed = field.parties.seal(name="m", policy=Terms(queries=Queries(total=3, per_minute=50)))
    grant = field.grant(sealed, queries=Queries(total=5, rejected=0.5))
    for own, allowed in ((None, 3), (QueryLimits(total=2), 2), (QueryLimits(total=9, refuse=False), 3)):
        with field.parties.load(sealed, grant=grant, queries=own) as session:
            for _ in range(allowed):
                session.run(None, sample_input)
            with pytest.raises(QueryRefused, match=f"more than {allowed} calls"):
                session.run(None, sample_input)


def test_a_witness_must_have_seen_the_log(field: Field, sealed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p = field.parties
    key = HostKey.generate()
    witness = VerifierKey(name="w.example", algorithm=COSIGNATURE, key=key.public)
    grant = field.grant(sealed, cosigned=Cosigned(by=(witness,), hours=2), max_loads=Quota(count=2, per="ever"))
    assert "0 of 1 witnesses cosigned it in the last 2" in load(field, sealed, grant=grant)

    def witnessed() -> None:
        note = Note.from_text(verify_log(p.log.path, p.host.public).head, "head")
        line = cosign(note.text, "w.example", key, datetime.now(UTC))
        cosigned_path(p.log.path).write_text(replace(note, signatures=(*note.signatures, line)).to_text())

    witnessed()
    signed = datetime.now(UTC)
    assert load(field, sealed, grant=grant) == "ok"
    for file in p.folder.glob("audit.log*"):
        if file.is_file():
            shutil.copy(file, p.folder / f"old.{file.name}")
    assert load(field, sealed, grant=grant) == "ok"
    assert "2 are used up" in load(field, sealed, grant=grant)
    witnessed()
    for file in p.folder.glob("old.audit.log*"):  # the whole log put back, but for what the witness said last
        if file.name != "old.audit.log.cosigned":
            shutil.copy(file, p.folder / file.name.removeprefix("old."))
    assert "that was cosigned is not in it" in load(field, sealed, grant=grant)
    clock(monkeypatch, signed + timedelta(hours=3), permit)
    assert "0 of 1 witnesses" in load(field, sealed, grant=grant)


def test_zero_means_none(field: Field, sealed: Path) -> None:
    for term in (
        {"max_sessions": 0},
        {"max_loads": Quota(count=0, per="day")},
        {"max_runs": Quota(count=0, per="day")},
    ):
        with pytest.raises(PolicyDenied):
            field.parties.load(sealed, grant=field.grant(sealed, **term))
