"""Steering in the files of other programs: what they hold, and what of an edit they can say.

| program | write | read |
|---|---|---|
| llama.cpp, repeng (GGUF control vector) | `ins.Directions.save_gguf` | `ins.Directions.load_gguf` |
| lm-evaluation-harness, model type `steered` (.pt) | `lm_eval.save_lm_eval` | `lm_eval.load_lm_eval` |
| vllm-lens (`apply_steering_vectors`, JSON) | `vllm_lens.save_vllm_lens` | `vllm_lens.load_vllm_lens` |
"""
