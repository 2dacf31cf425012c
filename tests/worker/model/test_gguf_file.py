"""GGUF reading: sound files are read, and truncated, corrupt or hostile ones give a ModelError, never a crash."""

import random
import struct
import tracemalloc

import gguf
import numpy as np
import pytest

from argosy_api.errors import ModelError, ModelInvalidError, ModelNotFoundError, ModelUnsupportedError
from argosy_worker.models import load_model
from argosy_worker.models.gguf import TYPES, GgufFile


@pytest.fixture
def sound(gguf_type):
    rows = np.arange(12, dtype="<f4")
    return gguf_type(
        metadata={
            "general.architecture": (8, "llama"),
            "llama.block_count": (4, 3),
            "list.numbers": (9, (6, [1.5, 2.5])),
            "list.texts": (9, (8, ["a", "é", ""])),
            "list.nested": (9, (9, [(4, [1, 2]), (4, [])])),
            "flag": (7, True),
        },
        tensors={"a": ((3, 4), 0, rows.tobytes()), "b": ((2, 32), 8, bytes(range(68)))},
    )


@pytest.fixture
def read(tmp_path):
    def make(raw):
        path = tmp_path / "x.gguf"
        path.write_bytes(raw)
        return GgufFile(path)

    return make


def test_a_sound_file_is_read(sound, read):
    with read(sound.encode()) as file:
        assert file.metadata["general.architecture"] == "llama"
        assert file.metadata["list.numbers"].tolist() == [1.5, 2.5]
        assert file.metadata["list.texts"] == ["a", "é", ""]
        assert [x.tolist() for x in file.metadata["list.nested"]] == [[1, 2], []]
        assert file.metadata["flag"] is True
        assert file.tensors["a"].shape == (3, 4)
        assert file.rows("a", 0, 3).view("<f4").tolist() == list(range(12))
        assert file.tensors["b"].format == "Q8_0"
        assert file.rows("b", 0, 2).tobytes() == bytes(range(68))


def test_every_truncation_is_refused(sound, read):
    """A file cut at any byte before the end of its last tensor is invalid."""
    raw = sound.encode()
    end = len(raw) - (-68 % 32)
    for size in range(end):
        with pytest.raises(ModelInvalidError):
            read(raw[:size])
    read(raw[:end])


def test_random_damage_never_crashes(sound, read):
    """1,500 files with one to four changed bytes either read or give a ModelError."""
    rng = random.Random(1)
    raw = sound.encode()
    refused = 0
    for _ in range(1500):
        bad = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad) - 160)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        try:
            with read(bytes(bad)) as file:
                for name in file.tensors:
                    file.rows(name, 0, file.tensors[name].shape[0])
        except ModelError:
            refused += 1
    assert refused > 500


HEAD = b"GGUF" + struct.pack("<I", 3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"GGML" + bytes(60),
        HEAD + struct.pack("<QQ", 1 << 60, 0),
        HEAD + struct.pack("<QQ", 0, 1 << 60),
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1 << 62) + b"key",
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IQ", 8, (1 << 64) - 1),
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 10, 1 << 61),
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<IIQ", 9, 8, 1 << 23) + bytes(100),
        HEAD
        + struct.pack("<QQ", 0, 1)
        + struct.pack("<Q", 1)
        + b"k"
        + struct.pack("<IIQ", 9, 12, 1 << 23)
        + bytes(100),
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 99),
        HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"\xff" + struct.pack("<I", 0) + b"\x00",
    ],
)
def test_hostile_headers_are_refused_without_memory(raw, read):
    tracemalloc.start()
    try:
        with pytest.raises(ModelInvalidError):
            read(raw)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_deep_nesting_is_refused(read):
    level = struct.pack("<IQ", 9, 1)
    with pytest.raises(ModelInvalidError, match="nests"):
        read(HEAD + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1) + b"k" + struct.pack("<I", 9) + level * 5000)


@pytest.mark.parametrize(
    ("shape", "kind", "error"),
    [
        ((1 << 62, 1 << 62), 0, ModelInvalidError),
        ((0,), 0, ModelInvalidError),
        ((2, 33), 8, ModelInvalidError),
        ((1, 1, 1, 1, 1), 0, ModelInvalidError),
        ((32,), 4, ModelUnsupportedError),
        ((32,), 9999, ModelUnsupportedError),
    ],
)
def test_impossible_tensors_are_refused(gguf_type, read, shape, kind, error):
    with pytest.raises(error):
        read(gguf_type(tensors={"t": (shape, kind, bytes(64))}).encode())


def test_overlapping_tensors_are_refused(sound, read):
    raw = bytearray(sound.encode())
    at = raw.index(struct.pack("<Q", 1) + b"b" + struct.pack("<I", 2)) + 9 + 4 + 16 + 4
    assert struct.unpack_from("<Q", raw, at) == (64,)
    struct.pack_into("<Q", raw, at, 32)
    with pytest.raises(ModelInvalidError, match="overlap"):
        read(bytes(raw))


@pytest.mark.parametrize("alignment", [0, 3, 1 << 31])
def test_bad_alignment_is_refused(sound, read, alignment):
    sound.metadata["general.alignment"] = (4, alignment)
    with pytest.raises(ModelInvalidError, match="alignment"):
        read(sound.encode())


def test_other_versions_are_unsupported(sound, read):
    for version in (1, 4):
        sound.version = version
        with pytest.raises(ModelUnsupportedError, match=f"version {version}"):
            read(sound.encode())
    sound.version = int.from_bytes((3).to_bytes(4, "little"), "big")
    with pytest.raises(ModelUnsupportedError, match="big-endian"):
        read(sound.encode())


def written(path, tensors, *, alignment=None, endianess=gguf.GGUFEndian.LITTLE):
    """By the reference's writer: name -> (array, its type where the array does not say it)."""
    writer = gguf.GGUFWriter(str(path), "llama", endianess=endianess)
    if alignment:
        writer.add_custom_alignment(alignment)
    for name, (array, kind) in tensors.items():
        writer.add_tensor(name, array.copy(), raw_dtype=kind)  # it swaps bytes in place
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


SMALL = {"a": (np.arange(3, dtype=np.float32), None), "b": (np.arange(6, dtype=np.float32).reshape(2, 3), None)}


@pytest.mark.parametrize("alignment", [None, 64, 4096])
def test_alignment_is_that_of_the_file(tmp_path, alignment):
    with GgufFile(written(tmp_path / "x.gguf", SMALL, alignment=alignment)) as file:
        assert file.tensors["b"].offset - file.tensors["a"].offset == (alignment or 32)
        assert file.tensors["a"].offset % (alignment or 32) == 0
        assert file.rows("a", 0, 3).view("<f4").tolist() == [0, 1, 2]
        assert file.rows("b", 1, 2).view("<f4").tolist() == [3, 4, 5]


def test_big_endian_files_are_refused_by_name(tmp_path):
    """The reference's reader takes them, and leaves quantized numbers unswapped."""
    path = written(tmp_path / "x.gguf", SMALL, endianess=gguf.GGUFEndian.BIG)
    with pytest.raises(ModelUnsupportedError, match=r"'x\.gguf' is a big-endian GGUF file"):
        GgufFile(path)


def test_bf16_has_its_own_shape(tmp_path):
    """The reference's reader shows bytes, twice as many in a row."""
    values = np.array([[1.0, -2.5], [0.15625, 2.0**120], [-0.0, np.inf]], dtype=np.float32)
    raw = (values.view(np.uint32) >> 16).astype(np.uint16)  # all of them have no more bits
    path = written(tmp_path / "x.gguf", {"a": (raw.view(np.uint8), gguf.GGMLQuantizationType.BF16)})
    assert gguf.GGUFReader(path).tensors[0].data.shape == (3, 4)
    with GgufFile(path) as file:
        assert (file.tensors["a"].format, file.tensors["a"].shape) == ("BF16", (3, 2))
        found = file.matrix("a", 1, 3)
        assert np.asarray(found.dequantize()).view(np.uint32).tolist() == values[1:].copy().view(np.uint32).tolist()


def test_other_types_of_tensors_are_refused_by_name(gguf_type, read):
    """All that the reference knows: its names, where there is no reading them."""
    for kind in gguf.GGMLQuantizationType:
        block, width = gguf.GGML_QUANT_SIZES[kind]
        raw = gguf_type(tensors={"t": ((1, block), int(kind), bytes(width))}).encode()
        if int(kind) in TYPES:
            with read(raw) as file:
                assert (file.tensors["t"].format, file.tensors["t"].nbytes) == (kind.name, width)
            continue
        name = kind.name if int(kind) <= 41 else f"of GGML type {int(kind)}"
        with pytest.raises(ModelUnsupportedError, match=f"tensor 't' is {name}; supported are F32"):
            read(raw)


def test_a_vocabulary_is_read_in_large_pieces(gguf_type, tmp_path, monkeypatch):
    """A read for each of 49,152 texts would take longer than all weights."""
    texts = [f"token {i}" for i in range(20_000)]
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_type(metadata={"texts": (9, (8, texts))}).encode())
    reads, real = [], GgufFile._text
    monkeypatch.setattr(GgufFile, "_text", lambda self, limit, what: reads.append(what) or real(self, limit, what))
    with GgufFile(path) as file:
        assert file.metadata["texts"] == texts
    assert len(reads) <= 4


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError):
        GgufFile(tmp_path / "none.gguf")
    with pytest.raises(ModelNotFoundError):
        load_model(tmp_path / "none.gguf", device="cpu")


def test_a_truncated_model_is_refused_by_load_model(smollm_path, tmp_path):
    """The real file, cut in the middle, is refused before any weight is loaded; the message holds no path."""
    path = tmp_path / "cut.gguf"
    with smollm_path.open("rb") as file:
        path.write_bytes(file.read(40_000_000))
    with pytest.raises(ModelInvalidError, match="truncated") as caught:
        load_model(path, device="cpu")
    assert str(tmp_path) not in caught.value.message


def test_unknown_compute_and_device_are_refused(smollm_path):
    for wrong in ({"compute": "int3"}, {"device": "tpu"}, {"compute": "bf16", "device": "cpu"}):
        with pytest.raises(ModelUnsupportedError):
            load_model(smollm_path, **{"device": "cpu", **wrong})
