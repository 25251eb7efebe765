#!/usr/bin/env python3
"""Runs bench_quality for every model and text, and writes CSV, tables and a plot. bench/quality.sh prepares and calls it.

A multiple of the floor is the mean KL of a variant over that of k8v8 on the same tokens. Its interval is that of the
ratio of two paired means (delta method); tokens count as independent.
"""

import argparse
import csv
import json
import math
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
TEXTS = [*sorted((ROOT / "bench" / "texts").glob("*.txt")), ROOT / "client" / "llama" / "texts" / "lighthouse.txt"]
TEXTS_WANTED = 8
FLOOR = "k8v8"
# Families as the plot and the tables group them.
FAMILIES = {
    "TurboQuant-MSE": ["raw", "k8v8", "k6v6", "k5v5", "k5v4", "k4v4", "k4v3", "k3v3", "k3v2", "k2v2"],
    "MSE, planes dropped": ["k5v4>k4v4", "k5v4>k4v3", "k5v4>k3v3"],
    "8 bits in the outer layers": ["OUTER"],
    "TurboQuant-prod": ["k5v5-prod", "k4v4-prod", "k4v4-prodg", "k3v3-prod"],
    "QJL": ["qjl"],
    "PolarQuant": ["polar"],
    "FP8": ["e4m3", "e5m2"],
    "tqe": ["tqe"],
    "llama.cpp's types, rows": ["rows:q8_0", "rows:q5_1", "rows:q4_0"],
    "llama.cpp's cache": ["cache:q8_0", "cache:q5_1", "cache:q4_0"],
}
OUTER = {"SmolLM2-135M": "k4v4/0-1:k8v8/28-29:k8v8", "Gemma-3-270M": "k4v4/0-1:k8v8/16-17:k8v8"}
SECONDS_AT_MOST = 3600  # of one text
Z = 1.96


def variants_of(model):
    return [OUTER[model] if name == "OUTER" else name for names in FAMILIES.values() for name in names]


def measure(arguments, model, path, text):
    """Figures of every token and variant; those that are known already are not measured again."""
    kept = arguments.work / f"{model}-{text.stem}.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    missing = [name for name in variants_of(model) if name not in known]
    if missing:
        print(f"{model}, {text.stem}: {' '.join(missing)}", file=sys.stderr, flush=True)
        fresh = kept.with_suffix(".new")
        subprocess.run([arguments.program, "--model", path, "--text", text, "--tokens-out", fresh, *missing],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True, timeout=SECONDS_AT_MOST)
        known |= json.loads(fresh.read_text())
        kept.write_text(json.dumps(known))
        fresh.unlink()
    return known


def mean(values):
    return sum(values) / len(values)


def half_interval(values):
    """Of the mean, 95 %."""
    middle = mean(values)
    return Z * math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1) / len(values))


def ratio(values, floor):
    """Of two paired means, with half of its 95 % interval."""
    quotient = mean(values) / mean(floor)
    residuals = [value - quotient * beside for value, beside in zip(values, floor)]
    return quotient, half_interval(residuals) / mean(floor)


def summary(model, texts):
    """One row a variant, over all texts."""
    def tokens(name, figure):
        return [value for text in texts for value in text[name][figure]]

    floor_kl, floor_same = tokens(FLOOR, "kl"), tokens(FLOOR, "same")
    for name in variants_of(model):
        kl, same, surprise = (tokens(name, figure) for figure in ("kl", "same", "surprise"))
        over_floor, over_floor_half = ratio(kl, floor_kl)
        points = [100 * (value - beside) for value, beside in zip(same, floor_same)]
        yield {
            "model": model, "variant": name, "tokens": len(kl),
            "bits_per_value": mean([text[name]["bits_per_value"] for text in texts]),
            "stored_ratio": 1 / mean([1 / text[name]["stored_ratio"] for text in texts]),
            "mean_kl": mean(kl), "mean_kl_half_interval": half_interval(kl),
            "over_floor": over_floor, "over_floor_half_interval": over_floor_half,
            "same_top_percent": 100 * mean(same), "same_top_points_from_floor": mean(points),
            "same_top_points_half_interval": half_interval(points),
            "perplexity_change_percent": 100 * (math.exp(mean(surprise)) - 1),
            "perplexity_half_interval": 100 * half_interval(surprise),
        }


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()}
                         for row in rows)


def table(rows):
    yield "| stored as | bits a value | stored ratio | mean KL | times the floor | same top token, % | from the floor | perplexity, % |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        yield (f"| {row['variant']} | {row['bits_per_value']:.2f} | {row['stored_ratio']:.2f} | {row['mean_kl']:.5f} "
               f"± {row['mean_kl_half_interval']:.5f} | {row['over_floor']:.2f} ± {row['over_floor_half_interval']:.2f} "
               f"| {row['same_top_percent']:.1f} | {row['same_top_points_from_floor']:+.1f} ± "
               f"{row['same_top_points_half_interval']:.1f} | {row['perplexity_change_percent']:+.2f} ± "
               f"{row['perplexity_half_interval']:.2f} |")


def write_table(document, model, rows):
    text = document.read_text()
    begin, end = f"<!-- {model} begins -->\n", f"<!-- {model} ends -->"
    head, rest = text.split(begin)
    document.write_text(head + begin + "\n".join(table(rows)) + "\n" + end + rest.split(end)[1])


def draw(path, rows_of):
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(1, len(rows_of), figsize=(7 * len(rows_of), 5.5), squeeze=False)
    for axis, (model, rows) in zip(axes[0], rows_of.items()):
        named = {row["variant"]: row for row in rows}
        for family, names in FAMILIES.items():
            shown = [named[OUTER[model] if name == "OUTER" else name] for name in names if name != "raw"]
            axis.errorbar([row["bits_per_value"] for row in shown], [row["mean_kl"] for row in shown],
                          yerr=[row["mean_kl_half_interval"] for row in shown], label=family, capsize=2,
                          marker="o", markersize=4, linestyle="-" if family == "TurboQuant-MSE" else "none")
            for row in shown:
                axis.annotate(row["variant"].split(":")[-1] if family.startswith("llama") else row["variant"].split("/")[0],
                              (row["bits_per_value"], row["mean_kl"]), fontsize=6, xytext=(3, 3), textcoords="offset points")
        axis.axhline(named[FLOOR]["mean_kl"], color="grey", linestyle=":", label="noise floor (k8v8)")
        axis.set(yscale="log", xlabel="bits stored a value, everything counted", ylabel="mean KL, nats a token",
                 title=f"{model}, {rows[0]['tokens']} tokens after 1,024")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--program", type=pathlib.Path, required=True, help="bench_quality")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder that keeps what was measured")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=FILE", help=f"of {', '.join(OUTER)}")
    arguments = parser.parse_args()
    if len(TEXTS) < TEXTS_WANTED:
        sys.exit(f"bench_quality: {len(TEXTS)} texts are there; {TEXTS_WANTED} are needed")
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows_of, of_texts = {}, []
    for model, path in (entry.split("=", 1) for entry in arguments.model):
        texts = {text.stem: measure(arguments, model, path, text) for text in TEXTS}
        rows_of[model] = list(summary(model, texts.values()))
        of_texts += [{"model": model, "text": text, "variant": name, "mean_kl": figures[name]["mean_kl"],
                      "same_top_token": figures[name]["same_top_token"]}
                     for text, figures in texts.items() for name in variants_of(model)]
    results = ROOT / "bench" / "results"
    write_csv(results / "quality.csv", [row for rows in rows_of.values() for row in rows])
    write_csv(results / "quality_texts.csv", of_texts)
    for model, rows in rows_of.items():
        write_table(ROOT / "docs" / "quality.md", model, rows)
    draw(ROOT / "docs" / "quality.png", rows_of)


if __name__ == "__main__":
    main()
