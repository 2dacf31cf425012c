"""safetensors files with odd headers: read as the library reads them, or refused."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.quant.formats import from_bytes
from argosy_worker.models.hf_file import SafetensorsFile
from argosy_worker.models.weights import check_readable

PLAIN = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def write(path, header, data):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def tensor(begin, end, kind="F32", shape=None):
    return {"dtype": kind, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("name", PLAIN)
def test_every_float_type_comes_back_with_its_bits(tmp_path, name):
    """All patterns of 8 bits, and as many of the wider ones: infinities and what is no number, too."""
    raw = torch.arange(256, dtype=torch.uint8).repeat_interleave(4)[torch.randperm(1024)]
    save_file({"a": raw.view(PLAIN[name]).view(8, -1)}, tmp_path / "x.safetensors")
    with SafetensorsFile(tmp_path / "x.safetensors") as file:
        info = file.tensors["a"]
        assert info.format == name
        found = from_bytes(name, torch.from_numpy(file.rows("a", 2, 5)), 3, info.shape[1])
    expected = load_file(tmp_path / "x.safetensors")["a"][2:5]
    assert torch.equal(found.raw, expected.contiguous().view(torch.uint8))
    assert torch.allclose(found.dequantize(), expected.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": None, "a": tensor(0, 8)},
        b'  {"a": ' + json.dumps(tensor(0, 8)).encode() + b"}   ",
        {"a": {**tensor(0, 8), "more": 1}},
        {"a": tensor(0, 8), "empty": tensor(8, 8, shape=[0, 3])},
        {"an odd name": tensor(0, 8), "": tensor(8, 8, shape=[0])},
        json.dumps({"a": tensor(0, 8)}).encode() + b" ",  # the data begins at an odd byte
        {"b": tensor(0, 0, kind="U8", shape=[0]), "a": tensor(0, 8)},
        b'{"a": %b, "a": %b}' % (json.dumps(tensor(0, 8)).encode(), json.dumps(tensor(0, 8)).encode()),
    ],
)
def test_odd_headers_that_the_library_takes_are_read(tmp_path, header):
    path = write(tmp_path / "x.safetensors", header, struct.pack("<2f", 1.5, -2.0))
    with SafetensorsFile(path) as file:
        name = next(name for name in file.tensors if name in ("a", "an odd name"))
        assert file.rows(name, 0, 2).view("<f4").tolist() == load_file(path)[name].tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)),  # overlap
        ({"a": tensor(0, 4), "b": tensor(8, 12)}, bytes(12)),  # a hole
        ({"a": tensor(0, 8), "b": tensor(0, 8)}, bytes(8)),  # the same bytes
        (b'{"a": %b, "a": %b}' % tuple(json.dumps(tensor(at, at + 4)).encode() for at in (0, 4)), bytes(8)),
        ({"a": tensor(0, 8)}, bytes(12)),  # trailing bytes
        ({"a": tensor(0, 8)}, bytes(4)),  # truncated
        ({"a": tensor(0, 8, shape=[3])}, bytes(8)),
        ({"a": tensor(0, 8, kind="F31")}, bytes(8)),
        ({"a": tensor(0, 8), "__metadata__": {"n": 1}}, bytes(8)),
        (b'{"a": 1', bytes(8)),
        (b"[]", b""),
    ],
)
def test_unsound_headers_are_refused(tmp_path, header, data):
    with pytest.raises(ModelInvalidError, match=r"x\.safetensors"):
        SafetensorsFile(write(tmp_path / "x.safetensors", header, data))


def test_what_was_read_stays_when_the_file_is_written_over(tmp_path):
    """The bytes are copies: a checkpoint that is deployed anew in the same place changes no running model."""
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(64.0).view(8, 8)}, path)
    with SafetensorsFile(path) as file:
        found = from_bytes("F32", torch.from_numpy(file.rows("a", 0, 8)), 8, 8)
        with path.open("r+b") as other:
            other.seek(-64 * 4, 2)
            other.write(bytes(64 * 4))
        assert torch.equal(found.dequantize(), torch.arange(64.0).view(8, 8))


def test_a_file_without_tensors_is_sound(tmp_path):
    with SafetensorsFile(write(tmp_path / "x.safetensors", {}, b"")) as file:
        assert file.tensors == {}


@pytest.mark.parametrize(("kind", "shape"), [("F4", [4, 4]), ("C64", [1]), ("F64", [1]), ("I64", [1]), ("BOOL", [8])])
def test_other_types_are_refused_by_name(tmp_path, kind, shape):
    """They are sound, so a file may hold them; a weight may not be one."""
    path = write(tmp_path / "x.safetensors", {"a": tensor(0, 8, kind=kind, shape=shape)}, bytes(8))
    with SafetensorsFile(path) as file, pytest.raises(ModelUnsupportedError, match=f"'a' is {kind}; supported are F32"):
        check_readable(file, "a", tuple(shape))


def test_a_checkpoint_deployed_by_rename_while_it_is_read(tmp_path):
    """Whoever has the old one open reads that to its end, though other tensors have other places in the new one."""
    path, new = tmp_path / "x.safetensors", tmp_path / "new"
    save_file({"a": torch.arange(64.0).view(8, 8), "b": torch.ones(8, 8)}, path)
    save_file({"a": torch.zeros(2, 8)}, new)
    with SafetensorsFile(path) as file:
        before = file.rows("a", 0, 4)
        new.replace(path)
        assert before.view("<f4").tolist() == list(range(32))
        assert file.rows("a", 4, 8).view("<f4").tolist() == list(range(32, 64))
        assert file.rows("b", 0, 8).view("<f4").tolist() == [1.0] * 64
    with SafetensorsFile(path) as file:
        assert file.rows("a", 0, 2).view("<f4").tolist() == [0.0] * 16
