//! Compiling ahead of time: the subcommand `compile`, which needs libtpu and no TPU.
//!
//! A **target** is a topology that libtpu knows; the programs are those of `train`, `eval` and `predict`, built for
//! as many replicas as the target has devices. What libtpu's compiler says of them is measured nowhere but there: its
//! memory is exact, its cycles are estimates.

mod attempt;
mod largest;
mod print;
mod target;

use anyhow::{Context, Result, bail};
use clap::Parser;
use prost::Message;
use serde_json::{Value, json};
use tpu_train_hlo::{ElementType, text};
use tpu_train_proto::xla::HloModuleProto;

use crate::cli::{Cli, Command, CompileArgs, ProgramName};
use crate::config::TrainConfig;
use crate::data::CHANNELS;
use crate::model::forms::Forms;
use crate::model::optimizer::Adam;
use crate::model::step::{self, StepConfig};
use crate::model::{ModelConfig, files, flops};
use crate::pjrt::{self, Platform, PlatformRequest, plugin};
use crate::report::optimized::{self, Reading};
use crate::runtime::ExecutableHeader;
use crate::topology::Mesh;
use attempt::{Attempt, Compiled};
use target::Target;

/// Windows in a step where nothing else is asked for: `train`'s on an accelerator.
const BATCH: usize = 512;

/// Makes the environment that of a compiler, and says which variables it sets aside. Call it first in `main`.
pub fn prepare_environment() {
    let aside = pjrt::prepare_ahead_of_time();
    if !aside.is_empty() {
        eprintln!("note: compiling ahead of time takes no account of {}", aside.join(", "));
    }
}

/// The subcommand `compile`.
///
/// # Errors
/// One sentence on what is wrong with the topology, the settings, libtpu or the files to write; a program that does
/// not fit into memory, with the largest batch that does.
///
/// `stopped` says whether the user wants no further compilation.
pub fn run(args: &CompileArgs, stopped: &dyn Fn() -> bool) -> Result<()> {
    check(args)?;
    let config = run_config(args)?;
    let file = plugin::discover(PlatformRequest::Only(Platform::Tpu), args.plugin.as_deref())?;
    let mut reports = Vec::new();
    let target = pjrt::or_last_words(&file.path, || -> Result<Target> {
        let target = Target::open(&file, args)?;
        let job = Job::new(args, &config, &target, stopped)?;
        eprintln!(
            "target   {target}, {}\nbatch    {}, {} on each device",
            file.origin, job.batch, job.step.rows
        );
        for program in programs(args.program) {
            let report = job.report(program, &reports)?;
            if !args.json {
                print::program(&report);
            }
            reports.push(report);
        }
        Ok(target)
    })?;
    if args.json {
        println!("{}", summary(args, &config, &target, &file.origin, &reports));
    }
    Ok(())
}

fn check(args: &CompileArgs) -> Result<()> {
    let one_program = args.program != ProgramName::All;
    for (option, file) in [("--hlo-out", &args.hlo_out), ("--executable-out", &args.executable_out)] {
        if file.is_some() && !one_program {
            bail!("{option} takes one program: name it with --program train, eval or predict");
        }
    }
    if args.num_slices == 0 || args.classes == 0 {
        bail!("--num-slices and --classes must be at least 1");
    }
    Ok(())
}

fn programs(asked: ProgramName) -> Vec<ProgramName> {
    match asked {
        ProgramName::All => vec![ProgramName::Train, ProgramName::Eval, ProgramName::Predict],
        one => vec![one],
    }
}

/// The training run whose programs are compiled: what stands behind `--`, and the options over it.
fn run_config(args: &CompileArgs) -> Result<TrainConfig> {
    let settings = ["tpu-train", "train"].into_iter().chain(args.settings.iter().map(String::as_str));
    let cli = Cli::try_parse_from(settings).unwrap_or_else(|error| error.exit());
    let Some(Command::Train(mut train)) = cli.command else { bail!("behind -- stand settings of `train`") };
    train.batch_size = args.batch_size.or(train.batch_size);
    train.precision = args.precision.or(train.precision);
    train.window = args.window.or(train.window);
    Ok(TrainConfig::resolve(&train)?)
}

/// What is compiled, and for what.
struct Job<'a> {
    args: &'a CompileArgs,
    target: &'a Target,
    step: StepConfig,
    batch: usize,
    stopped: &'a dyn Fn() -> bool,
}

/// What became of one program.
struct Report {
    program: ProgramName,
    /// The module before optimization, serialized.
    module: Vec<u8>,
    compiled: Compiled,
    reading: Reading,
    /// Floating-point operations of one step of the global batch.
    flops: f64,
    devices: usize,
    /// Bytes of a device's memory, where libtpu says.
    available: Option<u64>,
    largest: Option<largest::Largest>,
    /// The program whose module this is as well.
    same_as: Option<ProgramName>,
}

impl<'a> Job<'a> {
    fn new(
        args: &'a CompileArgs,
        config: &TrainConfig,
        target: &'a Target,
        stopped: &'a dyn Fn() -> bool,
    ) -> Result<Self> {
        let replicas = target.device_ids.len();
        let batch = config.batch_size.unwrap_or(BATCH);
        let rows = Mesh::over(replicas, args.num_slices)?.rows(batch)?;
        let mut model = ModelConfig::new(config.window, CHANNELS.len(), args.classes);
        model.l2 = config.l2;
        model.dropout = config.dropout;
        model.batch_norm_momentum = config.batch_norm_momentum;
        if model.lstm_steps() == 0 {
            let shortest = model.shortest_window();
            bail!("--window {} is too short: the network needs at least {shortest} samples", config.window);
        }
        let step = StepConfig {
            model,
            optimizer: Adam::new(config.learning_rate),
            replicas,
            rows,
            batch_norm: config.batch_norm,
            precision: config.precision,
            samples: ElementType::S16,
            seed: config.seed,
            forms: Forms::ACCELERATOR,
        };
        Ok(Self { args, target, step, batch, stopped })
    }

    fn module(&self, program: ProgramName, rows: usize) -> Result<HloModuleProto> {
        let config = StepConfig { rows, ..self.step.clone() };
        let program = match program {
            ProgramName::Train | ProgramName::All => step::train_step(&config)?,
            ProgramName::Eval | ProgramName::Predict => step::evaluate(&config)?,
        };
        Ok(program.module)
    }

    fn flops(&self, program: ProgramName) -> f64 {
        match program {
            ProgramName::Train | ProgramName::All => flops::training_flops(&self.step.model, self.batch),
            ProgramName::Eval | ProgramName::Predict => flops::forward_flops(&self.step.model, self.batch),
        }
    }

    /// Compiles a program, unless its module is one that was compiled before, and writes the files asked for.
    fn report(&self, program: ProgramName, before: &[Report]) -> Result<Report> {
        if (self.stopped)() {
            bail!("stopped before {} was compiled", name(program));
        }
        let module = self.module(program, self.step.rows)?.encode_to_vec();
        let known = before.iter().find(|report| report.module == module);
        let compiled = match known {
            Some(report) => report.compiled.clone(),
            None => match attempt::compile(self.target, &module)? {
                Attempt::Fits(compiled) => compiled,
                Attempt::TooLarge(problem) => return Err(self.too_large(program, &problem)?),
            },
        };
        self.write(&module, &compiled)?;
        let largest = match (self.args.largest_batch, known) {
            (true, None) => Some(largest::search(self, program, Some(&compiled))?),
            _ => None,
        };
        Ok(Report {
            program,
            reading: optimized::read(&compiled.optimized),
            flops: self.flops(program),
            devices: self.step.replicas,
            available: self.target.memory,
            largest,
            same_as: known.map(|report| report.program),
            module,
            compiled,
        })
    }

    fn too_large(&self, program: ProgramName, problem: &attempt::TooLarge) -> Result<anyhow::Error> {
        let what = format!("{} of batch {} does not fit: {problem}", name(program), self.batch);
        let largest = largest::search(self, program, None)?;
        Ok(anyhow::anyhow!("{what}; {largest}"))
    }

    fn write(&self, module: &[u8], compiled: &Compiled) -> Result<()> {
        if let Some(path) = &self.args.hlo_out {
            let is_proto = path.extension().is_some_and(|ending| ending == "pb");
            let mut optimized = HloModuleProto::clone(&compiled.optimized);
            optimized::note_trips(&mut optimized);
            let bytes =
                if is_proto { optimized.encode_to_vec() } else { text::print(&optimized).into_bytes() };
            files::write_bytes(path, &bytes).context("--hlo-out")?;
        }
        if let Some(path) = &self.args.executable_out {
            let Target { version, kind, device_ids, .. } = self.target;
            let header = ExecutableHeader::new(version, kind, module, device_ids);
            let file = header.file(&compiled.executable.serialize()?)?;
            files::write_bytes(path, &file).context("--executable-out")?;
        }
        Ok(())
    }
}

fn name(program: ProgramName) -> &'static str {
    match program {
        ProgramName::Train => "train",
        ProgramName::Eval => "eval",
        ProgramName::Predict => "predict",
        ProgramName::All => "all",
    }
}

fn summary(
    args: &CompileArgs,
    config: &TrainConfig,
    target: &Target,
    plugin: &str,
    reports: &[Report],
) -> Value {
    let batch = config.batch_size.unwrap_or(BATCH);
    json!({
        "topology": args.topology,
        "libtpu_topology": target.name,
        "plugin": plugin,
        "plugin_build": target.version,
        "device": target.kind,
        "devices": target.device_ids.len(),
        "processes": target.processes,
        "num_slices": args.num_slices,
        "device_ids": [target.device_ids.first(), target.device_ids.last()],
        "batch_size": batch,
        "per_replica_batch": batch / target.device_ids.len(),
        "window": config.window,
        "precision": config.precision,
        "hbm_bytes": target.memory,
        "programs": reports.iter().map(print::as_json).collect::<Vec<_>>(),
    })
}
