"""A character-level language model on Python's own documentation, without any data loader.

Every row of a batch reads on where it stopped at the step before and keeps the GRU's hidden state (truncated
backpropagation through time), so what the net sees depends on all it has read since it last jumped to another place in
the text. The hidden state is a plain attribute, the places are a tensor of the script's own: neither is in any
``state_dict``. Jumps are drawn by ``torch.randint``, the text is a memory-mapped file, and every optimizer step sums
the gradients of two batches. The script tells the recorder what it drew: ``run.batch(ids=…, content=…)``.

    python examples/language_model.py
"""

import argparse
import math
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import auditor

ROWS, LENGTH, ACCUMULATE, HELD_OUT = 16, 48, 2, 20_000


def write_tokens(path):
    """Write the text as one byte a character, 0 … characters - 1; return (how many tokens, how many characters)."""
    text = "\n".join(topics[name] for name in sorted(topics))[:400_000].encode("ascii", "replace")
    characters, tokens = np.unique(np.frombuffer(text, dtype=np.uint8), return_inverse=True)
    tokens.astype(np.uint8).tofile(path)
    return len(tokens), len(characters)


class Model(nn.Module):
    def __init__(self, characters):
        super().__init__()
        self.embed = nn.Embedding(characters, 48)
        self.recurrent = nn.GRU(48, 128, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(128, characters)
        self.hidden = torch.zeros(1, ROWS, 128)

    def forward(self, tokens, hidden):
        states, hidden = self.recurrent(self.dropout(self.embed(tokens)), hidden)
        return self.out(self.dropout(states)), hidden


@torch.no_grad()
def bits_per_character(model, text):
    """Return the model's cross-entropy in bits on held-out text, read in 20 rows from a cold start."""
    rows = text[: len(text) // 20 * 20].view(20, -1)
    training = model.training
    model.eval()
    logits, _ = model(rows[:, :-1], torch.zeros(1, 20, 128))
    model.train(training)
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()).item() / math.log(2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/language_model")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="40 steps")
    options = parser.parse_args()
    steps = 40 if options.quick else options.steps
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder, auditor.record(options.out, seed=options.seed) as run:
        length, characters = write_tokens(Path(folder) / "tokens.bin")
        tokens = np.memmap(Path(folder) / "tokens.bin", dtype=np.uint8, mode="r")
        held_out = torch.from_numpy(tokens[-HELD_OUT:].astype(np.int64))
        last_start = length - HELD_OUT - LENGTH - 1
        model = Model(characters)
        positions = torch.randint(0, last_start, (ROWS,))
        optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=20),
                torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(steps - 20, 1)),
            ],
            milestones=[20],
        )

        run.watch(model=model, optimizer=optimizer, scheduler=scheduler, sampler=positions)
        run.outcome("bits_per_character", lambda: bits_per_character(model, held_out))
        before = bits_per_character(model, held_out)

        for _ in run.steps(steps):
            total = 0.0
            for _ in range(ACCUMULATE):
                window = np.stack([tokens[start : start + LENGTH + 1] for start in positions.tolist()])
                text = torch.from_numpy(window.astype(np.int64))
                run.batch(ids=positions.tolist(), content=text)
                logits, hidden = model(text[:, :-1], model.hidden)
                loss = F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten()) / ACCUMULATE
                loss.backward()
                total += loss.item()
                # One row in ten jumps to another place, and forgets; so do those that reach the end.
                jumps = (torch.rand(ROWS) < 0.1) | (positions + LENGTH > last_start)
                model.hidden = torch.where(jumps[:, None], 0.0, hidden.detach())
                positions.copy_(torch.where(jumps, torch.randint(0, last_start, (ROWS,)), positions + LENGTH))
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            scheduler.step()
            run.step(loss=total)

        print(f"bits per character {bits_per_character(model, held_out):.4f}, before training {before:.4f}")


if __name__ == "__main__":
    main()
