"""Probes find the minimum of what they say they minimise, and choose without seeing the test."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from owlkit.errors import ConfigError, DatasetError
from owlkit.evaluation.probes import (
    LinearSchedule,
    few_shot_indices,
    fit_linear,
    fit_logistic,
    fit_ridge,
    linear_probe,
    logistic_probe,
    prototype_accuracy,
    ridge_probe,
)
from owlkit.evaluation.probes.choice import hold_out

PROBES = (prototype_accuracy, ridge_probe, logistic_probe, linear_probe)


def clouds(
    rows: int, *, classes: int = 4, features: int = 12, noise: float = 0.5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows around one random centre a class, with a shift and scales that differ by feature."""
    generator = torch.Generator().manual_seed(9)
    centres = torch.randn(classes, features, generator=generator)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    points = centres[labels] + noise * torch.randn(rows, features, generator=generator)
    return points * torch.linspace(0.5, 2, features) + 0.3, labels


@pytest.mark.parametrize("probe", PROBES)
def test_what_is_easy_is_learned_and_noise_is_not(probe) -> None:
    train, labels = clouds(200)
    test, test_labels = clouds(100, seed=1)
    easy = probe(train, labels, test, test_labels)
    assert easy.top1 > 0.9
    assert easy.mean_per_class_recall == pytest.approx(easy.top1)
    assert easy.top5 == 1.0
    noise = torch.randn(200, 12, generator=torch.Generator().manual_seed(2))
    assert probe(noise, labels, test, test_labels).top1 < 0.6


@pytest.mark.parametrize("rows", [60, 9])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 300.0])
def test_ridge_solves_its_normal_equations(rows: int, strength: float) -> None:
    """In both forms: more rows than features, and fewer."""
    train, labels = clouds(rows)
    weak, found = fit_ridge(train, labels, [1e-6, strength], classes=5)
    x = train.double().numpy()
    x = (x - x.mean(0)) / (x.std(0) + 1e-5)
    x = np.concatenate([x, np.full((rows, 1), 100.0)], axis=1)
    y = 2 * np.eye(5)[labels.numpy()] - 1
    solved = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ y)
    np.testing.assert_allclose(found.scores(train).numpy(), x @ solved, atol=1e-6)
    assert (weak.scores(train) - found.scores(train)).abs().max() > 1e-5


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_logistic_regression_reaches_the_minimum(strength: float) -> None:
    train, labels = clouds(80, noise=2.0)
    x, y = train.double().numpy(), labels.numpy()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = flat[:-4].reshape(12, 4), flat[-4:]
        logits = x @ weight + bias
        logits = logits - logits.max(axis=1, keepdims=True)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        errors = (np.exp(logs) - np.eye(4)[y]) / len(y)
        value = -logs[np.arange(len(y)), y].mean() + strength / 2 * (weight**2).sum()
        slope = np.concatenate([(x.T @ errors + strength * weight).ravel(), errors.sum(axis=0)])
        return float(value), slope

    options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    best = minimize(loss, np.zeros(52), jac=True, method="L-BFGS-B", options=options)
    # The second starts from the first, and must not stay there.
    _, found = fit_logistic(train, labels, [3.0, strength], classes=4)
    flat = np.concatenate([found.weight.numpy().ravel(), found.bias.numpy()])
    assert loss(flat)[0] == pytest.approx(best.fun, abs=1e-8)
    np.testing.assert_allclose(found.weight.numpy(), best.x[:-4].reshape(12, 4), atol=5e-3)


def test_linear_layers_of_a_sweep_do_not_disturb_each_other() -> None:
    train, labels = clouds(64, noise=1.5)
    rates, decays = (1e-3, 0.05), (0.0, 0.1)
    many = LinearSchedule(learning_rates=rates, weight_decays=decays, epochs=3, batch_size=24)
    swept = fit_linear(train, labels, many, classes=4, seed=5)
    for found, (rate, decay) in zip(swept, many.settings(), strict=True):
        one = replace(many, learning_rates=(rate,), weight_decays=(decay,))
        (alone,) = fit_linear(train, labels, one, classes=4, seed=5)
        torch.testing.assert_close(found.weight, alone.weight)
        torch.testing.assert_close(found.bias, alone.bias)
    assert (swept[2].weight - swept[3].weight).abs().max() > 1e-3


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_setting_equals_a_plain_training_loop(optimizer: str) -> None:
    """A step on all rows has one order only, so a loop written out must find the same layer."""
    train, labels = clouds(38)  # with classes of equal size Adam would enlarge rounding of the bias
    schedule = LinearSchedule(optimizer, (0.1,), (0.01,), epochs=6, batch_size=64)
    (found,) = fit_linear(train, labels, schedule, classes=4)
    layer = torch.nn.Linear(12, 4)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": 0.01}]
    groups.append({"params": [layer.bias], "weight_decay": 0.0})
    steps: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=0.1)
    if optimizer == "sgd":
        steps = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for step in range(6):
        for group in steps.param_groups:
            group["lr"] = 0.1 * (1 + np.cos(np.pi * step / 6)) / 2
        steps.zero_grad()
        torch.nn.functional.cross_entropy(layer(train), labels).backward()
        steps.step()
    torch.testing.assert_close(found.weight, layer.weight.detach().T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.bias, layer.bias.detach(), atol=1e-4, rtol=1e-4)


def test_the_linear_probe_chooses_and_learns_again_from_all_rows() -> None:
    train, labels = clouds(90, noise=1.5)
    test, test_labels = clouds(300, noise=1.5, seed=3)
    many = LinearSchedule(learning_rates=(1e-3, 0.05), weight_decays=(0.0, 1e-3), epochs=4)
    result = linear_probe(train, labels, test, test_labels, schedule=many)
    assert (result.learning_rate, result.strength) in many.settings()
    alone = replace(many, learning_rates=(result.learning_rate,), weight_decays=(result.strength,))
    assert linear_probe(train, labels, test, test_labels, schedule=alone) == result
    scaled = linear_probe(7 * train, labels, test / 3, test_labels, schedule=alone)
    assert scaled == result, "rows are normalised"


@pytest.mark.parametrize(
    ("probe", "strengths", "good"),
    [(ridge_probe, (1e9, 3.0, 1e-9), 3.0), (logistic_probe, (100.0, 1e-2), 1e-2)],
)
def test_the_strength_is_chosen_on_training_rows_only(probe, strengths, good: float) -> None:
    """More features than rows: what fits too well or not at all loses on the rows held out."""
    train, labels = clouds(60, features=80, noise=3.0)
    test, test_labels = clouds(200, features=80, noise=3.0, seed=1)
    chosen = probe(train, labels, test, test_labels, strengths=strengths)
    assert chosen == probe(train, labels, test, test_labels, strengths=(chosen.strength,))
    assert chosen.strength == probe(train, labels, -test, test_labels, strengths=strengths).strength
    # Standing first decides between equals: the accuracy here says which is really better.
    assert chosen.top1 >= probe(train, labels, test, test_labels, strengths=(good,)).top1 - 0.05


def test_prototypes_are_normalised_means() -> None:
    train = torch.tensor([[10.0, 0.0], [0.0, 1.0], [-1.0, 0.2]])
    test = torch.tensor([[2.0, 2.1], [5.0, 1.0], [-1.0, 1.0], [-1.0, 0.0]])
    # Class 0 points to (1, 1): the long row has no more weight than the short one.
    result = prototype_accuracy(train, torch.tensor([0, 0, 2]), test, torch.tensor([0, 0, 2, 1]))
    assert (result.top1, result.strength) == (0.75, None)
    assert result.mean_per_class_recall == pytest.approx(2 / 3)


def test_few_shots_are_k_of_each_class_and_nest() -> None:
    labels = torch.tensor([2, 0, 2, 2, 0, 2, 5, 2])
    draws = [few_shot_indices(labels, 2, seed) for seed in range(40)]
    for rows in draws:
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert torch.bincount(labels[rows]).tolist() == [2, 0, 2, 0, 0, 1]
    # Each of the five rows of class 2 has its turn.
    assert {int(row) for rows in draws for row in rows} == set(range(8))
    assert few_shot_indices(labels, 2, 3).tolist() == draws[3].tolist()
    assert set(few_shot_indices(labels, 1, 3).tolist()) < set(draws[3].tolist())
    assert few_shot_indices(labels, 9).tolist() == list(range(8))


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_rows_are_held_out_by_class(share: float) -> None:
    labels = torch.tensor([0] * 10 + [1] * 2 + [3])
    fit, held = hold_out(labels, share, seed=1)
    assert sorted(torch.cat([fit, held]).tolist()) == list(range(13))
    counts = torch.bincount(labels[held], minlength=4).tolist()
    assert counts == [{0.01: 1, 0.3: 3, 0.99: 9}[share], 1, 0, 0]
    assert not torch.equal(hold_out(labels, share, seed=2)[1], held)


def test_one_example_a_class_leaves_nothing_to_choose_by() -> None:
    train, labels = clouds(4)
    rows = train, labels, *clouds(20, seed=1)
    assert ridge_probe(*rows) == ridge_probe(*rows, strengths=(32.0,))
    assert ridge_probe(*rows).top1 > 0.6
    assert logistic_probe(*rows) == logistic_probe(*rows, strengths=(1e-4,))
    middle = LinearSchedule(weight_decays=(1e-3,))
    assert linear_probe(*rows) == linear_probe(*rows, schedule=middle)


def test_classes_that_only_the_test_has_are_missed() -> None:
    train, labels = clouds(40)
    test, test_labels = clouds(40, seed=1)
    unseen = torch.where(test_labels == 3, 9, test_labels)
    for probe in PROBES:
        assert probe(train, labels, test, unseen).top1 <= 0.75


def bad_strengths() -> list[tuple[object, dict[str, object], str]]:
    return [
        (ridge_probe, {"strengths": (0.0,)}, "strengths: expected numbers above 0"),
        (ridge_probe, {"strengths": ()}, "strengths"),
        (logistic_probe, {"strengths": (-1.0,)}, "strengths: expected numbers >= 0"),
        (logistic_probe, {"strengths": ()}, "strengths"),
        (ridge_probe, {"held_out": 1.0}, "held_out: expected a share"),
    ]


@pytest.mark.parametrize(("probe", "settings", "message"), bad_strengths())
def test_settings_out_of_range(probe, settings: dict[str, object], message: str) -> None:
    train, labels = clouds(12)
    with pytest.raises(ConfigError, match=message):
        probe(train, labels, train, labels, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adam"},
        {"learning_rates": ()},
        {"learning_rates": (0.0,)},
        {"weight_decays": (-1.0,)},
        {"epochs": 0},
        {"batch_size": 0},
    ],
)
def test_schedules_that_cannot_train(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        LinearSchedule(**settings)  # type: ignore[arg-type]


def test_few_shots_below_one() -> None:
    with pytest.raises(ConfigError, match="k: expected at least 1"):
        few_shot_indices(torch.tensor([0, 1]), 0)


def test_rows_that_do_not_fit() -> None:
    train, labels = clouds(12)
    broken: Tensor = train / 0.0
    for probe in PROBES:
        with pytest.raises(DatasetError, match="train: expected finite"):
            probe(broken, labels, train, labels)
