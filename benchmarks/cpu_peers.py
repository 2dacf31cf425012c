"""Libraries that `cpu.py` measures, each in a process of its own: a line of JSON in, a line of JSON out.

    python benchmarks/cpu_peers.py argosy|openvino|transformers|llama.cpp PATH THREADS [...]

Asked are {"prompts": [[id]], "new": n} -> {"times": [[s]]}, or {"score": [[id]]} -> {"logprobs": [x]}. llama.cpp serves
over HTTP instead.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Prompts = list[list[int]]
BLOCKS, CACHE_GB = 2048, 2


def answer(generate: Callable[[Prompts, int], list[list[float]]], score: Callable[[Prompts], list[float]]) -> None:
    """Answer line by line until the input ends."""
    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "score" in asked:
            print(json.dumps({"logprobs": score(asked["score"])}), flush=True)
        else:
            print(json.dumps({"times": generate(asked["prompts"], asked["new"])}), flush=True)


def argosy(path: str, threads: str) -> None:
    """Our engine without its server: scheduler and runner. No speculation; random prompts meet an empty cache."""
    from argosy_api.blocks import root_id
    from argosy_api.params import SamplingParams
    from argosy_api.resource import EngineSpec
    from argosy_worker.core.batch import SequenceSlice, StepBatch
    from argosy_worker.core.blocks import BlockPool
    from argosy_worker.core.request import Request
    from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
    from argosy_worker.models import load_model

    runner = load_model(Path(path), device="cpu", threads=int(threads)).make_runner(BLOCKS, 16)
    config = SchedulerConfig(max_batch_tokens=EngineSpec().max_batch_tokens)
    scheduler = Scheduler(config, BlockPool(BLOCKS))

    def generate(prompts: Prompts, new: int) -> list[list[float]]:
        begun = time.perf_counter()
        params = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
        times: dict[str, list[float]] = {}
        for i, prompt in enumerate(prompts):
            times[f"r{i}"] = []
            scheduler.add(
                Request(
                    request_id=f"r{i}", prompt=prompt, params=params, root=root_id("m"), block_size=16, arrival=0.0,
                    max_model_len=4096,
                )
            )  # fmt: skip
        while scheduler.has_work:
            step = scheduler.schedule(0.0)
            advances = scheduler.update(step, runner.launch(step.batch).result())
            now = time.perf_counter() - begun
            for advance in advances:
                times[advance.request.request_id] += [now] * len(advance.tokens)
        return list(times.values())

    def score(texts: Prompts) -> list[float]:
        found: list[float] = []
        for text in texts:
            whole = SequenceSlice(
                request_id="", tokens=text, start=0, table=range(1, -(-len(text) // 16) + 1), sample_rows=range(0),
                params=SamplingParams(prompt_logprobs=0), prompt_targets=text[1:],
            )  # fmt: skip
            (output,) = runner.launch(StepBatch([whole])).result()
            found += [one.logprob for one in output.prompt_logprobs]
        return found

    answer(generate, score)


def openvino(path: str, threads: str, sharing: str) -> None:
    """OpenVINO GenAI's continuous batching. `sharing`: 1 where it may keep what prompts have in common."""
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    scheduling = genai.SchedulerConfig()
    scheduling.cache_size, scheduling.enable_prefix_caching = CACHE_GB, sharing == "1"
    pipeline = genai.ContinuousBatchingPipeline(path, scheduling, "CPU", {"INFERENCE_NUM_THREADS": int(threads)})
    numbers = iter(range(1 << 60))

    def begin(prompt: list[int], config: Any) -> Any:
        return pipeline.add_request(next(numbers), ov.Tensor(np.array([prompt], dtype=np.int64)), config)

    def generate(prompts: Prompts, new: int) -> list[list[float]]:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        begun = time.perf_counter()
        handles = [begin(prompt, config) for prompt in prompts]
        times: list[list[float]] = [[] for _ in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            now = time.perf_counter() - begun
            for handle, its in zip(handles, times, strict=True):
                if handle.can_read():
                    its += [now for output in handle.read().values() for _ in output.generated_ids]
        return times

    def score(texts: Prompts) -> list[float]:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.echo, config.logprobs, config.do_sample = 1, True, 1, False
        found: list[float] = []
        for text in texts:
            handle = begin(text, config)
            told: list[float] = []
            while pipeline.has_non_finished_requests():
                pipeline.step()
                if handle.can_read():
                    told += [x for output in handle.read().values() for x in output.generated_log_probs]
            if len(told) < len(text):
                raise RuntimeError(f"{len(told)} log-probabilities for {len(text)} tokens")
            found += told[len(told) - len(text) : -1]  # the last one is of the token that was generated
        return found

    answer(generate, score)


def transformers(path: str, threads: str) -> None:
    """The transformers library in fp32, with the file's weights: what all others are measured against."""
    import torch
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    from argosy_worker.models.gguf import GgufFile
    from argosy_worker.models.gguf_weights import GgufWeights

    names = {
        "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
        "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down",
    }  # fmt: skip
    torch.set_num_threads(int(threads))
    with GgufFile(Path(path)) as file:
        source = GgufWeights(file)
        c = source.config
        config = LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.hidden, intermediate_size=c.ffn, num_hidden_layers=c.layers,
            num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim,
            max_position_embeddings=c.context_length, rms_norm_eps=c.rms_eps,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta}, tie_word_embeddings=True,
        )  # fmt: skip
        state = {"model.embed_tokens.weight": source.matrix("embed").dequantize()}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        state["model.norm.weight"] = source.vector("final_norm")
        for i in range(c.layers):
            at = f"model.layers.{i}"
            for theirs, ours in names.items():
                state[f"{at}.{theirs}.weight"] = source.matrix(f"layers.{i}.{ours}").dequantize()
            state[f"{at}.input_layernorm.weight"] = source.vector(f"layers.{i}.attn_norm")
            state[f"{at}.post_attention_layernorm.weight"] = source.vector(f"layers.{i}.mlp_norm")
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state, strict=True)

    @torch.inference_mode()
    def generate(prompts: Prompts, new: int) -> list[list[float]]:
        begun, cache, ids, times = time.perf_counter(), DynamicCache(), torch.tensor(prompts), []
        for _ in range(new):
            logits = model(ids, past_key_values=cache, logits_to_keep=1).logits
            ids = logits[:, -1:].argmax(-1)
            times.append(time.perf_counter() - begun)
        return [times] * len(prompts)

    @torch.inference_mode()
    def score(texts: Prompts) -> list[float]:
        found: list[float] = []
        for text in texts:
            ids = torch.tensor(text)
            scores = model(ids[None]).logits[0, :-1].log_softmax(-1)
            found += scores.gather(1, ids[1:, None])[:, 0].tolist()
        return found

    answer(generate, score)


def llama_cpp(path: str, threads: str, streams: str, context: str, port: str) -> None:
    """The server of the PyPI package xllamacpp, over HTTP until this process is ended."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = int(context), int(streams), 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.port, params.warmup, params.verbosity = int(port), True, 0
    server = xllamacpp.Server(params)
    print(json.dumps({"address": server.listening_address}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    {"argosy": argosy, "openvino": openvino, "transformers": transformers, "llama.cpp": llama_cpp}[sys.argv[1]](
        *sys.argv[2:]
    )
