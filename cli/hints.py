"""What to do about an error: one line each, so that library messages need not know about commands."""

from modelvault import errors

_HINTS: tuple[tuple[type[errors.ModelVaultError], str, str], ...] = (
    (errors.KeyUnavailable, "publisher key 'default'", "make one with: modelvault keygen publisher"),
    (errors.KeyUnavailable, "recipient key 'default'", "make one with: modelvault keygen recipient"),
    (errors.KeyUnavailable, "owner key 'default'", "make one with: modelvault keygen owner"),
    (errors.KeyUnavailable, "lets others use it", "chmod 600 the file, if nobody else has read it"),
    (errors.KeyUnavailable, "encrypted", "use --passphrase-file FILE, or MODELVAULT_PASSPHRASE in the environment"),
    (errors.KeyUnavailable, "no own recipient key stands beside", "seal and grant take it with --own KEY"),
    (errors.AuditUnavailable, "host key 'default'", "make one with: modelvault keygen host"),
    (errors.AuditUnavailable, "encrypted", "use --passphrase-file FILE, or MODELVAULT_PASSPHRASE in the environment"),
    (errors.UntrustedPublisher, "no trust policy", "trust a publisher with: modelvault trust add KEY.pub --models '*'"),
    (errors.UntrustedPublisher, "not signed by a trusted", "see modelvault inspect FILE, and modelvault trust list"),
    (errors.UntrustedPublisher, "rotated out", "ask the publisher for a file or grant signed by its present keys"),
    (errors.PolicyDenied, "revocation list", "fetch the publisher's newest revocation list; see docs/LICENCES.md"),
    (
        errors.PolicyDenied,
        "clock was set back",
        "set the clock; where the log is wrong, see docs/INCIDENTS.md",
    ),
    (errors.PolicyDenied, "which this host has loaded", "allow_older = true for the publisher in the trust policy"),
    (errors.PolicyDenied, "grant", "modelvault license show says what it allows"),
    (errors.NoMatchingKey, "can draw its fingerprints", "name that owner's secret: modelvault grant FILE --owner KEY"),
    (errors.NoMatchingKey, "no grant to run", "ask the publisher for a grant: modelvault grant FILE --to YOUR.pub"),
    (errors.ModelError, "random inputs", "random inputs mislead on many models: give real ones with --inputs FILE.npz"),
    (errors.ModelError, "drift cannot be measured", "modelvault watermark embed --no-check marks without measuring"),
    (errors.ModelError, "no record of a mark", "give the unmarked model with --original, or the record with --record"),
    (errors.ModelError, "(scan rule", "modelvault scan shows all; seal --allow RULE lets one pass, on record"),
    (errors.ModelVaultError, "plots need matplotlib", "pip install 'modelvault[plots]'"),
    (errors.FileError, "exists already", "choose another place, or pass --force where there is one"),
    (errors.AuditTampered, "follows the last head", "the next load puts the torn tail aside and says so"),
    (errors.AuditTampered, "were committed", "compare with a checkpoint kept elsewhere: audit verify --against FILE"),
    (errors.AuditUnavailable, "does not hold", "put the present key back, or begin a new log with a new host key"),
    (errors.PolicyDenied, "witnesses cosigned", "have it cosigned: modelvault audit witness URL --by VKEY"),
)


def hint_for(error: errors.ModelVaultError) -> str | None:
    """The first hint whose words stand in the error's message."""
    text = str(error)
    return next((hint for kind, words, hint in _HINTS if isinstance(error, kind) and words in text), None)
