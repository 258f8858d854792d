import torch

from pochade.flow.noise import seeded_normal


def test_a_sample_depends_on_its_seed_alone():
    seeds = torch.tensor([7, 2**62, 0])
    together = seeded_normal(seeds, (3, 4, 5))
    for i in range(3):
        assert torch.equal(seeded_normal(seeds[i : i + 1], (3, 4, 5))[0], together[i])
        assert torch.equal(seeded_normal([int(seeds[i])], (3, 4, 5))[0], together[i])
    assert torch.equal(seeded_normal(seeds.flip(0), (3, 4, 5)).flip(0), together)
    assert (together[0] - together[1]).abs().max() > 0.1


def test_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    seeded_normal([1, 2], (8,))
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_are_used_and_advance():
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    first, second = seeded_normal(generators, (4,)), seeded_normal(generators, (4,))
    assert torch.equal(first, seeded_normal([0, 1], (4,)))
    assert not torch.equal(first, second)


def test_distributions_and_types():
    normal = seeded_normal(range(64), (512,))
    assert normal.dtype == torch.float32
    assert abs(float(normal.mean())) < 0.02
    assert abs(float(normal.std()) - 1) < 0.02
    # Neighbouring seeds are independent.
    assert torch.corrcoef(normal[:8]).fill_diagonal_(0).abs().max() < 0.2
