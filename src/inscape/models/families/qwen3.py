"""Qwen 3: Llama's blocks with a norm on queries and keys, which the attention interface already shows."""

from inscape.models.families.llama import LLAMA_STACK
from inscape.models.family import Family

QWEN3 = Family(name="qwen3", model_types=("qwen3",), stacks=(LLAMA_STACK,))
