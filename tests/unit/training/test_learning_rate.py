"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest

from petrflow.training.learning_rate import learning_rate, rate_warning, warmup_length


def test_the_rate_rises_to_the_peak_and_falls_to_a_thousandth_of_it():
    rates = [learning_rate(step, 5000, 2e-4) for step in range(5000)]
    assert warmup_length(5000) == 500
    assert rates[0] == pytest.approx(2e-4 / 3)
    assert rates[500] == pytest.approx(2e-4) == max(rates)
    assert rates[-1] == pytest.approx(2e-7)
    assert rates[:501] == sorted(rates[:501])
    assert rates[500:] == sorted(rates[500:], reverse=True)


def test_the_published_schedule_is_met_within_its_own_rounding():
    # LinearWarmup over CosineAnnealingDecay(T_max=84408): upstream's cosine does not end when training does, but 500 steps later
    import math

    for step in (0, 250, 500, 20000, 60000, 84407):
        if step < 500:
            published = 2e-4 / 3 + (2e-4 - 2e-4 / 3) * step / 500
        else:
            published = 2e-7 + (2e-4 - 2e-7) * (1 + math.cos(math.pi * (step - 500) / 84408)) / 2
        assert learning_rate(step, 84408, 2e-4, 500) == pytest.approx(published, rel=3e-2, abs=2e-7)


@pytest.mark.parametrize("total", [1, 2, 3, 10, 100])
def test_short_trainings_have_a_rate_at_every_step(total):
    rates = [learning_rate(step, total, 1e-3) for step in range(total)]
    assert all(0 < rate <= 1e-3 for rate in rates)
    assert max(rates) == pytest.approx(1e-3)


def test_a_warm_up_longer_than_training_is_cut():
    assert warmup_length(10, 500) == 9
    assert warmup_length(10, 0) == 0


def test_a_rate_far_from_what_the_batch_suggests_gets_a_sentence_and_a_near_one_none():
    assert rate_warning(2e-4, 1, 8) is None
    assert rate_warning(1e-4, 2, 1) is None, "the published tutorial's"
    assert "far above" in rate_warning(1e-2, 2, 1)
    assert "far below" in rate_warning(1e-6, 8, 8)
    assert rate_warning(1e-3, 2, 1, reference=(4e-4, 2)) is None, "a model file may name its own reference"
