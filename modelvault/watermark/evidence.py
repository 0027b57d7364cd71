"""One page for a court or a manager: the verdict, what it is worth, how it was reached, and what it does not show."""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from modelvault import page
from modelvault._codec import b64encode, format_time
from modelvault._version import __version__
from modelvault.audit import AuditReport, verify_log
from modelvault.audit.lines import Record as AuditRecord
from modelvault.commitment import SCHEME, Commitment
from modelvault.errors import FormatError
from modelvault.keys import HostPublic
from modelvault.sealedfile import SealedFile
from modelvault.trust import TrustPolicy
from modelvault.watermark import null, plots
from modelvault.watermark.verdict import Verdict, payload_text

TABLE = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A sealed file's signed statement that commits to the mark, and the first audit record that names it."""

    path: Path
    statement: bytes
    created: datetime
    publisher: str
    signers: tuple[str, ...]
    commitment: Commitment | None
    record: AuditRecord | None
    log: AuditReport | None


def publication(
    sealed: Path, trust: TrustPolicy, log: Path | None = None, host: HostPublic | None = None
) -> Publication:
    """Verify a published statement, and find it in a host's audit log. Raises as both verifications do."""
    with SealedFile(sealed) as file:
        verified = trust.verify_model(file.envelope, file.statement, str(sealed))
        digest = file.statement_digest
    found: list[AuditRecord] = []
    report = None

    def visit(record: AuditRecord) -> None:
        if not found and record.fields.get("statement") == digest.hex():
            found.append(record)

    if log is not None and host is not None:
        report = verify_log(log, host, visit=visit)
        if not found:
            raise FormatError(f"{log}: no record names the statement {digest.hex()}")
    return Publication(
        path=sealed,
        statement=digest,
        created=verified.statement.created,
        publisher=verified.publisher.name,
        signers=tuple(sorted(verified.signers)),
        commitment=verified.statement.watermark,
        record=found[0] if found else None,
        log=report,
    )


def write(
    output: Path, verdict: Verdict, suspect: Path, original: Path | None = None, published: Publication | None = None
) -> None:
    """Write the page, atomically. Raises FileError, and ModelVaultError without matplotlib."""
    page.write(output, "Watermark evidence", _sections(verdict, suspect, original, published))


def _sections(verdict: Verdict, suspect: Path, original: Path | None, published: Publication | None) -> Iterable[str]:
    chance = null.measure({digest: f.sample for digest, f in verdict.finding.found.items()})
    rows = [(t.name, t.z, chance.tensors[t.digest]) for t in verdict.tensors]
    yield _headline(verdict, suspect)
    yield _probability(verdict)
    yield f"<figure>{plots.null_plot(chance, verdict.outcome.z, _threshold_z(verdict))}<figcaption>"
    yield f"Scores of {len(chance.whole)} random keys on the very same weights (an even sample of {chance.sample:,} of "
    yield "the compared weights), and of the owner's key on all of them. Highest of the random keys: "
    yield f"{float(chance.whole.max()):.2f}.</figcaption></figure>"
    yield _compared(verdict, suspect, original)
    yield _payload(verdict)
    if rows:
        yield f"<h2>Tensor by tensor</h2><figure>{plots.tensor_plot(rows)}<figcaption>The tensors that weigh most. "
        yield "A tensor outside its bar carries the mark by itself.</figcaption></figure>"
    yield _tensors(verdict)
    yield _chain(verdict, published)
    yield _limits()


def _headline(verdict: Verdict, suspect: Path) -> str:
    name, p = html.escape(suspect.name), page.power(verdict.outcome.log10_p)
    if verdict.claim:
        words = f"<b>{name}</b> carries the watermark of owner <code>{html.escape(verdict.owner)}</code>."
        kind = "claim"
        more = f"The probability that a file made without the owner's key scores as high is at most <b>{p}</b>."
    else:
        words = (
            f"No claim: <b>{name}</b> does not show the watermark of owner <code>{html.escape(verdict.owner)}</code>."
        )
        kind, more = "none", "That is no proof of the contrary: a mark may have been destroyed with the weights."
    return f'<h1>Watermark evidence</h1><section class="{kind}"><p>{words}</p><p>{more}</p></section>'


def _threshold_z(verdict: Verdict) -> float:
    return math.sqrt(2 * math.log(10) * -verdict.threshold + 2 * math.log(4 * verdict.trials))


def _probability(verdict: Verdict) -> str:
    tries = "1 key and record" if verdict.trials == 1 else f"{verdict.trials} keys and records"
    return f"""<h2>What the number means</h2>
<p>The owner's secret key gives a pattern of random numbers, one for each weight. The score says how well the pattern
fits the file, in standard deviations: <b>{verdict.outcome.z:.2f}</b>; a claim needs {_threshold_z(verdict):.1f}.
Whoever made a file without the key had to choose its weights independently of the pattern. Then, by Hoeffding's
inequality, a score of z or more has a probability of at most exp(&minus;z&sup2;/2), <em>whatever the weights are and
whatever was done to them</em>: nothing is assumed about models, training or attacks. The bound is multiplied by the
number of tries ({tries}, and the payloads tried), and never stated below 2<sup>&minus;256</sup>, the chance to guess
the key. The claim is made at {page.power(verdict.threshold)} or less, fixed beforehand.</p>"""


def _compared(verdict: Verdict, suspect: Path, original: Path | None) -> str:
    undone = sorted({u for t in verdict.tensors for u in t.undone})
    facts = [
        ("suspect", f"{suspect.name}, {suspect.stat().st_size:,} bytes"),
        ("its SHA-256", page.sha256(suspect)),
        ("compared with", f"the original {original.name}" if original else "the owner's private record (no original)"),
        ("the original's SHA-256", page.sha256(original) if original else "-"),
        ("the original's weights", verdict.original.hex()),
        ("tensors", f"{len(verdict.tensors)} found, {verdict.missing} missing"),
        ("undone before comparing", ", ".join(undone) or "nothing"),
        ("method", f"{SCHEME}, modelvault {__version__}, {format_time(datetime.now(UTC).replace(microsecond=0))}"),
    ]
    return "<h2>What was compared</h2>" + page.facts(facts)


def _payload(verdict: Verdict) -> str:
    read = verdict.outcome.read
    if read is None:
        return "<h2>Message in the mark</h2><p>No message could be read.</p>"
    text = payload_text(read.payload)
    facts = [
        ("message", text or "no text"),
        ("hexadecimal", read.payload.hex()),
        ("bytes corrected", f"{read.corrected} of 32"),
        ("probability that it was read by chance", f"at most 10^{verdict.outcome.read_log10_p:.1f}"),
    ]
    return "<h2>Message in the mark</h2>" + page.facts(facts)


def _tensors(verdict: Verdict) -> str:
    rows = [
        (t.name, ", ".join(t.found), ", ".join(t.undone) or "-", f"{t.coverage:.0%}", f"{t.z:.1f}")
        for t in verdict.tensors[:TABLE]
    ]
    table = page.table(("tensor of the original", "found as", "undone", "covered", "score"), rows)
    rest = len(verdict.tensors) - TABLE
    more = f"<p>... and {rest} more.</p>" if rest > 0 else ""
    return f"<details><summary>All tensors</summary>{table}{more}</details>"


def _chain(verdict: Verdict, published: Publication | None) -> str:
    head = "<h2>Since when the mark exists</h2>"
    if published is None:
        known = "The owner's private record opens with this key. " if verdict.record else ""
        return head + f"<p>{known}No published statement was given: the time order is not shown here.</p>"
    opens = verdict.commitment is not None and verdict.commitment == published.commitment
    words = (
        "The statement commits to this mark, and the owner's key and the message open the commitment."
        if opens
        else "The statement does <b>not</b> commit to this mark with this key and message."
    )
    facts = [
        ("sealed file", published.path.name),
        ("statement, SHA-256", published.statement.hex()),
        ("signed by", f"{published.publisher}: {', '.join(published.signers)}"),
        ("created, by its publisher's word", format_time(published.created)),
        ("commitment", published.commitment.value.hex() if published.commitment else "none"),
    ]
    if published.record is not None and published.log is not None:
        facts += [
            ("first named in audit log", f"record {published.record.seq}, {published.record.event}"),
            ("at, by the host's clock", published.record.time),
            ("log", f"{published.log.origin}, {published.log.size} records, signed by {published.log.key}"),
            ("log's root", b64encode(published.log.root)),
        ]
    return head + f"<p>{words}</p>" + page.facts(facts)


def _limits() -> str:
    return (
        "<h2>What this does not show</h2><ul>"
        "<li>Who copied the file, and whether that was allowed.</li>"
        "<li>That a model without a mark is not a copy: distillation and long retraining make new weights.</li>"
        "<li>Anything, if the owner's secret was known to others before the file was made.</li></ul>"
        "<p>Dispute rule: each party submits its original; whoever's original carries the other's mark loses. "
        "The scheme, its bound and test vectors are published: docs/WATERMARK.md.</p>"
    )
