"""The order of a load, and what stops it."""

import copy
import pickle
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from conftest import Parties
from feeds import same

import modelvault
from modelvault import decryption, granting, loader, samples
from modelvault.auditterms import AuditTerms
from modelvault.errors import (
    AuditUnavailable,
    FileError,
    ForbiddenOption,
    KeyUnavailable,
    ModelVaultError,
    NoMatchingKey,
    PolicyDenied,
    SessionClosed,
    UntrustedPublisher,
)
from modelvault.keys import HostKey
from modelvault.policy import Terms
from modelvault.trust import TrustPolicy

NOW = datetime.now(UTC).replace(microsecond=0)


def test_a_load_and_its_records(parties: Parties, sealed: Path, sample_input: dict[str, Any]) -> None:
    with parties.load(sealed) as session:
        assert isinstance(session, onnxruntime.InferenceSession)
        assert session._model_bytes is None
        session.run(None, sample_input)
        session.run(None, sample_input)
    intent, done, closed = parties.records()[1:]
    assert [r.event for r in (intent, done, closed)] == ["load.intent", "load.done", "session.closed"]
    assert intent.fields["model"] == {"name": "direction", "version": "1"}
    assert intent.fields["recipient"] == parties.customer.public.fingerprint
    assert intent.fields["publisher"] == "acme"
    assert closed.fields["runs"] == 2
    assert intent.fields["load"] == done.fields["load"] == closed.fields["load"]


def test_intent_is_on_disk_before_anything_is_decrypted(
    parties: Parties, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    original = decryption.decrypt

    def watched(*args: Any) -> Any:
        seen.append(parties.events())
        return original(*args)

    monkeypatch.setattr(loader, "decrypt", watched)
    parties.load(sealed).close()
    assert seen == [["opened", "load.intent"]]


def test_nothing_is_decrypted_when_the_log_cannot_be_written(
    parties: Parties, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "decrypt", lambda *_: pytest.fail("decrypted without a record"))
    (parties.folder / "audit.log").mkdir()
    with pytest.raises(AuditUnavailable, match="is a directory"):
        parties.load(sealed)


def test_without_a_trust_policy_nothing_loads(parties: Parties, sealed: Path) -> None:
    with pytest.raises(UntrustedPublisher, match="no trust policy at"):
        parties.load(sealed, trust=parties.folder / "missing.toml")
    assert parties.records()[-1].fields["reason"] == "UntrustedPublisher"


def test_an_untrusted_name_or_old_version(parties: Parties, sealed: Path) -> None:
    publisher = parties.trust.publishers[0]
    changes: tuple[tuple[dict[str, Any], type[ModelVaultError], str], ...] = (
        ({"models": ("fraud-*",)}, UntrustedPublisher, "no publisher may seal 'direction'"),
        ({"minimum_version": "2"}, PolicyDenied, "version 1 is older"),
    )
    for change, kind, words in changes:
        trust = TrustPolicy(publishers=(replace(publisher, **change),))
        with pytest.raises(kind, match=words):
            parties.load(sealed, trust=trust)


def test_a_stranger_has_no_grant(parties: Parties, sealed: Path) -> None:
    with pytest.raises(NoMatchingKey, match="no grant to run this model"):
        parties.load(sealed, identity=parties.stranger)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        (Terms(not_before=NOW + timedelta(hours=1)), "not valid before"),
        (Terms(not_after=NOW - timedelta(seconds=1)), "expired at"),
        (Terms(providers=("CUDAExecutionProvider",)), "provider CPUExecutionProvider is not among"),
        (Terms(min_loader="999.0"), r"needs modelvault 999\.0"),
    ],
)
@pytest.mark.parametrize("place", ["policy", "licence"])
def test_terms_are_enforced_before_decryption(
    parties: Parties, terms: Terms, words: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "decrypt", lambda *_: pytest.fail("decrypted"))
    path = parties.seal(policy=terms if place == "policy" else None)
    settings: dict[str, Any] = {}
    if place == "licence":
        grant = granting.grant(path, parties.customer.public, own=parties.own, signer=parties.publisher, licence=terms)
        granting.write_grant(parties.folder / "a.grant", grant)
        settings = {"grant": parties.folder / "a.grant"}
    with pytest.raises(PolicyDenied, match=words):
        parties.load(path, **settings)
    assert parties.records()[-1].fields["reason"] == "PolicyDenied"


def test_the_pinned_audit_key(parties: Parties, sealed: Path) -> None:
    other = HostKey.generate().public.fingerprint
    with pytest.raises(PolicyDenied, match="audit log is signed by"):
        parties.load(sealed, trust=TrustPolicy(publishers=parties.trust.publishers, audit=AuditTerms(key=other)))


def test_a_closed_session(parties: Parties, sealed: Path, sample_input: dict[str, Any]) -> None:
    session = parties.load(sealed)
    binding = session.io_binding()
    session.close()
    session.close()
    for use in (
        lambda: session.run(None, sample_input),
        session.io_binding,
        lambda: session.run_with_iobinding(binding),
        lambda: session.run_with_ort_values(None, {}),
        lambda: session.asset("x"),
    ):
        with pytest.raises(SessionClosed, match="session of direction is closed"):
            use()
    assert "closed" in repr(session)
    assert parties.events().count("session.closed") == 1


def test_a_session_cannot_be_copied_or_built_anew(parties: Parties, sealed: Path) -> None:
    with parties.load(sealed) as session:
        for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot be copied or pickled"):
                attempt(session)
        for door in (session.set_providers, session.enable_fallback, session.end_profiling):
            with pytest.raises(ForbiddenOption):
                door()


def test_every_way_to_run(parties: Parties, sealed: Path, sample_input: dict[str, Any]) -> None:
    with parties.load(sealed) as session:
        expected = session.run(None, sample_input)
        name = session.get_outputs()[0].name
        values = {k: onnxruntime.OrtValue.ortvalue_from_numpy(v) for k, v in sample_input.items()}
        assert same(expected, [session.run_with_ort_values(None, values)[0].numpy()])
        binding = session.io_binding()
        binding.bind_cpu_input("x", sample_input["x"])
        binding.bind_output(name)
        session.run_with_iobinding(binding)
        assert same(expected, binding.copy_outputs_to_cpu())
        finished, results = threading.Event(), []

        def callback(outputs: Any, data: Any, error: str) -> None:
            results.append((outputs, data, error))
            finished.set()

        session.run_async(None, sample_input, callback, "token")
        assert finished.wait(30)
        assert same(expected, results[0][0])
        assert results[0][1:] == ("token", "")
        assert session.get_modelmeta().producer_name == "PaddlePaddle"


def test_close_waits_for_running_threads(parties: Parties, sealed: Path, sample_input: dict[str, Any]) -> None:
    session = parties.load(sealed)
    expected, good, closed = session.run(None, sample_input), [], []

    def work() -> None:
        try:
            while True:
                good.append(same(expected, session.run(None, sample_input)))
        except SessionClosed:
            closed.append(True)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(good) < 40:
        pass
    session.close()
    for thread in threads:
        thread.join(30)
    assert all(good)
    assert len(closed) == 8
    assert parties.records()[-1].fields["runs"] == len(good) + 1


def test_assets(parties: Parties, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    (bundle / "sub").mkdir(parents=True)
    (bundle / "model.onnx").write_bytes(samples.MODEL.read_bytes())
    (bundle / "labels.json").write_text('["0", "180"]')
    (bundle / "sub" / "empty").write_bytes(b"")
    path = parties.seal(bundle)
    with parties.load(path) as session:
        assert session.assets == ("labels.json", "sub/empty")
        assert session.asset("labels.json") == b'["0", "180"]'
        assert session.asset("sub/empty") == b""
        with pytest.raises(FileError, match="no asset 'nothing'"):
            session.asset("nothing")
    assert b"labels.json" not in path.read_bytes()


def test_defaults_from_the_home_folder(parties: Parties, sealed: Path, tmp_path: Path) -> None:
    from modelvault.keys import store

    with pytest.raises(AuditUnavailable, match="host key 'default'"):
        modelvault.load(sealed)
    store.write_pair(store.folder("host"), "default", parties.host.to_pem(None), parties.host.public.to_pem())
    with pytest.raises(UntrustedPublisher, match="no trust policy"):
        modelvault.load(sealed)
    (parties.folder / "trusted").rename(store.home() / "trusted")
    (parties.folder / "trust.toml").rename(store.home() / "trust.toml")
    with pytest.raises(KeyUnavailable, match="recipient key 'default'"):
        modelvault.load(sealed)
    key = parties.customer
    store.write_pair(store.folder("recipient"), "default", key.to_pem(b"secret"), key.public.to_pem())
    with pytest.raises(KeyUnavailable, match="neither MODELVAULT_PASSPHRASE"):
        modelvault.load(sealed)
    with modelvault.load(sealed, passphrase=lambda: b"secret") as session:
        assert session.get_inputs()[0].name == "x"
    report = modelvault.verify_log(store.home() / "audit" / "audit.log", parties.host.public)
    assert report.size == 7  # opened, three refusals that a log could take, intent, done, closed


def test_a_missing_file_is_a_recorded_refusal(parties: Parties) -> None:
    with pytest.raises(FileError, match="no such file"):
        parties.load(parties.folder / "nothing.mvlt")
    assert parties.records()[-1].fields["file"] == "nothing.mvlt"


def test_errors_share_one_root() -> None:
    from modelvault import errors

    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)]
    assert all(issubclass(kind, ModelVaultError) for kind in kinds)
    assert len(kinds) >= 15


def test_outputs_do_not_share_memory_with_the_weights(parties: Parties, tmp_path: Path) -> None:
    """A model that returns one of its weights: the array must outlive the wiped session."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.arange(4096, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["w"], ["y"])],
        "g",
        [],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [4096]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4096]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "w.onnx")
    with parties.load(parties.seal(tmp_path / "w.onnx")) as session:
        outputs = session.run(None, {})
    assert all(np.array_equal(o, weights) for o in outputs)
