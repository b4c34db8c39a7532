"""Every family of text decoders, spelled out: attention, state-space, hybrid and mixture-of-experts ones."""

from inscape.models.families.bloom import BLOOM
from inscape.models.families.cohere import COHERE
from inscape.models.families.deepseek_v3 import DEEPSEEK_V3
from inscape.models.families.falcon import FALCON, FALCON_SEQUENTIAL
from inscape.models.families.falcon_h1 import FALCON_H1
from inscape.models.families.gemma2 import GEMMA2
from inscape.models.families.gemma3 import GEMMA3
from inscape.models.families.gpt2 import GPT2, GPT_NEO
from inscape.models.families.gpt_neox import GPT_NEOX, GPT_NEOX_SEQUENTIAL
from inscape.models.families.gpt_oss import GPT_OSS
from inscape.models.families.gptj import GPTJ
from inscape.models.families.jamba import JAMBA
from inscape.models.families.llama import GRANITE, LLAMA
from inscape.models.families.mamba import MAMBA
from inscape.models.families.mamba2 import MAMBA2
from inscape.models.families.mixtral import MIXTRAL
from inscape.models.families.olmo2 import OLMO2
from inscape.models.families.olmoe import OLMOE
from inscape.models.families.opt import OPT, OPT_POST_NORM
from inscape.models.families.phi import PHI
from inscape.models.families.phi3 import PHI3
from inscape.models.families.qwen3 import QWEN3
from inscape.models.families.qwen3_moe import QWEN2_MOE, QWEN3_MOE
from inscape.models.families.qwen3_next import QWEN3_NEXT
from inscape.models.families.recurrent_gemma import RECURRENT_GEMMA
from inscape.models.families.rwkv import RWKV
from inscape.models.families.starcoder2 import STARCODER2
from inscape.models.families.zamba2 import ZAMBA2
from inscape.models.family import Family

DECODERS: tuple[Family, ...] = (
    GPT2,
    GPT_NEO,
    GPT_NEOX,
    GPT_NEOX_SEQUENTIAL,
    GPTJ,
    OPT,
    OPT_POST_NORM,
    BLOOM,
    FALCON,
    FALCON_SEQUENTIAL,
    LLAMA,
    GRANITE,
    QWEN3,
    GEMMA2,
    GEMMA3,
    PHI,
    PHI3,
    COHERE,
    OLMO2,
    STARCODER2,
    DEEPSEEK_V3,
    MIXTRAL,
    OLMOE,
    QWEN3_MOE,
    QWEN2_MOE,
    GPT_OSS,
    MAMBA,
    MAMBA2,
    RECURRENT_GEMMA,
    RWKV,
    JAMBA,
    ZAMBA2,
    FALCON_H1,
    QWEN3_NEXT,
)
