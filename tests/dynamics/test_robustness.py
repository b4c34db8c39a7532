"""The robustness suite on classifiers whose answers are known."""

import torch

from inscape.dynamics.robustness import robustness, stood
from inscape.tasks.digits import Images, digits


def test_a_classifier_that_remembers_labels_is_as_good_as_they_are() -> None:
    images, seen = digits("test", 100), []

    def train(given: Images):
        seen.append(given.labels)
        table = {x.numpy().tobytes(): int(y) for x, y in zip(given.pixels, given.labels, strict=True)}
        return lambda pixels: (
            9.0 * torch.nn.functional.one_hot(torch.tensor([table.get(x.numpy().tobytes(), 0) for x in pixels]), 10)
        )

    found = robustness(train, images, images, label_noise=[0.0, 0.4], corruptions={"noise": 1.0}, seed=3)
    assert list(found) == ["noise 0", "noise 0, noise", "noise 0.4", "noise 0.4, noise"]
    assert found["noise 0"].accuracy == 1.0
    assert found["noise 0"].ece < 0.01
    assert found["noise 0.4"].accuracy == 0.6
    assert abs(found["noise 0.4"].ece - 0.4) < 0.01
    assert found["noise 0, noise"].accuracy < 0.3
    assert torch.equal(seen[0], images.labels)


def test_even_scores_are_at_chance_and_calibrated() -> None:
    images = digits("all")
    made = stood(lambda pixels: torch.zeros(len(pixels), 10), images)
    assert abs(made.accuracy - 0.1) < 0.02
    assert made.ece < 0.02
