"""A sweep gives the obvious loop's numbers, says what it compared, and refuses what has no answer."""

import pytest
import torch

import inscape as ins
from tests.common.small import direction, gpt2
from tests.common.tokenizers import word_tokenizer
from tests.common.zoo import DECODER_ZOO, build, is_causal_text

CLEAN = torch.tensor([[5, 9, 13, 17, 21, 25, 29, 33]])
CORRUPTED = torch.tensor([[5, 9, 13, 40, 21, 25, 41, 33]])
METRIC = ins.logit_diff(3, 7)


def loop(model, clean, corrupted, sites, metric, positions):
    """[site, position], one run a cell."""
    source = ins.run(model, clean, read=sites)
    rows = []
    for site in sites:
        for p in positions:
            edits = [ins.patch(site, source[site], at=p)]
            rows.append(metric(ins.run(model, corrupted, edits=edits).output.logits[0, -1]))
    return torch.stack(rows).reshape(len(sites), len(positions))


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3_text", "mamba", "bloom", "gpt_neo", "qwen3_next", "mixtral"])
def test_patching_every_place_is_the_loop(name):
    model = ins.open(build(name))
    sites = [s for s in map(str, model.sites) if s.endswith(("resid_post", "attn_out", "mlp_out"))]
    grid = ins.sweep(model, CLEAN, CORRUPTED, sites=sites, metric=METRIC)
    wanted = loop(model, CLEAN, CORRUPTED, sites, lambda x: x[3] - x[7], range(8))
    torch.testing.assert_close(grid.values, wanted, rtol=1e-4, atol=1e-4)
    assert grid.sites == tuple(sites)
    assert grid.positions == tuple(range(8))
    assert grid.cost.skipped >= 3 * len(sites)  # before the first token that differs nothing can change
    assert "predicted" in str(grid.cost)


def test_nothing_patched_is_0_and_everything_patched_is_1():
    model = gpt2()
    grid = ins.sweep(model, CLEAN, CORRUPTED, metric=METRIC, positions=None)
    torch.testing.assert_close(grid.normalised(), torch.ones(3), rtol=1e-4, atol=1e-4)
    early = ins.sweep(model, CLEAN, CORRUPTED, metric=METRIC, positions=[0, 1, 2])
    assert float(early.normalised().abs().max()) == 0
    itself = [ins.patch("layers.1.resid_post", ins.run(model, CORRUPTED, read="*"))]
    alone = ins.sweep(model, CLEAN, CORRUPTED, edits=[itself], metric=METRIC)
    torch.testing.assert_close(alone.normalised(), torch.zeros(1), rtol=0, atol=1e-5)


def test_noise_is_denoise_with_the_prompts_exchanged():
    model = gpt2()
    noise = ins.sweep(model, CLEAN, CORRUPTED, metric=METRIC, direction="noise")
    other = ins.sweep(model, CORRUPTED, CLEAN, metric=METRIC)
    torch.testing.assert_close(noise.values, other.values)
    torch.testing.assert_close(noise.base, other.base)
    assert noise.other is not None
    torch.testing.assert_close(noise.other, other.other)


@pytest.mark.parametrize("site", ["attn.z", "attn.q", "attn.v", "attn.pattern", "attn.head_out"])
def test_single_heads_are_patched_alone(site):
    model = ins.open(build("llama"))
    sites = [f"layers.{i}.{site}" for i in range(3)]
    grid = ins.sweep(model, CLEAN, CORRUPTED, sites=sites, heads="all", positions=[-1, 3], metric=METRIC)
    heads = 2 if site == "attn.v" else 4
    assert grid.axes == ("site", "position", "head")
    assert grid.values.shape == (3, 2, heads)
    source = ins.run(model, CLEAN, read=sites)
    for i, j, h in ((0, 0, 1), (2, 1, heads - 1), (1, 0, 0)):
        edit = ins.patch(sites[i], source[sites[i]], at=[-1, 3][j], heads=h)
        x = ins.run(model, CORRUPTED, edits=[edit]).output.logits[0, -1]
        torch.testing.assert_close(grid.values[i, j, h], x[3] - x[7], rtol=1e-4, atol=1e-4)


def test_pairs_of_unlike_length_are_patched_by_role():
    model = gpt2()
    clean = [[5, 9, 13, 17, 21], [6, 10, 14, 18, 22, 26, 30]]
    corrupted = [[5, 9, 40, 17, 21], [6, 10, 14, 41, 22, 26, 30]]
    roles = {"changed": torch.tensor([[2], [3]]), "end": torch.tensor([[4], [6]])}
    grid = ins.sweep(model, clean, corrupted, positions=roles, metric=ins.logit_diff([3, 4], [7, 8]))
    assert grid.positions == ("changed", "end")
    assert grid.per_pair.shape == (2, 3, 2)
    for r in range(2):
        alone = ins.sweep(model, [clean[r]], [corrupted[r]], metric=ins.logit_diff(3 + r, 7 + r))
        at = [int(roles["changed"][r, 0]), int(roles["end"][r, 0])]
        torch.testing.assert_close(grid.per_pair[r], alone.values[:, at], rtol=1e-4, atol=1e-4)
    interval = grid.interval(n=200)
    assert bool((interval.low <= grid.values + 1e-6).all())


def test_a_role_may_stand_elsewhere_in_the_other_prompt():
    model = gpt2()
    clean, corrupted = [[5, 9, 13, 17, 21]], [[5, 40, 9, 13, 17, 21]]
    roles = {"word": (torch.tensor([[3]]), torch.tensor([[2]]))}  # position 3 of what is edited, 2 of the source
    grid = ins.sweep(model, clean, corrupted, positions=roles, metric=METRIC, sites="layers.1.resid_post")
    value = ins.run(model, clean, read="layers.1.resid_post")["layers.1.resid_post"][0, 2]
    edit = ins.edit("layers.1.resid_post", lambda x: value.expand_as(x), at=3)
    x = ins.run(model, corrupted, edits=[edit]).output.logits[0, -1]
    torch.testing.assert_close(grid.values[0, 0], x[3] - x[7], rtol=1e-4, atol=1e-4)


def test_every_metric_is_what_its_formula_says():
    model = gpt2()
    source = ins.run(model, CLEAN, read="layers.1.resid_post", output=True)
    edit = ins.patch("layers.1.resid_post", source["layers.1.resid_post"], at=6)
    logits = ins.run(model, CORRUPTED, edits=[edit]).output.logits[0]
    base, clean, last = ins.run(model, CORRUPTED).output.logits[0, -1], source.output.logits[0, -1], logits[-1]
    p, q = clean.log_softmax(-1), base.log_softmax(-1)
    wanted = {
        ins.probability(3): last.softmax(-1)[3],
        ins.log_prob(3): last.log_softmax(-1)[3],
        ins.rank(3): (last > last[3]).sum().float(),
        ins.kl(): (p.exp() * (p - last.log_softmax(-1))).sum(),
        ins.kl("base"): (q.exp() * (q - last.log_softmax(-1))).sum(),
        ins.loss(): torch.nn.functional.cross_entropy(logits[:-1], CORRUPTED[0, 1:]),
        ins.accuracy(int(last.argmax())): torch.tensor(1.0),
        ins.accuracy([3, 7], among=[3, 7, 11]): torch.tensor(float(last[[3, 7]].max() > last[11])),
    }
    for metric, value in wanted.items():
        grid = ins.sweep(model, CLEAN, CORRUPTED, sites="layers.1.resid_post", positions=[6], metric=metric)
        torch.testing.assert_close(grid.values[0, 0], value, rtol=1e-4, atol=1e-4, msg=lambda m, n=metric: f"{n}: {m}")

    def own(x):
        return x[:, 3] * 2

    grid = ins.sweep(model, CLEAN, CORRUPTED, sites="layers.1.resid_post", positions=[6], metric=own)
    torch.testing.assert_close(grid.values[0, 0], last[3] * 2, rtol=1e-4, atol=1e-4)
    assert grid.metric == "own()"


@pytest.mark.parametrize("name", [n for n in DECODER_ZOO if is_causal_text(n)])
def test_the_loss_of_every_cell_is_the_loops_on_every_decoder(name):
    model = ins.open(build(name))
    sites = [s for s in map(str, model.sites) if s.endswith(("layers.0.resid_post", "layers.1.resid_post", "mlp_out"))]
    sites = sites[:3]
    grid = ins.sweep(model, CLEAN, CORRUPTED, sites=sites, positions=[2, 3, 6, 7], metric=ins.loss())
    source = ins.run(model, CLEAN, read=sites)
    for i, site in enumerate(sites):
        for j, p in ((0, 2), (1, 3), (2, 6), (3, 7)):
            logits = ins.run(model, CORRUPTED, edits=[ins.patch(site, source[site], at=p)]).output.logits[0]
            wanted = torch.nn.functional.cross_entropy(logits[:-1].float(), CORRUPTED[0, 1:])
            torch.testing.assert_close(grid.values[i, j], wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("way", ["packed", "rows", "batched", "one by one"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_of_padded_rows_is_that_of_each_alone_every_way(side, way):
    model = gpt2()
    clean, bad = [[5, 9, 13, 17, 21], [6, 10, 14, 18, 22, 26, 30]], [[5, 9, 40, 17, 21], [6, 10, 14, 41, 22, 26, 30]]
    roles = {"changed": torch.tensor([[2], [3]]), "end": [-1]}
    how = {"sites": "layers.*.mlp_out", "metric": ins.loss(), "positions": roles}
    grid = ins.sweep(model, clean, bad, padding_side=side, way=way, **how)
    for i, at in enumerate((2, 3)):
        alone = ins.sweep(model, [clean[i]], [bad[i]], **how | {"positions": [at, -1]})
        torch.testing.assert_close(grid.per_pair[i], alone.per_pair[0], rtol=1e-4, atol=0)
        torch.testing.assert_close(grid.base[i], alone.base[0], rtol=1e-4, atol=0)


def test_for_a_loss_only_what_an_edit_changed_goes_through_the_head():
    model = gpt2()
    ins.sweep(model, CLEAN, CORRUPTED, metric=ins.loss(), positions=[3])  # the head has been tried
    seen = []
    with model.module.lm_head.register_forward_hook(lambda m, args, out: seen.append(out.shape[:-1].numel())):
        grid = ins.sweep(model, CLEAN, CORRUPTED, metric=ins.loss())
    assert grid.cost.runs == 3 * 5
    # both prompts: 7 each; positions 3 to 6 and all after them, twice; and in the last layer each of them alone
    assert sum(seen) == 2 * 7 + 2 * (4 + 3 + 2 + 1) + 4


def test_other_edits_and_lists_of_edits_are_swept_too():
    model = gpt2()
    grid = ins.sweep(model, CLEAN, sites="layers.*.mlp_out", edit=ins.ablate, positions=[3, -1], metric=METRIC)
    x = ins.run(model, CLEAN, edits=[ins.ablate("layers.2.mlp_out", at=-1)]).output.logits[0, -1]
    torch.testing.assert_close(grid.values[2, 1], x[3] - x[7], rtol=1e-4, atol=1e-4)
    plans = [ins.skip("layers.1"), [ins.add(direction(), 2.0), ins.ablate("layers.2.mlp_out")]]
    listed = ins.sweep(model, CLEAN, edits=plans, metric=METRIC)
    assert listed.axes == ("edit",)
    x = ins.run(model, CLEAN, edits=plans[1]).output.logits[0, -1]
    torch.testing.assert_close(listed.values[1], x[3] - x[7], rtol=1e-4, atol=1e-4)


def test_encoders_are_swept_over_whole_rows():
    model = ins.open(build("bert"))
    metric = ins.logit_diff(3, 7)
    grid = ins.sweep(model, CLEAN, CORRUPTED, sites="layers.1.resid_post", metric=metric)
    wanted = loop(model, CLEAN, CORRUPTED, ["layers.1.resid_post"], lambda x: x[3] - x[7], range(8))
    torch.testing.assert_close(grid.values, wanted, rtol=1e-4, atol=1e-4)


def test_texts_take_answers_as_texts():
    words = ["red", "green", "blue", "black", "white"]
    tokenizer = word_tokenizer(words)
    torch.manual_seed(0)
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = ins.open(transformers.LlamaForCausalLM(config).eval(), tokenizer=tokenizer)
    a, b = " ".join(words[:4]), " ".join([words[0], words[4], *words[2:4]])
    grid = ins.sweep(model, a, b, metric=ins.logit_diff(words[2], words[3]))
    assert len(grid.tokens) == grid.values.shape[1]
    with pytest.raises(ins.TokenError, match=r"answer='.*' is 2 tokens here: .*\n  choose an answer of one token"):
        ins.sweep(model, a, b, metric=ins.logit_diff(f"{words[2]} {words[3]}", words[3]))


BAD = [
    ({"clean": CLEAN, "corrupted": CLEAN}, ins.InputError, "pair 0: the clean and the corrupted prompt are the same"),
    ({"corrupted": CORRUPTED[:, :6]}, ins.TokenError, "the two prompts have 8 and 6 tokens"),
    ({"corrupted": CORRUPTED.repeat(2, 1)}, ins.InputError, "1 clean prompts and 2 corrupted ones"),
    ({"corrupted": None}, ins.InputError, "sweep compares two prompts, and there is one here"),
    ({"metric": None}, ins.InputError, "sweep needs a metric"),
    ({"metric": 3}, ins.InputError, "metric=3 is no metric"),
    ({"metric": lambda x: x.sum()}, ins.InputError, "it must return one number a row"),
    ({"metric": ins.logit_diff(3, 64)}, ins.TokenError, "the vocabulary has ids from 0 to 63"),
    ({"metric": ins.logit_diff([3, 4], 7)}, ins.TokenError, "2 answers for 1 rows"),
    ({"metric": ins.logit_diff("Paris", 7)}, ins.TokenError, "this model has no tokenizer; give token ids"),
    ({"positions": [9]}, ins.TokenError, "position 9 is not in every prompt"),
    ({"positions": {"x": torch.zeros(3, 1).long()}}, ins.TokenError, "the positions of 'x' are a table"),
    ({"heads": "all"}, ins.ShapeError, "layers.0.resid_post has no heads"),
    ({"sites": "layers.*.resid_pst"}, ins.SiteError, "no site matches"),
    ({"direction": "both"}, ins.InputError, "it can be denoise or noise"),
    ({"edit": lambda site, **places: 3}, ins.EditError, "edit= returned int for layers.0.resid_post"),
    ({"metric": ins.kl(), "corrupted": None, "edit": ins.ablate}, ins.InputError, "needs a second prompt"),
]


@pytest.mark.parametrize(("how", "error", "said"), BAD, ids=[said for _, _, said in BAD])
def test_what_cannot_be_swept_says_why(how, error, said):
    given = {"clean": CLEAN, "corrupted": CORRUPTED, "metric": METRIC} | how
    with pytest.raises(error, match=said):
        ins.sweep(gpt2(), given.pop("clean"), given.pop("corrupted"), **given)


def test_pairs_that_are_no_contrast_are_named():
    grid = ins.sweep(gpt2(), CLEAN, CORRUPTED, metric=lambda x: torch.zeros(len(x)))
    with pytest.raises(ins.InputError, match=r"1 of 1 pairs are no contrast: .* differs by less than 0.001"):
        grid.normalised()
    with pytest.raises(ins.InputError, match="needs at least two pairs"):
        grid.interval()
    alone = ins.sweep(gpt2(), CLEAN, edit=ins.ablate, sites="layers.*.mlp_out", metric=METRIC)
    with pytest.raises(ins.InputError, match="no second run to measure against"):
        alone.normalised()


def test_a_model_without_attention_has_no_heads_to_sweep():
    model = ins.open(build("mamba"))
    with pytest.raises(ins.SiteError, match="attn"):
        ins.sweep(model, CLEAN, CORRUPTED, sites="layers.*.attn.z", heads="all", metric=METRIC)


@pytest.mark.real
def test_gemma_moves_the_name_to_the_last_token():
    model = ins.open("gemma-3-270m", dtype=torch.float32)
    frame = "When Mary and John went to the store, {} gave a drink to"
    grid = ins.sweep(model, frame.format("John"), frame.format("Mary"), metric=ins.logit_diff(" Mary", " John"))
    assert grid.how == "packed"
    assert grid.cost.skipped == 10 * 18
    effect = grid.normalised()
    assert float(effect[0, 10]) > 0.9  # early, all of it is where the name stands
    assert float(effect[-1, -1]) > 0.99  # late, all of it is where the answer is read
    assert float(effect[:, :10].abs().max()) == 0


def test_a_plan_counts_what_the_sweep_then_runs():
    model = gpt2()
    plan = ins.plan(model, (CLEAN, CORRUPTED), "sweep", metric=METRIC)
    grid = ins.sweep(model, CLEAN, CORRUPTED, metric=METRIC)
    assert (plan.runs, plan.skipped) == (grid.cost.runs, grid.cost.skipped)
    assert grid.cost.token_layers == plan.token_layers + 2 * 8 * 3  # both prompts themselves: 8 tokens, 3 layers
    assert 0 < plan.seconds < 60
    assert "without effect" in str(plan)
    with pytest.raises(ins.TokenError, match="position 9 is not in every prompt"):
        ins.plan(model, (CLEAN, CORRUPTED), "sweep", metric=METRIC, positions=[9])
