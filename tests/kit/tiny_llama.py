"""A small random Llama as transformers writes it, and the log-probabilities of a prompt by ours and by theirs."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice, StepBatch

VOCAB = 96
PROMPT = torch.randint(3, VOCAB, (100,), generator=torch.Generator().manual_seed(2)).tolist()


SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip


def write(folder, *, dtype=torch.float32, **shape):
    """A checkpoint in this folder, and the model in it."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE | shape)).eval().to(dtype)
    model.save_pretrained(folder)
    words = ["<unk>", "<s>", "</s>", *(chr(33 + i) for i in range(VOCAB - 4))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
    return model


def ours(loaded, prompt, *, chunk=1000, copies=1):
    """Of a loaded model: each token's log-probability after those before it, computed in chunks, beside copies of it."""
    runner, found = loaded.make_runner(32 * copies, 16), []
    for at in range(0, len(prompt), chunk):
        parts = [
            SequenceSlice(
                request_id=str(i), tokens=prompt[at : at + chunk], start=at, table=range(1 + 32 * i, 33 + 32 * i),
                sample_rows=range(0), params=SamplingParams(prompt_logprobs=0), prompt_targets=prompt[at + 1 : at + 1 + chunk],
            )
            for i in range(copies)
        ]  # fmt: skip
        found += runner.launch(StepBatch(parts)).result()[-1].prompt_logprobs
    return torch.tensor([score.logprob for score in found])


def theirs(model, prompt):
    """The same by transformers."""
    with torch.inference_mode():
        scores = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    return scores[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
