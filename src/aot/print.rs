//! What `compile` prints.

use serde_json::{Value, json};

use super::{Report, name};
use crate::report::optimized::{Collective, Network, bytes_over};
use crate::report::table::{Align, Table, shorten};

/// Instructions that are listed.
const COSTLIEST: usize = 10;

/// Bytes in the unit in which TPU memory is counted.
pub(super) fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / (1_u64 << 30) as f64)
}

fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

fn millions(cycles: u64) -> String {
    format!("{:.2} M", cycles as f64 / 1e6)
}

/// One program, for people.
pub(super) fn program(report: &Report) {
    let memory = &report.compiled.memory;
    if let Some(other) = report.same_as {
        println!("\n{}: the program of {}", name(report.program), name(other));
        return;
    }
    println!("\n{}: compiled in {:.1} s", name(report.program), report.compiled.seconds);
    let of = report.available.map_or(String::new(), |available| format!(" of {}", gib(available)));
    println!(
        "memory      {}{of} on each device: arguments {}, outputs {}, of which {} are arguments again, \
         temporaries {}, code {}",
        gib(memory.total()),
        mb(memory.arguments),
        mb(memory.outputs),
        mb(memory.aliased),
        mb(memory.temporaries),
        mb(memory.generated_code),
    );
    if let Some(largest) = &report.largest {
        println!("batch       {largest}");
    }
    let each = report.flops / report.devices as f64;
    println!("operations  {:.1} GFLOP a step, {:.1} on each device", report.flops / 1e9, each / 1e9);
    let collectives = &report.reading.collectives;
    println!(
        "collectives {} inside a slice (ICI), {} across slices (DCN), from each device in a step",
        mb(bytes_over(collectives, Network::Ici)),
        mb(bytes_over(collectives, Network::Dcn)),
    );
    println!("cycles      {} estimated", millions(report.reading.cycles.total));
    println!(
        "\n{}\n{}\n{}\n{}",
        loops(report),
        layers(report),
        costliest(report),
        collective_table(collectives)
    );
}

fn share(report: &Report, cycles: u64) -> String {
    format!("{:.1} %", 100.0 * cycles as f64 / report.reading.cycles.total.max(1) as f64)
}

fn loops(report: &Report) -> Table {
    let columns = [("loop", Align::Left), ("trips", Align::Right), ("cycles a trip", Align::Right)];
    let mut table = Table::new(&[columns[0], columns[1], columns[2], ("cycles", Align::Right), SHARE]);
    let cycles = &report.reading.cycles;
    for each in &cycles.loops {
        let runs = if each.runs > 1 { format!("{} x ", each.runs) } else { String::new() };
        table.row([
            format!("{}{}", "  ".repeat(each.depth), each.layer),
            format!("{runs}{}", each.trips),
            each.cycles_per_trip.to_string(),
            millions(each.cycles),
            share(report, each.cycles),
        ]);
    }
    let in_loops: u64 = cycles.loops.iter().filter(|each| each.depth == 0).map(|each| each.cycles).sum();
    let rest = cycles.total.saturating_sub(in_loops);
    table.row(["outside of loops".into(), String::new(), String::new(), millions(rest), share(report, rest)]);
    table
}

const SHARE: (&str, Align) = ("share", Align::Right);

fn layers(report: &Report) -> Table {
    let mut table = Table::new(&[("layer", Align::Left), ("cycles", Align::Right), SHARE]);
    for each in report.reading.cycles.layers.iter().take(COSTLIEST) {
        table.row([each.layer.clone(), millions(each.cycles), share(report, each.cycles)]);
    }
    table
}

fn costliest(report: &Report) -> Table {
    let columns = [("costliest", Align::Left), ("layer", Align::Left), ("runs", Align::Right)];
    let mut table = Table::new(&[
        columns[0],
        columns[1],
        columns[2],
        ("cycles each", Align::Right),
        ("cycles", Align::Right),
        SHARE,
    ]);
    for each in report.reading.cycles.instructions.iter().take(COSTLIEST) {
        table.row([
            shorten(&each.name, 40),
            each.layer.clone(),
            each.runs.to_string(),
            each.cycles_each.to_string(),
            millions(each.cycles),
            share(report, each.cycles),
        ]);
    }
    table
}

fn collective_table(collectives: &[Collective]) -> Table {
    let columns = [("collective", Align::Left), ("over", Align::Left), ("layer", Align::Left)];
    let mut table = Table::new(&[
        columns[0],
        columns[1],
        columns[2],
        ("runs", Align::Right),
        ("bytes each", Align::Right),
    ]);
    for each in collectives {
        let over = match each.network {
            Network::Ici => "ICI",
            Network::Dcn => "DCN",
        };
        table.row([
            each.operation.clone(),
            over.to_owned(),
            each.layer.clone(),
            each.runs.to_string(),
            each.bytes.to_string(),
        ]);
    }
    table
}

/// One program, for scripts.
pub(super) fn as_json(report: &Report) -> Value {
    let (memory, cycles) = (&report.compiled.memory, &report.reading.cycles);
    let collectives = &report.reading.collectives;
    json!({
        "program": name(report.program),
        "same_as": report.same_as.map(name),
        "compile_seconds": report.compiled.seconds,
        "memory": {
            "arguments": memory.arguments,
            "outputs": memory.outputs,
            "aliased": memory.aliased,
            "temporaries": memory.temporaries,
            "generated_code": memory.generated_code,
            "total": memory.total(),
            "available": report.available,
        },
        "largest_batch": report.largest.map(|largest| json!({
            "fits": largest.fits,
            "does_not_fit": largest.too_large,
            "tries": largest.tries,
            "seconds": largest.seconds,
        })),
        "flops": report.flops,
        "flops_per_device": report.flops / report.devices as f64,
        "estimated_cycles": cycles.total,
        "loops": cycles.loops,
        "layers": cycles.layers,
        "costliest": cycles.instructions.iter().take(COSTLIEST).collect::<Vec<_>>(),
        "collectives": collectives,
        "ici_bytes": bytes_over(collectives, Network::Ici),
        "dcn_bytes": bytes_over(collectives, Network::Dcn),
    })
}
