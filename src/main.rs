//! `tpu-train`: parse, run, exit code.

use clap::Parser;
use mimalloc::MiMalloc;
use std::process::ExitCode;
use tpu_train::cli::{Cli, Command};
use tpu_train::{aot, deploy, doctor, pjrt, train};

/// The whole process's, plugins included (feature `override`): XLA:CPU allocates a step's memory anew for each step, and
/// libc gives it back in between, which cost a quarter of the step's time in page faults.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    // Before any thread: the plugins read the environment once.
    pjrt::prepare_environment();
    let cli = Cli::parse();
    if matches!(cli.command, Some(Command::Compile(_))) {
        aot::prepare_environment();
    }
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", sentence(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line that a terminal can show, whatever a file has put into it. Most name their cause
/// themselves.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text += &format!(": {cause}");
        }
    }
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.lines().collect::<Vec<_>>().join(" ").chars().map(shown).collect()
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let stop = train::stop::on_interrupt()?;
    match cli.command.unwrap_or(Command::Train(Box::new(cli.train))) {
        Command::Train(args) => train::run(&args, &stop),
        Command::Prepare(args) => train::dataset::prepare(&args, &stop),
        Command::Simulate(args) => train::dataset::simulate(&args, &stop),
        Command::Eval(args) => train::evaluate::run(&args, &stop),
        Command::Predict(args) => train::predict::run(&args, &stop),
        Command::Export(args) => train::export::run(&args),
        Command::Bench(args) => train::bench::run(&args, &stop),
        Command::Doctor(args) => doctor::run(&args),
        Command::Compile(args) => aot::run(&args, &|| stop.requested()),
        Command::Deploy(args) => Ok(deploy::run(&args)?),
        Command::Plugin(args) => train::plugin::run(&args),
    }
}
