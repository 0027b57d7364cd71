"""What seal, grant, rewrap and trace share about fingerprints: the owner, its registry, and plans."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelvault.cli.common import Passphrase
from modelvault.keys import store

if TYPE_CHECKING:
    from modelvault.fingerprint.ownfile import OwnFilePlan
    from modelvault.fingerprint.planning import FingerprintPlan
    from modelvault.fingerprint.rings import Owner
    from modelvault.watermark.embedding import Plan


def load_issuer(key: str, registry: Path | None, ask: Passphrase) -> "Owner":
    """The owner by its secret's name or path, with the registry named or the one in the home folder."""
    from modelvault.fingerprint.registry import Registry
    from modelvault.fingerprint.rings import Owner

    secret = store.load_owner(key, ask)
    return Owner(secret, Registry(registry, secret) if registry else None)


def measured_on(inputs: Path | None) -> dict[str, Any]:
    """What plans are told of the inputs that drift is measured on; random ones where there is no file."""
    from modelvault.watermark.fidelity import read_inputs

    return {"inputs": read_inputs(inputs), "inputs_name": inputs.name} if inputs else {}


@dataclass(frozen=True, slots=True)
class Planning:
    """Plans for one model. ``labels``: recipients' names by fingerprint; ``inputs``: real ones to measure drift on."""

    owner: "Owner"
    labels: Mapping[str, str]
    model: Path
    inputs: Path | None

    def slots(self, coalition: int, recipients: int, mark: "Plan | None") -> "FingerprintPlan":
        """Slots that give every recipient of one file a copy of its own; a coalition of them is traced."""
        from modelvault.fingerprint.planning import make_plan

        plan = make_plan(
            self.model,
            self.owner,
            coalition=coalition,
            recipients=recipients,
            watermark=mark,
            **measured_on(self.inputs),
        )
        return replace(plan, labels=self.labels)

    def own_file(self, recipient: str, *, shared: bool) -> "OwnFilePlan":
        """A mark of the whole file for one recipient; ``shared``: beside the owner's, within one budget."""
        from modelvault.fingerprint.ownfile import OwnFilePlan, recipient_secret
        from modelvault.watermark.embedding import Budget, make_plan

        mark = make_plan(
            self.model,
            recipient_secret(self.owner.secret, recipient),
            **measured_on(self.inputs),
            budget=Budget().shared() if shared else None,
        )
        label = self.labels.get(recipient, "")
        return OwnFilePlan(mark=mark, recipient=recipient, label=label, registry=self.owner.registry)
