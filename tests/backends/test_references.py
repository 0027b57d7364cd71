"""References to keys and files are written by people: whatever they hold, the answer is one of our errors."""

import contextlib
import json
from typing import Any

import needs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelvault import remote
from modelvault.errors import FormatError, ModelVaultError
from modelvault.keys import store
from modelvault.omsbundle import ModelManifest, UnverifiedSignature

_LOADERS = (store.load_publisher, store.load_recipient, store.load_host, store.load_recipient_public)
_QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
_MARKS = "://", "/", "?", "&", "=", ";", "%00", "%ff", "[", "]", "@", "#"
_PIECES = st.sampled_from([*_MARKS, "object", "token", "id", "module-path", "version"])


@_QUIET
@given(
    scheme=st.sampled_from(["env:", "fd:", "pkcs11:", "vault:", "tpm2:", "awskms:", "azurekms:", "gcpkms:"]),
    rest=st.lists(_PIECES | st.text(max_size=5), max_size=6).map("".join),
)
def test_key_references(scheme: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs.module("pkcs11")
    needs.module("hvac")
    needs.module("boto3")
    needs.module("azure.identity")
    needs.module("google.cloud.kms")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("VAULT_ADDR", "http://[")
    monkeypatch.setenv("VAULT_TOKEN", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://kms.example.com")
    if scheme == "fd:" and rest.isdecimal():
        return  # somebody else's descriptor
    for load in _LOADERS:
        with contextlib.suppress(ModelVaultError):
            load(scheme + rest)


@_QUIET
@given(rest=st.lists(_PIECES | st.text(max_size=5), max_size=6).map("".join))
def test_urls(rest: str) -> None:
    needs.module("fsspec")
    for scheme in ("memory", "nothing"):
        remote.display(f"{scheme}://{rest}")
        with contextlib.suppress(ModelVaultError):
            remote.read_bytes(f"{scheme}://{rest}", limit=10)


_KEYS = st.sampled_from(["mediaType", "dsseEnvelope", "payload", "signatures", "subject", "predicate", "resources"])
_JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner),
    max_leaves=10,
)


def test_secrets_in_urls_are_not_shown() -> None:
    for url in (
        "https://user:secret@host/m.mvlt?sig=secret#secret",
        "https://[secret/m.mvlt",
        "s3://k:secret@bucket/m",
    ):
        assert "secret" not in remote.display(url)


@_QUIET
@given(data=st.binary(max_size=60) | _JSON.map(lambda v: json.dumps(v).encode()))
def test_signature_files(data: bytes) -> None:
    for parse in (UnverifiedSignature.from_bytes, ModelManifest.from_bytes):
        with pytest.raises(FormatError):
            parse(data, "m.sig")
