"""Write tests/worker/model/fixtures/pretokenizers.json: hostile texts, their ids by llama.cpp.

    python tools/make_pretokenizer_fixture.py

The reference is a prebuilt llama.cpp (PyPI xllamacpp), asked through its server's /tokenize on files that have nothing
but a vocabulary, one for each pre-tokenizer. It is trained on the very texts without any cut: its merges reach over
spaces, digits and marks, so whatever is cut elsewhere gives other ids.
"""

# ruff: noqa: Q003, RUF001  # test strings stay as they are

import json
import sys
import tempfile
import urllib.request
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from argosy_worker.models.gguf_pretokenizers import PRE_TOKENIZERS

OUT = Path(__file__).parents[1] / "tests/worker/model/fixtures/pretokenizers.json"
TEXTS = [
    "Hello, World! It's 2024-12-31, isn't it? I'LL GO; WE'VE GONE.",
    "  leading, trailing  \n\n\n  and   inner\t\ttabs \t \r\n\r\nCRLF \n",
    "1 12 123 1234 12345 123456 1234567 0x1F 3.14159 1,000,000 a1b22c333",
    "def f(x):\n    return x**2 + 1  # comment\n\n\nclass A:\n\tpass\n",
    "camelCaseWords XMLHttpRequest iPhone McDonald SHOUTING snake_case kebab-case",
    "$100 + 20% = ^~|` <a href=\"x\">y</a> {{[(#@&)]}} ... --- ??? !!!\n//\n/*x*/ /\n",
    "!word ?word .word (word) [word] #word @word /word \\word _word -word+word",
    "中文字符和English混合123，标点。「引用」ひらがなカタカナー 한국어 문장입니다!",
    "Привет мир, как дела? Ünïcödé ñandú façade Straße ÅNGSTRÖM",
    "हिन्दी में पाठ नमस्ते ภาษาไทย שלום עולם مرحبا بالعالم، كيف؟ ۱۲۳ ٤٥٦",
    "e\u0301 a\u0308o\u0302 n\u0303 \u1e69\u0323 \u0345\u0301",
    "🙂🙃👨‍👩‍👧‍👦🇩🇪 ½ ² ³ Ⅷ ① ㊿ ™ © € £ ¥",
    "nbsp\u00a0here\u2003em\u200bzero\u2028line\u3000wide\u0085nel",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE x's X'S 'sx ’s don’t",
    "a  b   c    d     e \n f \n\n g  \n  h\n\t i",
    "…。，、।۔،(paren) a|b",
    "ǅ ǈ ʰ ª º ŉ ſt ﬁ İi ıI",
    "\n", " ", "   ", "\n\n", "\t", " \n ", "a", " a", "a ", "''", "7", " 7",
]  # fmt: skip


def vocabulary():
    """Tokens and merges, trained on the texts without any cut."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1500, min_frequency=1, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [" ".join(merge) for merge in model["merges"]]


def write_model(path, pre, tokens, merges):
    """The least that llama.cpp loads."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "block_count": 1, "context_length": 512, "embedding_length": 32, "feed_forward_length": 32,
        "attention.head_count": 1, "attention.head_count_kv": 1,
    }.items():  # fmt: skip
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, *[1] * (len(tokens) - 1)])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 32), np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.zeros(32, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(path):
    """Ids of all texts."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 64, 1, 0
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    found = []
    for text in TEXTS:
        body = json.dumps({"content": text, "add_special": False}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            found.append(json.load(answer)["tokens"])
    return found


def main():
    """Write the fixture."""
    tokens, merges = vocabulary()
    ids = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in PRE_TOKENIZERS:
            path = Path(folder) / f"{name}.gguf"
            write_model(path, name, tokens, merges)
            try:
                ids[name] = llama_cpp(path)
            except Exception as error:  # noqa: BLE001  # a name that this llama.cpp does not know yet
                print(f"{name}: {error!r}", file=sys.stderr)
    kinds = {}
    for name, found in ids.items():
        kinds.setdefault(json.dumps(found), []).append(name)
    document = {
        "texts": TEXTS,
        "tokens": tokens,
        "merges": merges,
        "kinds": [{"names": names, "ids": json.loads(found)} for found, names in kinds.items()],
    }
    OUT.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
