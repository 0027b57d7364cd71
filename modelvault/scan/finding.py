"""What a scan says: findings, each made by one rule, and the rules' register."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelvault.scan.subject import Subject

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)

# When a rule can be asked: of the graph, of the weights' values, of the files beside the model, of whose weights they
# are, of what anybody can read in a sealed file. Sealing asks those of STRUCTURE and ASSETS.
STRUCTURE, CONTENT, ASSETS, OWNERSHIP, PUBLIC = "structure", "content", "assets", "ownership", "public"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """``where``: a place inside ``file``, empty for the whole of it. All texts are printable ASCII, one line each."""

    rule: str
    severity: str
    message: str
    file: str
    where: str

    def to_dict(self) -> dict[str, str]:
        return {
            "rule": self.rule,
            "severity": self.severity,
            "message": self.message,
            "file": self.file,
            "where": self.where,
        }

    @property
    def place(self) -> str:
        return f"{self.file}: {self.where}" if self.where else self.file


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule yields; ``file`` is None for the model file."""

    where: str
    message: str
    file: str | None = None


Look = Callable[["Subject"], Iterator[Hit]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """``why``: one line, what may go wrong; ``fix``: what to do about it; ``stage``: what it looks at."""

    id: str
    severity: str
    stage: str
    why: str
    fix: str
    look: Look

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "severity": self.severity, "stage": self.stage, "why": self.why, "fix": self.fix}


RULES: dict[str, Rule] = {}


def rule(name: str, severity: str, stage: str, *, why: str, fix: str) -> Callable[[Look], Look]:
    """Enter a function into the register."""

    def enter(look: Look) -> Look:
        if name in RULES:
            raise ValueError(f"two rules are called {name}")
        RULES[name] = Rule(id=name, severity=severity, stage=stage, why=why, fix=fix, look=look)
        return look

    return enter


def plain(text: object, limit: int = 300) -> str:
    """Text that nobody vouches for, fit for a terminal: printable ASCII, cut to ``limit``; twice is as once."""
    shown = str(text)[: limit + 1].encode("ascii", "backslashreplace").decode()
    if not shown.isprintable():
        shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."
