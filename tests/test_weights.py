"""Files of weights: three formats, written by hand and by PyTorch, and what is refused."""

import hashlib
import io
import zipfile

import numpy as np
import pytest
from conftest import one_line

from vaejax.evaluation.inception import SHA256, inception_features
from vaejax.evaluation.weights import weights_in

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)
COUNT = np.array(7, np.int64)


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def numbers(values):
    """A tuple of none, one or two."""
    return (
        b"".join(b"K" + bytes([value]) for value in values) + (b")", b"\x85", b"\x86")[len(values)]
    )


def pickled(body):
    return b"\x80\x02" + body + b"."


def tensor(key, shape, strides, count, kind="Float", offset=0, sixth=b"N"):
    """Opcodes of a tensor that lies in the storage `key`."""
    storage = text("storage") + b"ctorch\n" + f"{kind}Storage\n".encode() + text(key) + text("cpu")
    storage = b"(" + storage + b"K" + bytes([count]) + sixth + b"tQ"
    rest = b"K" + bytes([offset]) + numbers(shape) + numbers(strides)
    ordered = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + rest + b"\x89" + ordered + b"tR"


def state(sixth=b"N", **changes):
    """Opcodes of {"matrix": MATRIX, "turned": MATRIX[1:].T, "count": COUNT} with an attribute."""
    items = {
        "matrix": tensor("a", (2, 3), (3, 1), 6, sixth=sixth),
        "turned": tensor("a", (3, 1), (1, 3), 6, offset=3, sixth=sixth),
        "count": tensor("b", (), (), 1, "Long", sixth=sixth),
    } | changes
    pairs = b"".join(text(name) + value for name, value in items.items())
    versions = b"}" + text("_metadata") + b"}s"
    return pickled(b"ccollections\nOrderedDict\n)R(" + pairs + b"u" + versions + b"b")


def old(body=None, magic=b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", little=b"\x88"):
    """A file in the format before the .zip."""
    system = b"}" + text("little_endian") + little + b"s"
    keys = b"](" + text("a") + text("b") + b"e"
    parts = [pickled(magic), pickled(b"M\xe9\x03"), pickled(system), body or state(), pickled(keys)]
    for array in (MATRIX, COUNT):
        parts += [array.size.to_bytes(8, "little"), array.tobytes()]
    return b"".join(parts)


def new(body=None, method=zipfile.ZIP_STORED, **changes):
    """A file in the format of today."""
    files = {
        "data.pkl": body or state(sixth=b""),
        "version": b"3\n",
        "byteorder": b"little",
        "data/a": MATRIX.tobytes(),
        "data/b": COUNT.tobytes(),
    } | changes
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(f"weights/{name}", content)
    return stream.getvalue()


def arrays():
    stream = io.BytesIO()
    np.savez(stream, matrix=MATRIX, turned=MATRIX[1:].T, count=COUNT)
    return stream.getvalue()


def read(tmp_path, content):
    (tmp_path / "weights.pth").write_bytes(content)
    return weights_in(tmp_path / "weights.pth")


@pytest.mark.parametrize("content", [old(), new(), arrays()], ids=["old", "new", "npz"])
def test_all_formats_hold_the_same_arrays(tmp_path, content):
    found = read(tmp_path, content)
    expected = {"matrix": MATRIX, "turned": MATRIX[1:].T, "count": COUNT}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)


@pytest.mark.parametrize("is_zip", [False, True])
def test_files_of_pytorch_are_read_as_pytorch_reads_them(tmp_path, is_zip):
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, (1, 2), bias=False), torch.nn.BatchNorm2d(4))
    given = model.state_dict() | {"half": torch.ones(3, 2).half().T, "own": model[1].weight}
    path = tmp_path / "weights.pth"
    torch.save(given, path, _use_new_zipfile_serialization=is_zip)
    found = weights_in(path)
    assert found.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(found[name], array.detach().numpy(), strict=True)
    for content in (old(), new()):  # and the files written by hand are as they should be
        path.write_bytes(content)
        for name, array in torch.load(path).items():
            np.testing.assert_array_equal(weights_in(path)[name], array.numpy(), strict=True)


def test_a_pickle_that_asks_for_more_than_tensors_is_refused_and_not_executed(tmp_path):
    mark = tmp_path / "executed"
    call = text(f"touch {mark}") + b"\x85R"
    for asked, said in [
        (b"cos\nsystem\n" + call, "asks for 'os system'"),
        (b"cbuiltins\neval\n" + call, "asks for 'builtins eval'"),
        (b"(" + text(f"touch {mark}") + b"ios\nsystem\n", "opcode INST"),
        (text("os") + text("system") + b"\x93" + call, "opcode STACK_GLOBAL"),
        (b"ctorch\nFloatStorage\n" + call, "calls what is no function"),
        (text("x") + b"Q", "refers to what is no storage"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))\x89Nt" + b"R", "tensor of what is no"),
        (b"ccollections\nOrderedDict\n(K\x01tR", "TypeError"),
    ]:
        for content in (old(state(matrix=asked)), new(state(matrix=asked))):
            with one_line(f"weights.pth: .*{said}"):
                read(tmp_path, content)
    assert not mark.exists()


def test_a_tensor_reaches_no_further_than_its_storage(tmp_path):
    for changed in [
        tensor("a", (2, 3), (3, 1), 6, offset=1, sixth=b""),
        tensor("a", (3, 3), (3, 1), 6, sixth=b""),
        tensor("a", (255, 255), (255, 255), 6, sixth=b""),
    ]:
        with one_line("matrix reaches beyond the 6 numbers"):
            read(tmp_path, new(state(sixth=b"", matrix=changed)))
    with one_line(r"the storage of matrix has 24 bytes; 7 numbers of 4 bytes"):
        read(tmp_path, new(state(b"", matrix=tensor("a", (6,), (1,), 7, sixth=b""), turned=b"N")))
    backward = tensor("a", (2,), (1,), 6, sixth=b"").replace(
        numbers((1,)), b"J\xff\xff\xff\xff\x85"
    )
    with one_line(r"matrix has shape \(2,\) and strides \(-1,\)"):
        read(tmp_path, new(state(b"", matrix=backward)))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    for content in (old(), new(), arrays()):
        for length in range(0, len(content) - 1, 9):
            with one_line("weights.pth: "):
                read(tmp_path, content[:length])


def test_other_files_are_refused(tmp_path):
    for content, said in [
        (b"hello", "neither a file of PyTorch nor an .npz"),
        (old(magic=b"K\x01"), "neither a file of PyTorch"),
        (old(little=b"\x89"), "not little-endian"),
        (new(byteorder=b"big"), "not little-endian"),
        (new(method=zipfile.ZIP_DEFLATED), "data.pkl is compressed"),
        (new(pickled(b"K\x01")), "no dictionary of tensors: int"),
        (new(pickled(b"}K\x01" + tensor("a", (), (), 6, sixth=b"") + b"s")), "names are no text"),
    ]:
        with one_line(f"weights.pth: .*{said}"):
            read(tmp_path, content)
    stream = io.BytesIO()
    np.savez(stream, x=np.array([{}], object), allow_pickle=True)
    with one_line("allow_pickle=False"):
        read(tmp_path, stream.getvalue())


def test_weights_of_another_hash_or_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(old())
    sha256 = hashlib.sha256(old()).hexdigest()
    with one_line(f"has SHA-256 {sha256[:12]}..., not {SHA256[:12]}.*takes another hash"):
        inception_features(path)
    with one_line(f"has SHA-256 {sha256[:12]}..., not 6726...; "):
        inception_features(path, "6726")
    with one_line("lacks 470 of 470 arrays, first Conv2d_1a_3x3."):
        inception_features(path, sha256)
    with one_line("missing.pth cannot be read: No such file"):
        inception_features(tmp_path / "missing.pth")
