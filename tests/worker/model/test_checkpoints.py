"""Small random checkpoints of each family, written by transformers, give transformers' logits; bad folders are refused."""

import io
import json
import pathlib
import shutil
import struct
from contextlib import ExitStack

import psutil
import pytest
import sentencepiece
import small_models
import torch
from tokenizers import AddedToken, Tokenizer

from argosy_api.errors import ModelInvalidError, ModelNotFoundError, ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker.compute.quant.fp32_cpu import Fp32Tiles
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.models import load_model
from argosy_worker.models.build import assemble, open_model

VOCAB = small_models.VOCAB


@pytest.fixture
def checkpoint(tmp_path):
    def make(*, dtype=torch.float32, shards=False):
        model = small_models.model("llama")
        folder = tmp_path / "model"
        model.to(dtype).save_pretrained(folder, max_shard_size="60KB" if shards else "5GB")
        small_models.write_tokenizer(folder)
        return folder, model.float()

    return make


def ours(loaded, prompt):
    runner = loaded.make_runner(32, 16)
    slices = [
        SequenceSlice(
            request_id="r", tokens=prompt[at : at + 70], start=at, table=range(1, 33), sample_rows=range(0), params=SamplingParams(prompt_logprobs=0),
            prompt_targets=prompt[at + 1 : at + 71],
        )
        for at in range(0, len(prompt), 70)
    ]  # fmt: skip
    return torch.tensor(
        [score.logprob for s in slices for score in runner.launch(StepBatch([s])).result()[0].prompt_logprobs]
    )


def theirs(model, prompt):
    with torch.inference_mode():
        scores = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    return scores[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]


PROMPT = torch.randint(3, VOCAB, (200,), generator=torch.Generator().manual_seed(2)).tolist()


def test_facts_of_a_checkpoint(checkpoint):
    folder, model = checkpoint()
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=2e-4, rtol=0)
    assert loaded.facts.quantization == "F32"
    assert (loaded.facts.bos_token_id, loaded.facts.eos_token_ids, loaded.facts.add_bos) == (1, (2,), False)


@pytest.mark.parametrize(("special", "ends"), [(True, (2, 95)), (False, (2,))])
def test_a_special_token_that_ends_turns_by_its_text_is_an_end(checkpoint, special, ends):
    """As in a GGUF file of the same model; an ordinary token of that text is text."""
    folder, _ = checkpoint()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=special)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert load_model(folder, compute="fp32", device="cpu", threads=1).facts.eos_token_ids == ends


def test_shards_and_bf16(checkpoint):
    folder, model = checkpoint(dtype=torch.bfloat16, shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 2
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    assert loaded.facts.quantization == "BF16"
    # transformers' rotary frequencies went through bf16, too
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=2e-3, rtol=0)


def test_fingerprints_tell_models_apart(checkpoint):
    folder, _ = checkpoint()
    first = load_model(folder, compute="fp32", device="cpu").facts.fingerprint
    for threads in (1, 3):  # replicas on nodes of different size are alike
        assert load_model(folder, compute="fp32", device="cpu", threads=threads).facts.fingerprint == first
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert load_model(folder, compute="fp32", device="cpu").facts.fingerprint != first


def test_chat_template_file_wins(checkpoint):
    folder, _ = checkpoint()
    assert load_model(folder, compute="fp32", device="cpu").facts.chat_template == "from the settings"
    (folder / "chat_template.jinja").write_text("from the file")
    assert load_model(folder, compute="fp32", device="cpu").facts.chat_template == "from the file"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "mamba"}, ModelUnsupportedError),
        ({"rope_parameters": {"rope_type": "made-up", "rope_theta": 1e4, "factor": 4.0}}, ModelUnsupportedError),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ModelInvalidError),
        (
            {"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}},
            ModelInvalidError,
        ),
        (
            {"rope_parameters": {"rope_type": "longrope", "long_factor": 3, "short_factor": [1.0] * 8}},
            ModelInvalidError,
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ModelUnsupportedError),
        ({"rope_parameters": {"rope_type": "linear", "factor": -1.0}}, ModelInvalidError),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.2}}, ModelInvalidError),
        ({"sliding_window": 64}, ModelUnsupportedError),
        ({"model_type": "gemma3_text", "layer_types": ["chunked_attention"] * 2}, ModelUnsupportedError),
        ({"model_type": "gemma3_text", "num_hidden_layers": 10**9}, ModelInvalidError),
        ({"model_type": "gemma2", "use_bidirectional_attention": True, "hidden_act": None}, ModelUnsupportedError),
        ({"model_type": "mixtral", "num_local_experts": 10**6}, ModelInvalidError),
        ({"model_type": "mixtral", "num_local_experts": 1}, ModelInvalidError),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, ModelInvalidError),
        ({"model_type": "qwen3_moe", "num_experts": 4, "decoder_sparse_step": 0}, ModelInvalidError),
        ({"rms_norm_eps": True}, ModelInvalidError),
        ({"tie_word_embeddings": 1}, ModelInvalidError),
        ({"hidden_act": "gelu"}, ModelUnsupportedError),
        ({"quantization_config": {"quant_method": "gptq"}}, ModelUnsupportedError),
        ({"hidden_size": "64"}, ModelInvalidError),
        ({"hidden_size": None}, ModelInvalidError),
        ({"hidden_size": 128}, ModelInvalidError),
        ({"num_attention_heads": 0}, ModelInvalidError),
        ({"num_key_value_heads": 3}, ModelInvalidError),
        ({"num_hidden_layers": 3}, ModelInvalidError),
        ({"num_hidden_layers": 1}, ModelUnsupportedError),
        ({"num_hidden_layers": 10**9}, ModelInvalidError),
        ({"vocab_size": 10}, ModelInvalidError),
        ({"eos_token_id": 5000}, ModelInvalidError),
    ],
)
def test_bad_configurations_are_refused(checkpoint, change, error):
    folder, _ = checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error):
        load_model(folder, compute="fp32", device="cpu")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(checkpoint, missing):
    folder, _ = checkpoint()
    (folder / missing).unlink()
    with pytest.raises(ModelNotFoundError, match=missing):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "shard", ["../model-1.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", "", 7, ".safetensors"]
)
def test_shard_names_cannot_leave_the_folder(checkpoint, shard):
    folder, _ = checkpoint(shards=True)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(ModelInvalidError, match="plain name"):
        load_model(folder, device="cpu")


def test_damaged_files_are_refused(checkpoint):
    folder, _ = checkpoint()
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for bad in (
        b"",
        raw[:4],
        raw[:5000],
        raw[:-1],
        struct.pack("<Q", 1 << 62) + raw[8:],
        b"\x10" + bytes(7) + b"{" * 200,
    ):
        path.write_bytes(bad)
        with pytest.raises(ModelInvalidError):
            load_model(folder, device="cpu")
    path.write_bytes(raw)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / name, folder / "kept")
        for bad in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000):
            (folder / name).write_bytes(bad)
            with pytest.raises(ModelInvalidError):
                load_model(folder, device="cpu")
        shutil.copy(folder / "kept", folder / name)
    load_model(folder, device="cpu")


def test_the_context_that_a_file_claims_costs_nothing(checkpoint):
    """A claim of 2**24 positions takes no memory; a runner of a few blocks answers as before."""
    folder, model = checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 1 << 24}))
    before = psutil.Process().memory_info().rss
    loaded = load_model(folder, compute="fp32", device="cpu", threads=2)
    assert psutil.Process().memory_info().rss - before < 1 << 30  # tables of all positions would take 2 GiB
    assert loaded.facts.context_length == 1 << 24
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=2e-4, rtol=0)


def test_an_open_model_with_kernels_of_choice(checkpoint):
    """What is assembled outlives the files, and its linears are of the kernels that were given."""
    folder, _ = checkpoint()
    with ExitStack() as stack:
        model = assemble(open_model(folder, stack), compute="fp32", device="cpu", threads=1, kernels=(Fp32Tiles(),))
    assert {role: report.split()[0] for role, report in model.kernels.items() if role in {"qkv", "head"}} == {
        "qkv": "fp32-tiles",
        "head": "fp32-tiles",
    }
    assert model.make_runner(2, 16).launch(StepBatch([])).result() == []


def test_a_sentencepiece_model_stands_in_for_tokenizer_json(checkpoint):
    """Its own ids, behind the token that begins a text."""
    folder, _ = checkpoint()
    out, words = io.BytesIO(), ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(words[i:]) for i in range(9)]), model_writer=out, model_type="bpe", vocab_size=50, minloglevel=5
    )  # fmt: skip
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(out.getvalue())
    facts = load_model(folder, compute="fp32", device="cpu", threads=1).facts
    found = Tokenizer.from_str(facts.tokenizer_json.decode()).encode("five seven").ids
    assert found == [1, *sentencepiece.SentencePieceProcessor(model_proto=out.getvalue()).encode("five seven")]
    assert (facts.bos_token_id, facts.eos_token_ids, facts.add_bos) == (1, (2,), True)


@pytest.mark.parametrize(("unknown", "ids"), [("</s>", []), ("<s>", []), ("<unk>", [0])])
def test_no_text_becomes_a_token_that_begins_or_ends_texts(checkpoint, unknown, ids):
    """Where the tokenizer has that one for what it does not know, as converters of GGUF files write it."""
    folder, _ = checkpoint()
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["model"]["unk_token"] = unknown
    path.write_text(json.dumps(document))
    with ExitStack() as stack:
        facts = open_model(folder, stack).tokenizer
    found = Tokenizer.from_str(facts.tokenizer_json.decode())
    a, b = found.token_to_id("a"), found.token_to_id("b")
    assert found.encode("a\x04b").ids == [a, *ids, b]


class Trap:
    """What a pickle does when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model-00001-of-00001.safetensors"])
def test_a_pickle_is_never_loaded_whatever_its_name(checkpoint, tmp_path, name):
    """torch.load takes a file of either name."""
    folder, _ = checkpoint()
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Trap(tmp_path / "sprung")}, folder / name)
    if name.startswith("model-"):
        index = {"weight_map": {"model.norm.weight": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ModelInvalidError, ModelNotFoundError)):
        load_model(folder, device="cpu")
    assert not (tmp_path / "sprung").exists()
