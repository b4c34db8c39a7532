"""Positions that are named by their text: a stretch of each prompt, or all that comes behind it."""

import torch

import inscape as ins
from inscape.core.edit_file import load_edits, save_edits
from inscape.steer.fit_directions import fit_directions
from inscape.tasks.chains import chains

SITE = "layers.1.resid_post"
TEXTS = [f"{c.prompt} {c.rationale(style)}" for c in chains(3, (2, 4), seed=1) for style in ("wordy", "terse")]


def test_behind_a_stretch_begins_where_it_ends_in_every_row():
    model = ins.open("toy-reasoner")
    mask = ins.run(model, TEXTS, read=SITE).mask
    assert mask is not None
    for nth, behind in ((0, True), (0, False), (1, False)):
        at = ins.span("?", behind=True) if behind else ins.span(",", nth)
        moved = ins.run(model, TEXTS, read=SITE, edits=[ins.replace(SITE, 0.0, at=at)])
        for row, text in enumerate(TEXTS):
            words = ["<bos>", *text.split()]
            if behind:
                wanted = [i > words.index("?") for i in range(len(words))]
            else:
                commas = [i for i, w in enumerate(words) if w == ","]
                wanted = [i in commas[nth : nth + 1] for i in range(len(words))]
            real = mask[row].bool()
            zero = (moved[SITE][row][real] == 0).all(-1).tolist()
            assert zero == wanted


def test_a_direction_is_fitted_on_answers_without_their_questions():
    model = ins.open("toy-reasoner")
    fitted = fit_directions(model, TEXTS[1::2], TEXTS[::2], SITE, position=ins.span("?", behind=True))
    means = []
    for text in TEXTS:
        state = ins.run(model, [text], read=SITE)[SITE][0]
        means.append(state[text.split().index("?") + 2 :].mean(0))  # one for the beginning of the text, one to go on
    wanted = torch.stack(means[1::2]).mean(0) - torch.stack(means[::2]).mean(0)
    torch.testing.assert_close(fitted[SITE].vector, wanted, rtol=1e-4, atol=1e-4)


def test_a_span_is_kept_in_a_file(tmp_path):
    for at in (ins.span("?", behind=True), ins.span("?", 2)):
        save_edits(tmp_path / "e.safetensors", [ins.replace(SITE, 0.0, at=at)])
        assert load_edits(tmp_path / "e.safetensors")[0].at == at
