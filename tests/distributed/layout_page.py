"""Print docs/layouts.md: how far each layout ends from one process, as measured now."""

import sys
from collections.abc import Iterator

import torch
from layout_job import LAYOUTS, NUM_STEPS, Layout, Outcome, train_in
from ranks import run_on_ranks

VERSION = torch.__version__.partition("+")[0]
HEAD = f"""<!-- Printed by `make layouts`; run it again rather than edit this. -->

# Layouts

The same job, {NUM_STEPS} steps of AdamW on a small residual network in fp32, with losses that do not weigh the same and
gradients that are clipped, on one process and in each layout of two and four processes (gloo, torch {VERSION}).
Compared are the losses of all steps on all ranks, and the full weights after the last one; the tests hold both to 1e-4.

| layout | processes | mesh | largest difference of a loss | of a weight |
|---|---|---|---|---|"""
NAMES = {
    "fsdp": "FSDP2",
    "hsdp": "HSDP",
    "replicate": "replicate",
    "tensor": "tensor-parallel MLP",
    "context": "context parallel",
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved": "Interleaved 1F1B",
    "interleaved-zb": "Interleaved zero bubble",
    "zbv": "ZBV",
    "dualpipev": "DualPipeV",
    "1f1b+fsdp": "1F1B + FSDP2",
    "zbv+fsdp": "ZBV + FSDP2",
}


def rows() -> Iterator[str]:
    """Run the job in each layout."""
    alone = train_in("plain", 1)
    for name, title in NAMES.items():
        yield row(title, "any", 1, [train_in(name, 1)], alone)
        for num_ranks in (2, 4):
            outcomes = run_on_ranks(num_ranks, train_in, name, num_ranks)
            yield row(title, mesh_of(LAYOUTS[name], num_ranks), num_ranks, outcomes, alone)


def row(title: str, mesh: str, num_ranks: int, outcomes: list[Outcome], alone: Outcome) -> str:
    """Compare a run with that of one process."""
    losses = max(
        abs(loss - expected)
        for outcome in outcomes
        for loss, expected in zip(outcome.losses, alone.losses, strict=True)
    )
    weights = max(
        (weight - alone.weights[name]).abs().max().item()
        for outcome in outcomes
        for name, weight in outcome.weights.items()
    )
    return f"| {title} | {num_ranks} | {mesh} | {losses:.1e} | {weights:.1e} |"


def mesh_of(layout: Layout, num_ranks: int) -> str:
    """Name the dimensions of a mesh that are larger than one."""
    sizes = layout.mesh[num_ranks].model_dump()
    return ", ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(HEAD)  # noqa: T201 -- the page
    for line in rows():
        print(line, flush=True)  # noqa: T201 -- the page
        print(line, file=sys.stderr)  # noqa: T201 -- progress
