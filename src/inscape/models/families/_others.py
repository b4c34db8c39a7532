"""Every family that is not a plain decoder, spelled out."""

from inscape.models.families.bart import BART
from inscape.models.families.bert import BERT, ROBERTA
from inscape.models.families.clip import CLIP, CLIP_TEXT, CLIP_VISION
from inscape.models.families.convnext import CONVNEXT
from inscape.models.families.dinov2 import DINOV2, DINOV3_VIT
from inscape.models.families.distilbert import DISTILBERT
from inscape.models.families.efficientnet_lite import EFFICIENTNET_LITE
from inscape.models.families.gemma3_vlm import GEMMA3_VLM
from inscape.models.families.llava import LLAVA
from inscape.models.families.modernbert import MODERNBERT
from inscape.models.families.qwen2_5_vl import QWEN2_5_VL, QWEN2_5_VL_TEXT, QWEN2_5_VL_VISION
from inscape.models.families.resnet import RESNET
from inscape.models.families.siglip import SIGLIP, SIGLIP_TEXT, SIGLIP_VISION
from inscape.models.families.t5 import T5
from inscape.models.families.vit import VIT
from inscape.models.families.wav2vec2 import HUBERT, HUBERT_STABLE, WAV2VEC2, WAV2VEC2_STABLE
from inscape.models.families.whisper import WHISPER
from inscape.models.family import Family

OTHERS: tuple[Family, ...] = (
    BERT,
    ROBERTA,
    MODERNBERT,
    DISTILBERT,
    T5,
    BART,
    WHISPER,
    VIT,
    DINOV2,
    DINOV3_VIT,
    CLIP,
    CLIP_TEXT,
    CLIP_VISION,
    SIGLIP,
    SIGLIP_TEXT,
    SIGLIP_VISION,
    CONVNEXT,
    RESNET,
    EFFICIENTNET_LITE,
    LLAVA,
    GEMMA3_VLM,
    QWEN2_5_VL,
    QWEN2_5_VL_TEXT,
    QWEN2_5_VL_VISION,
    WAV2VEC2,
    WAV2VEC2_STABLE,
    HUBERT,
    HUBERT_STABLE,
)
