"""A generative adversarial network: two nets, two optimizers, one step.

A generator turns noise into 8 x 8 digits; a discriminator with spectral normalisation (Miyato et al., arXiv 1802.05957)
tells them from real ones. Both optimizers step between two batches, so one ``run.step`` closes both. Each net is the
other's history. Besides: spectral normalisation keeps two vectors of its power iteration in buffers, the noise comes
from a random generator of its own, and a hand-made average of the generator is what draws the final pictures.

The result is judged by the energy distance between generated digits and real ones never trained on: 0 would be the
same distribution; the real digits trained on are 0.02 away from these.

    python examples/gan.py
"""

import argparse
import copy

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import DataLoader, TensorDataset

import auditor

LATENT = 16


def build_generator():
    return nn.Sequential(
        nn.Linear(LATENT, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.Tanh(),
    )


def build_discriminator():
    return nn.Sequential(
        spectral_norm(nn.Linear(64, 128)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(128, 128)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Linear(128, 1)),
    )


@torch.no_grad()
def follow(average, model, decay):
    """Move the average towards the model; BatchNorm's statistics are taken over as they are."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1.0 - decay)
    for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
        slow.copy_(fast)


def energy_distance(first, second):
    """Return the energy distance of two samples ``[n, 64]`` and ``[m, 64]`` (Székely & Rizzo 2013), 0 if equal."""

    def within(sample):
        return torch.cdist(sample, sample).sum() / (len(sample) * (len(sample) - 1))

    return (2 * torch.cdist(first, second).mean() - within(first) - within(second)).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/gan")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--workers", type=int, default=0, help="processes that load the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="four epochs")
    options = parser.parse_args()
    epochs = 4 if options.quick else options.epochs
    torch.set_num_threads(1)

    with auditor.record(options.out, seed=options.seed) as run:
        pixels = torch.tensor(load_digits().data, dtype=torch.float32) / 8.0 - 1.0
        train, test = pixels[:1397], pixels[1397:]
        loader = DataLoader(
            TensorDataset(train), batch_size=64, shuffle=True, drop_last=True, num_workers=options.workers
        )
        noise = torch.Generator().manual_seed(options.seed + 1)
        generator, discriminator = build_generator(), build_discriminator()
        ema = copy.deepcopy(generator).eval().requires_grad_(requires_grad=False)
        generator_adam = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
        discriminator_adam = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
        # The pictures' noise is drawn once, so that distances before and after speak of the same draws.
        fixed = torch.randn(400, LATENT, generator=torch.Generator().manual_seed(64))

        run.watch(generator=generator, discriminator=discriminator, ema=ema, noise=noise)
        run.watch(generator_adam=generator_adam, discriminator_adam=discriminator_adam)
        run.outcome("energy_distance", lambda: energy_distance(ema(fixed), test))
        with torch.no_grad():
            before = energy_distance(ema(fixed), test)

        for _ in run.epochs(epochs):
            for (real,) in run.batches(loader):
                fake = generator(torch.randn(len(real), LATENT, generator=noise))
                on_real, on_fake = discriminator(real), discriminator(fake.detach())
                judgement = (1 - on_real).relu().mean() + (1 + on_fake).relu().mean()
                discriminator_adam.zero_grad()
                judgement.backward()
                discriminator_adam.step()

                deception = -discriminator(generator(torch.randn(len(real), LATENT, generator=noise))).mean()
                generator_adam.zero_grad()
                deception.backward()
                generator_adam.step()
                follow(ema, generator, decay=0.98)
                run.step(loss=judgement)

        with torch.no_grad():
            after = energy_distance(ema(fixed), test)
        print(f"energy distance {after:.4f}, before training {before:.4f}")


if __name__ == "__main__":
    main()
