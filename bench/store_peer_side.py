"""The other side of `bench.store_peer`, run by the Python of SAELens' own environment; imports nothing of ours.

Told by one line of JSON what to record, it opens the model once, then records once for every line it reads: the folder
to write to. It answers each with a line of JSON: the CPU seconds of `run`, or the error.
"""

import json
import sys
import time


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what the library prints is no answer
    asked = json.loads(sys.stdin.readline())
    import torch
    from datasets import Dataset
    from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig, __version__

    torch.set_num_threads(asked["threads"])
    rows, context = len(asked["ids"]), len(asked["ids"][0])
    config = CacheActivationsRunnerConfig(
        dataset_path="", model_name=asked["model"], model_class_name="AutoModelForCausalLM", hook_name=asked["hook"],
        model_batch_size=asked["batch"], d_in=asked["width"], context_size=context, training_tokens=rows * context,
        buffer_size_gb=asked["buffer_tokens"] * asked["width"] * 4 / 1e9, dtype="float32", device="cpu", shuffle=False,
        streaming=False, prepend_bos=False, new_cached_activations_path="unused",
    )  # fmt: skip
    runner = CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"input_ids": asked["ids"]}))
    print(json.dumps({"sae_lens": __version__, "buffers": config.n_buffers}), file=answers, flush=True)
    for line in sys.stdin:  # at the end of the data its store begins them again
        runner.cfg.new_cached_activations_path = line.strip()
        start = time.process_time()
        try:
            runner.run()
            answer = {"seconds": time.process_time() - start}
        except Exception as error:  # what it says is the result
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
