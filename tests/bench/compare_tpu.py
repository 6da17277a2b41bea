#!/usr/bin/env python3
"""The training step beside the same step in plain JAX, compiled for TPUs by the same libtpu, without a TPU.

usage: compare_tpu.py [--program FILE] [--peers DIR] [--topologies v5e:2x4,…] [--precisions f32,bf16] [--rows 64]

For each topology and precision: the compiler's own estimated cycles and the temporaries in HBM of one device with
--rows windows, ours and JAX's. A yardstick for two programs, not a time. About a minute for each line.

Needs libtpu (tpu-train plugin install tpu) and, in Python's path or PYTHONPATH, jax and the same build of libtpu:
pip install --target DIR jax libtpu==0.0.52
"""
import argparse
import pathlib
import sys

import compare

TOPOLOGIES = "v3:2x2,v4:2x2x1,v5e:2x4,v5p:2x2x1,v6e:2x4"


def measured(command, label):
    return compare.run(command, label) or sys.exit(f"error: {label} failed")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--program", type=pathlib.Path, default=compare.ROOT / "target/release/tpu-train")
    p.add_argument("--peers", type=pathlib.Path, default=compare.ROOT.parent / "shared/peers")
    p.add_argument("--topologies", type=lambda text: text.split(","), default=TOPOLOGIES.split(","))
    p.add_argument("--precisions", type=lambda text: text.split(","), default=["f32", "bf16"])
    p.add_argument("--rows", type=int, default=64)
    args = p.parse_args()
    print("| topology | precision | cycles, M: ours | JAX | ratio | temporaries, MB: ours | JAX |", flush=True)
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for topology in args.topologies:
        for precision in args.precisions:
            reference = [sys.executable, str(args.peers / "jax_tpu_reference.py"), topology, str(args.rows), precision]
            jax = measured(reference, f"JAX for {topology}")
            batch = str(jax["devices"] * args.rows)
            program = [str(args.program), "compile", "--json", "--topology", topology, "--batch-size", batch,
                       "--precision", precision]
            ours = measured(program, f"tpu-train for {topology}")
            print(row(topology, precision, ours, jax), flush=True)


def row(topology, precision, ours, jax):
    program = ours["programs"][0]
    cycles, temporaries = program["estimated_cycles"] / 1e6, program["memory"]["temporaries"] / 1e6
    theirs = jax["estimated_cycles"] / 1e6
    return (f"| {topology} | {precision} | {cycles:.1f} | {theirs:.1f} | {cycles / theirs:.2f} "
            f"| {temporaries:.0f} | {jax['temp_mb']} |")


if __name__ == "__main__":
    main()
