"""Sealing: external data of every arrangement, folders, and memory that does not grow with the model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Parties
from feeds import same
from onnx import TensorProto, helper

from modelvault import samples
from modelvault.decryption import decrypt
from modelvault.errors import FileError, ModelError
from modelvault.filekey import FileKey
from modelvault.index import Index
from modelvault.sealedfile import SealedFile

SIDE = 64


def external(name: str, location: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[SIDE, SIDE], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(SIDE * SIDE * 4))):
        tensor.external_data.add(key=key, value=value)
    return tensor


@pytest.fixture
def scattered(tmp_path: Path) -> Path:
    """Five weights over three files in two subfolders, out of order, one range shared, one misaligned."""
    rng, folder = np.random.default_rng(0), tmp_path / "bundle"
    (folder / "a").mkdir(parents=True)
    (folder / "b" / "c").mkdir(parents=True)
    size = SIDE * SIDE * 4
    (folder / "a" / "x.bin").write_bytes(rng.standard_normal(3 * SIDE * SIDE).astype(np.float32).tobytes())
    (folder / "b" / "c" / "y.bin").write_bytes(
        b"pad" + rng.standard_normal(SIDE * SIDE).astype(np.float32).tobytes() + b"end"
    )
    (folder / "b" / "z.bin").write_bytes(rng.standard_normal(SIDE * SIDE).astype(np.float32).tobytes())
    tensors = [
        external("w0", "a/x.bin", 2 * size),
        external("w1", "b/c/y.bin", 3),
        external("w2", "./a/x.bin", 0),
        external("w3", "b/z.bin", 0),
        external("w4", "a/x.bin", 2 * size),
    ]
    nodes = [helper.make_node("MatMul", [f"h{n}", f"w{n}"], [f"h{n + 1}"]) for n in range(5)]
    ends = [helper.make_tensor_value_info(f"h{n}", TensorProto.FLOAT, ["n", SIDE]) for n in (0, 5)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "vocabulary.txt").write_text("a\nb\n")
    return folder


def index_of(parties: Parties, path: Path) -> Index:
    with SealedFile(path) as sealed:
        mine = next(
            g.statement for g in sealed.grants() if g.statement.recipient == parties.customer.public.fingerprint
        )
        model = decrypt(sealed, FileKey.open(mine, parties.customer, sealed.statement), tensors=True)
    model.wipe()
    return model.index


def test_external_data_in_several_files(parties: Parties, scattered: Path) -> None:
    import onnxruntime

    path = parties.seal(scattered)
    plain = onnxruntime.InferenceSession(scattered / "model.onnx")
    feed = {"h0": np.random.default_rng(1).standard_normal((2, SIDE)).astype(np.float32)}
    with parties.load(path) as session:
        assert same(plain.run(None, feed), session.run(None, feed))
        assert session.assets == ("vocabulary.txt",)
    index = index_of(parties, path)
    places = {t.name: t.offset for t in index.tensors}
    assert places["w0"] == places["w4"]
    assert all(offset % 64 == 0 for offset in places.values())
    assert [s.path for s in index.sources] == ["model.onnx", "a/x.bin", "b/c/y.bin", "b/z.bin"]
    import hashlib

    for source in index.sources:
        data = (scattered / source.path).read_bytes()
        assert (source.size, source.sha256) == (len(data), hashlib.sha256(data).digest())


def test_a_source_that_changes_while_it_is_sealed(
    parties: Parties, scattered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelvault import payload, sealing

    original = payload.write_payload

    def late(*arguments: object) -> bytes:
        (scattered / "b" / "z.bin").write_bytes(bytes(10))
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sealing, "write_payload", late)
    with pytest.raises(ModelError, match=r"z\.bin: changed while the model was being read"):
        parties.seal(scattered)
    assert not (parties.folder / "model.mvlt").exists()


def test_docs_and_source_paths_are_left_out(parties: Parties, tmp_path: Path) -> None:
    model = onnx.load(samples.MODEL)
    model.doc_string = "written by hand"
    model.graph.node[0].doc_string = 'File "/home/somebody/train.py", line 1'
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/somebody")
    model.metadata_props.add(key="classes", value="2")
    onnx.save(model, tmp_path / "m.onnx")
    path = parties.seal(tmp_path / "m.onnx")
    kept = parties.seal(tmp_path / "m.onnx", output="kept.mvlt", keep_docs=True)
    with parties.load(path) as short, parties.load(kept) as long:
        assert short.get_modelmeta().custom_metadata_map == {"classes": "2"}
        assert (short.get_modelmeta().description, long.get_modelmeta().description) == ("", "written by hand")


def test_folders(parties: Parties, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    with pytest.raises(ModelError, match=r"expected one .onnx file or a model.onnx, got 0"):
        parties.seal(folder)
    for name in ("a.onnx", "b.onnx"):
        (folder / name).write_bytes(samples.MODEL.read_bytes())
    with pytest.raises(ModelError, match=r"got 2 \.onnx files"):
        parties.seal(folder)
    (folder / "model.onnx").write_bytes(samples.MODEL.read_bytes())
    with parties.load(parties.seal(folder)) as session:
        assert session.assets == ("a.onnx", "b.onnx")
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(FileError, match="link: is a symbolic link"):
        parties.seal(folder)


MEASURE = """
import resource, sys
from pathlib import Path
from modelvault.keys import PublisherKey, RecipientKey
from modelvault.sealing import seal
folder = Path(sys.argv[1])
own = RecipientKey.generate("x25519").public
signers = [PublisherKey.generate("ed25519")]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seal(folder / "model.onnx", folder / "m.mvlt", recipients=[], signers=signers, own=own)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_external_data(tmp_path: Path) -> None:
    """Peak memory over the imports', in KiB, of sealing 64 MiB and 320 MiB."""
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    import synthetic

    peaks = []
    for count in (1, 5):
        folder = tmp_path / str(count)
        synthetic.write(folder, count)
        done = subprocess.run([sys.executable, "-c", MEASURE, folder], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert max(peaks) < 60 * 1024
    assert peaks[1] - peaks[0] < 16 * 1024
