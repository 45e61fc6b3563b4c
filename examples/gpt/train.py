"""Trains the GPT on characters of Python's own manual, and prints its losses. Nothing in it knows of ablate."""

import argparse
import pydoc_data.topics
from pathlib import Path

import torch
from torch.nn import functional as F

from model import GPT

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=3e-3)
parser.add_argument("--dropout", type=float, default=0.0)
parser.add_argument("--norm", default="layer", choices=["layer", "rms"])
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--eval-every", type=int, default=50)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("out"))
given = parser.parse_args()

LENGTH, BATCH = 64, 16
text = "".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore")
data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
split = int(0.9 * len(data))

torch.manual_seed(given.seed)
device = "cuda" if torch.cuda.is_available() else "cpu"
model = GPT(128, LENGTH, dim=64, layers=2, dropout=given.dropout, norm=given.norm).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=given.lr)


def loss_of(part: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    at = torch.randint(len(part) - LENGTH - 1, (BATCH,), generator=generator)
    rows = torch.stack([part[i : i + LENGTH + 1] for i in at]).to(device)
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def val_loss() -> float:
    model.eval()
    generator = torch.Generator().manual_seed(1234)
    losses = [loss_of(data[split:], generator).item() for _ in range(20)]
    model.train()
    return sum(losses) / len(losses)


step, batches = 0, torch.Generator().manual_seed(given.seed)
given.out.mkdir(parents=True, exist_ok=True)
saved = given.out / "checkpoint.pt"
if saved.exists():
    state = torch.load(saved)
    step = state["step"]
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    batches.set_state(state["batches"])
    torch.set_rng_state(state["random"])
    print(f"resumed at step {step}")

while step < given.steps:
    loss = loss_of(data[:split], batches)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    step += 1
    if step % given.eval_every == 0 or step == given.steps:
        state = {
            "step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "batches": batches.get_state(), "random": torch.get_rng_state(),
        }  # fmt: skip
        torch.save(state, saved.with_suffix(".tmp"))
        saved.with_suffix(".tmp").replace(saved)
        print(f"step {step}: train loss {loss.item():.4f}, val loss {val_loss():.4f}", flush=True)
