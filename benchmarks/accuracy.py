"""Accuracy on MNIST's test images after each epoch, against the seconds of training: several seeds of each preset.

Writes accuracy.md, accuracy.json and the picture docs/accuracy.png. With the presets of the README it takes
half an hour on two cores; `--presets mlp --seeds 1` takes a minute.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine, results
from matplotlib.figure import Figure

import handgrad

PICTURE = Path(__file__).parent.parent / "docs" / "accuracy.png"
STYLES = {"report": ("0.55", "v"), "mlp": ("black", "o"), "lenet": ("tab:blue", "s"), "cnn": ("tab:orange", "D")}


def run(hg: handgrad.Client, preset: str, seed: int) -> dict[str, Any]:
    """Trains once; gives the seconds and the test accuracy at the end of each epoch."""
    job = hg.train(preset, seed=seed)
    info = job.wait()
    epochs = hg.get_loss(job.name, limit=1).epochs
    # Version 1 is that before the first iteration; each epoch's end publishes the next.
    accuracies = [hg.evaluate(info.model, epoch.epoch + 1).accuracy for epoch in epochs]
    seconds = np.cumsum([epoch.seconds for epoch in epochs]).tolist()
    # From the start to the end, compiling and publishing included.
    whole = info.end_time.ToNanoseconds() - info.start_time.ToNanoseconds()
    print(f"{preset} seed {seed}: {accuracies[-1]:.4f} in {whole / 1e9:.1f} s", flush=True)
    return {"preset": preset, "seed": seed, "seconds": seconds, "accuracies": accuracies, "whole": whole / 1e9}


def table(runs: list[dict[str, Any]]) -> str:
    lines = ["| preset | seeds | test accuracy, mean | each | seconds a run, largest |", "|---|---|---|---|---|"]
    for preset in dict.fromkeys(run["preset"] for run in runs):
        own = [run for run in runs if run["preset"] == preset]
        last = [run["accuracies"][-1] for run in own]
        each = ", ".join(f"{accuracy:.2%}" for accuracy in last)
        seconds = max(run["whole"] for run in own)
        lines.append(f"| `{preset}` | {len(own)} | {np.mean(last):.3%} | {each} | {seconds:.0f} |")
    return "\n".join(lines)


def draw(runs: list[dict[str, Any]]) -> None:
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for preset in dict.fromkeys(run["preset"] for run in runs):
        own = [run for run in runs if run["preset"] == preset]
        color, marker = STYLES.get(preset, ("tab:green", "^"))
        for run in own:
            axes.plot(run["seconds"], run["accuracies"], color=color, linewidth=0.6, alpha=0.5)
        seconds, accuracies = (np.mean([run[key] for run in own], axis=0) for key in ("seconds", "accuracies"))
        label = f"{preset}: {accuracies[-1]:.2%}"
        axes.plot(seconds, accuracies, color=color, marker=marker, markersize=4, linewidth=1.6, label=label)
    axes.set_xscale("log")
    axes.set_ylim(0.9, 1)
    axes.set_yscale("function", functions=(lambda a: -np.log10(1.0005 - a), lambda y: 1.0005 - 10.0**-y))
    ticks = [0.9, 0.95, 0.98, 0.99, 0.995, 0.998]
    axes.set_yticks(ticks, [f"{tick:.1%}" for tick in ticks])
    axes.set_ylim(0.9, 0.998)
    axes.set_xlabel("seconds of training, two CPU cores")
    axes.set_ylabel("accuracy on the 10,000 test images")
    axes.set_title("Accuracy after each epoch, mean of the seeds")
    axes.grid(visible=True, which="both", color="0.92")
    axes.set_axisbelow(True)
    axes.legend(loc="lower right")
    figure.savefig(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=["report", "mlp", "lenet", "cnn"])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    with handgrad.connect() as hg:
        for preset in arguments.presets:
            for seed in range(arguments.seeds):
                runs.append(run(hg, preset, seed))
                results().joinpath("accuracy.json").write_text(json.dumps(runs, indent=1) + "\n")
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = f"# Accuracy on MNIST's test images\n\n{table(runs)}\n\nMeasured on: {where}.\n"
    results().joinpath("accuracy.md").write_text(text)
    draw(runs)
    print(table(runs))


if __name__ == "__main__":
    main()
