"""An auditor checks a sealed file and an audit log, with public keys alone: python audit.py [FILE.mvlt [AUDIT.log]]"""

import sys

import modelvault
from modelvault import defaults
from modelvault.keys import store


def main(sealed: str = "direction.mvlt", log: str | None = None) -> int:
    try:
        model = modelvault.verify(sealed, defaults.trust_policy(None))
        print(f"{sealed}: {model.statement.name} {model.statement.version}, sealed by {model.publisher.name}")
        report = modelvault.verify_log(log or defaults.audit_path(), store.load_host_public("default"))
        print(f"{report.path}: {report.size} records, none changed")
    except modelvault.ModelVaultError as error:
        print(f"REFUSED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
