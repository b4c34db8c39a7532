"""The engine where fixed costs show: a random GPT-2 of 12 layers and width 128, one text of 32 tokens."""

import torch
import transformers

import inscape as ins
from bench import by_hand
from bench.common import SEED, paired, rounds, same, set_up, write

READ = ["layers.*.resid_post", "layers.*.attn_out", "layers.*.mlp_out"]
SITE = "layers.6.resid_post"


def tiny() -> torch.nn.Module:
    """The module; random weights large enough that a direction changes what is generated."""
    torch.manual_seed(SEED)
    config = transformers.GPT2Config(
        n_layer=12,
        n_embd=128,
        n_head=4,
        vocab_size=1000,
        n_positions=128,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    module = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return module


def main() -> None:
    set_up()
    module, twin = tiny(), tiny()
    model = ins.open(module)
    ids = torch.randint(1, 1000, (1, 32), generator=torch.Generator().manual_seed(SEED))
    points = by_hand.gpt2_points(module)
    vector = torch.randn(128, generator=torch.Generator().manual_seed(SEED)) * 5
    edit = ins.add(ins.Direction(SITE, vector, source="random"))

    def forward(of: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return of(input_ids=ids, use_cache=False).logits

    def generate(of: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return of.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)

    def ours() -> torch.Tensor:
        return ins.generate(model, ids, edits=[edit]).tokens

    def by_hand_steered() -> torch.Tensor:
        return by_hand.steered(module.transformer.h[6], vector, lambda: generate(module))

    trace = ins.run(model, ids, read=READ, output=True)
    assert len(trace) == 36, f"{len(trace)} sites"
    same("logits with 36 sites read", trace.output.logits, forward(twin))
    for name, value in by_hand.read(points, lambda: forward(module)).items():
        same(name, trace[name], value)
    same("steered tokens", ours(), by_hand_steered()[:, 32:])
    same("plain generation afterwards", generate(module), generate(twin))

    rows = paired(
        "tiny GPT-2, 1x32",
        lambda: forward(twin),
        {
            "opened model, plain forward": (lambda: forward(module), 1.0),
            "36 sites and the logits": (lambda: ins.run(model, ids, read=READ, output=True), 1.2),
            "36 sites and the logits, hooks by hand": (lambda: by_hand.read(points, lambda: forward(module)), None),
            "nothing read": (lambda: ins.run(model, ids), None),
            "one middle site": (lambda: ins.run(model, ids, read=SITE), None),
        },
        samples=rounds(31), warm_up=10, inner=10, shape=[1, 32],
    )  # fmt: skip
    rows += paired(
        "tiny GPT-2, 40 tokens",
        lambda: generate(twin),
        {
            "steered": (ours, 1.03),
            "steered, hook by hand": (by_hand_steered, None),
        },
        samples=rounds(41), warm_up=3, shape=[1, 32, 40],
    )  # fmt: skip
    write("engine_tiny", rows, model="random GPT-2, 12 layers, width 128, vocabulary 1000", dtype="float32")


if __name__ == "__main__":
    main()
