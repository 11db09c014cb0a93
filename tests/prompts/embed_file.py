"""Embed the prompts of two files in a process of its own, to be killed or measured: prints its peak memory in MiB.

Arguments: model folder, training file, held-out file, output folder, number of processes, batches to read.
"""

import resource
import signal
import sys
from pathlib import Path

import torch

from srpo.artifacts import Weights
from srpo.config import ModelConfig, PromptsConfig
from srpo.hub import fetch
from srpo.prompts import embed_prompts, load_prompt_set

LENGTH = 32  # tokens


def main() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
    folder, train, held_out, output_dir, num_processes, num_reads = sys.argv[1:]
    weights = fetch(folder, "model")
    prompts = PromptsConfig(train=train, held_out=held_out, num_processes=int(num_processes))
    model = ModelConfig(source=folder, height=32, width=32, max_sequence_length=LENGTH)
    sets = embed_prompts(model, prompts, Weights(model=weights, reward=weights), Path(output_dir))
    texts, embeddings = load_prompt_set(sets.train)
    generator = torch.Generator().manual_seed(0)
    for _ in range(int(num_reads)):
        embeddings.select(torch.randint(len(texts), (32,), generator=generator).tolist())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak {peak} MiB, {sets.train.bytes_per_prompt} bytes per prompt")  # noqa: T201


if __name__ == "__main__":
    main()
