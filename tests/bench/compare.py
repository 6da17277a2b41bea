#!/usr/bin/env python3
"""Training-step speed beside the peers on this machine: medians against medians, in runs that alternate.

usage: compare.py [--program FILE] [--peers DIR] [--batches 32,64,128] [--rounds 3] [--steps 5] [--only NAME,…]
                  [--prepare DIR] [--readme FILE]

Each round runs every program once at each batch, ours first, so that a change of the machine's pace hits all of them.
A program's figure is the median over the rounds of its own median; its memory is the largest peak of any round.
--prepare also compares preparing the recordings of a download with scipy and numpy doing the same work.
--readme puts the tables between the file's bench markers; else they are printed.

Nothing is installed. A peer whose script or packages are missing is left out, with the reason. Packages outside of
Python's own path are found through PYTHONPATH: pip install --target DIR keras tensorflow-cpu torch numpy scipy
"""
import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PEERS = {  # name: script, arguments before and after the batch, packages
    "Keras on TensorFlow": ("keras_bench.py", ["tensorflow"], ["keras", "tensorflow"]),
    "Keras on JAX": ("keras_bench.py", ["jax"], ["keras", "jax"]),
    "PyTorch": ("torch_bench.py", [], ["torch", "numpy"]),
}
OURS = "tpu-train"

# Recordings to int16 windows with scaling, as our `prepare` does it: every channel on the 1/2048 grid, checked,
# interleaved, written; its extremes and the checksum of what was read.
SCIPY = """
import hashlib, json, multiprocessing, os, pathlib, resource, sys, time
import numpy, scipy.io
root, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])

def one(path):
    hashlib.sha256(path.read_bytes()).hexdigest()
    mat = scipy.io.loadmat(path)
    channels = [mat[name].ravel().astype(numpy.float64) for name in ("ECG", "PCG")]
    grid = numpy.stack([channel * 2048 for channel in channels], axis=1)
    whole = numpy.rint(grid)
    assert (whole == grid).all()
    extremes = [(channel.min(), channel.max()) for channel in channels]
    whole.astype("<i2").tofile(out / (path.stem + ".i16"))
    return (out / (path.stem + ".i16")).stat().st_size

if __name__ == "__main__":
    files = sorted((root / "MAT").glob("*.mat"))
    began = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(min(8, len(os.sched_getaffinity(0)))) as pool:
        sizes = pool.map(one, files, chunksize=1)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps({"recordings": len(files), "shard_bytes": sum(sizes), "seconds": seconds, "peak_rss_mb": peak}))
"""


def run(command, label):
    """The JSON object that a command prints last; None, with the reason, where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return json.loads(lines[-1])
    reason = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
    print(f"left out: {label}: {reason}", file=sys.stderr)
    return None


def missing(packages):
    """The packages that this Python does not find."""
    test = "import importlib.util, sys; print(*[p for p in sys.argv[1:] if not importlib.util.find_spec(p)])"
    return subprocess.run([sys.executable, "-c", test, *packages], capture_output=True, text=True).stdout.split()


def programs(args):
    """Name and command of each program that is there; the batch stands for itself."""
    ours = [str(args.program), "bench", "--json", "--no-product", "--platform", "cpu", "--steps", str(args.steps)]
    found = {OURS: lambda batch: [*ours, "--batch-size", str(batch)]}
    for name, (script, before, packages) in PEERS.items():
        path = args.peers / script
        if args.only and name not in args.only:
            continue
        if not path.is_file():
            print(f"left out: {name}: there is no {path}", file=sys.stderr)
        elif lacking := missing(packages):
            print(f"left out: {name}: no Python package {', '.join(lacking)}; see --help", file=sys.stderr)
        else:
            command = [sys.executable, str(path), *before]
            found[name] = lambda batch, command=command: [*command, str(batch), str(args.steps)]
    return found


def measure(args):
    """{program: {batch: [report, …]}}"""
    commands, reports = programs(args), {}
    for number in range(args.rounds):
        for batch in args.batches:
            for name, command in list(commands.items()):
                label = f"{name} at batch {batch}"
                report = run(command(batch), label)
                if report is None:
                    if name == OURS:
                        sys.exit(f"error: {label} failed")
                    del commands[name]
                    reports.pop(name, None)
                    continue
                reports.setdefault(name, {}).setdefault(batch, []).append(report)
                rate = report["median_windows_per_second"]
                print(f"round {number + 1}: {label}: {rate} windows/s", file=sys.stderr, flush=True)
    return reports


def table(reports, batches):
    rate = {name: {batch: statistics.median(r["median_windows_per_second"] for r in rounds)
                   for batch, rounds in by_batch.items()} for name, by_batch in reports.items()}
    memory = {name: {batch: max(r["peak_rss_mb"] for r in rounds) for batch, rounds in by_batch.items()}
              for name, by_batch in reports.items()}
    best = {name: max(by_batch.values()) for name, by_batch in rate.items()}
    head = [f"windows/s, {batch}" for batch in batches] + [f"peak MB, {batch}" for batch in batches]
    lines = ["| | " + " | ".join(head) + " | best against ours |", "|---|" + "---:|" * (len(head) + 1)]
    for name in reports:
        cells = [f"{rate[name][batch]:.1f}" for batch in batches]
        cells += [f"{memory[name][batch]:.0f}" for batch in batches]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {best[name] / best[OURS]:.2f} |")
    return "\n".join(lines)


def preparing(args):
    ours, theirs = [], []
    if lacking := missing(["numpy", "scipy"]):
        print(f"left out: scipy: no Python package {', '.join(lacking)}; see --help", file=sys.stderr)
    for _ in range(args.rounds):
        ours.append(run([str(args.program), "bench", "--json", "--prepare", str(args.prepare)], "preparing"))
        if not lacking:
            with tempfile.TemporaryDirectory() as folder:
                theirs.append(run([sys.executable, "-c", SCIPY, str(args.prepare), folder], "scipy"))
    if None in ours:
        sys.exit("error: preparing failed")
    lines = ["| recordings to shards | s | MB/s of shards | peak MB |", "|---|---:|---:|---:|"]
    for name, reports in ((OURS, ours), ("scipy and numpy", [report for report in theirs if report])):
        if reports:
            seconds = statistics.median(report["seconds"] for report in reports)
            speed = reports[0]["shard_bytes"] / 1e6 / seconds
            peak = max(report["peak_rss_mb"] for report in reports)
            lines.append(f"| {name} | {seconds:.2f} | {speed:.0f} | {peak:.0f} |")
    return "\n".join(lines)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", type=pathlib.Path, default=ROOT / "target/release/tpu-train")
    p.add_argument("--peers", type=pathlib.Path, default=ROOT.parent / "shared/peers")
    p.add_argument("--batches", type=lambda text: [int(batch) for batch in text.split(",")], default=[32, 64, 128])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--only", type=lambda text: text.split(","), help="names of peers, as in the table")
    p.add_argument("--prepare", type=pathlib.Path)
    p.add_argument("--readme", type=pathlib.Path)
    args = p.parse_args()
    if not args.program.is_file():
        sys.exit(f"error: there is no {args.program}: cargo build --release makes it")
    cores = len(os.sched_getaffinity(0))
    text = f"{processor()}, {cores} cores, float32; medians of {args.rounds} alternating runs of {args.steps} steps:\n\n"
    text += table(measure(args), args.batches)
    if args.prepare:
        text += "\n\n" + preparing(args)
    if not args.readme:
        print(text)
        return
    readme = args.readme.read_text()
    if BEGIN not in readme or END not in readme:
        sys.exit(f"error: {args.readme} has no lines {BEGIN} and {END}")
    before, after = readme.split(BEGIN)[0], readme.split(END, 1)[1]
    args.readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()
