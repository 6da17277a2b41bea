//! The command line as typed. [`crate::config`] turns it into a run.

use crate::config::{BatchNormStatistics, Recipe};
use crate::data::{DEFAULT_WINDOW, SplitBy};
use crate::model::network::{BatchNormScope, Precision};
use crate::pjrt::{Platform, PlatformRequest};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Trains a CNN-LSTM on synchronised ECG and PCG recordings through XLA and PJRT.
#[derive(Debug, Parser)]
#[command(
    name = "tpu-train",
    version,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  tpu-train --demo                    simulate, prepare, train and evaluate a small data set\n  \
                  tpu-train --data DIR --slices 8     train on recordings over eight slices\n  \
                  tpu-train predict --model model.keras ECGPCG0003.mat"
)]
pub struct Cli {
    /// What to do; training where nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings of a training run.
    #[command(flatten)]
    pub train: TrainArgs,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a model (the default command)
    #[command(after_help = "Example: tpu-train train --data DIR --epochs 10 --out model.keras")]
    Train(Box<TrainArgs>),
    /// Turn recordings and spreadsheet into window shards with a manifest
    #[command(after_help = "Example: tpu-train prepare --data DIR --prepared shards")]
    Prepare(PrepareArgs),
    /// Write a small simulated data set in EPHNOGRAM's own form
    #[command(after_help = "Example: tpu-train simulate --out simulated --subjects 10 --seconds 20")]
    Simulate(SimulateArgs),
    /// Evaluate a saved model on labelled windows
    #[command(after_help = "Example: tpu-train eval --model model.keras --data DIR --part test")]
    Eval(EvalArgs),
    /// Predict the class of each window of new recordings
    #[command(after_help = "Example: tpu-train predict --model model.keras --json DIR/MAT/ECGPCG0003.mat")]
    Predict(PredictArgs),
    /// Write a saved model in another format, or its inference graph as HLO
    #[command(after_help = "Examples:\n  tpu-train export --model model.keras --out model.safetensors\n  \
                      tpu-train export --model model.keras --out model.hlo.txt --batch-size 32\n\n\
                      The graph's parameters are the variables, in Keras's order and under their names, and the \
                      windows [batch, samples, channels] as float32 in [0, 1]; it gives the probabilities \
                      [batch, classes].")]
    Export(ExportArgs),
    /// Measure the training step here: windows a second, memory, share of the machine's own speed
    #[command(after_help = "Example: tpu-train bench --batch-size 64 --steps 10")]
    Bench(BenchArgs),
    /// Look for what would keep a run from starting here, with remedies
    #[command(after_help = "Example: tpu-train doctor --platform tpu --slices 8\n\n\
                      No device is touched. Exits with 1 where something would stop a run.")]
    Doctor(DoctorArgs),
    /// Compile for a TPU that is not there: memory, cycles, collectives, the optimized module
    #[command(after_help = "Examples:\n  tpu-train compile --topology v5litepod-8 --batch-size 512\n  \
                      tpu-train compile --topology v5e:2x4 --num-slices 8 --hlo-out step.hlo --json\n  \
                      tpu-train compile --topology v6e-8 --executable-out step.bin -- --recipe source --seed 7\n\n\
                      libtpu does the work: tpu-train plugin install tpu")]
    Compile(Box<CompileArgs>),
    /// Print a launch on Cloud TPUs
    Deploy(crate::deploy::DeployArgs),
    /// List or install PJRT plugins
    #[command(after_help = "Example: tpu-train plugin install cpu")]
    Plugin(PluginArgs),
}

/// Where the program runs.
#[derive(Args, Clone, Debug)]
pub struct PlatformArgs {
    /// Where to run: auto takes a TPU or GPU where there is one, else the CPU
    #[arg(long, value_name = "auto|tpu|cuda|cpu", default_value_t)]
    pub platform: PlatformRequest,
    /// PJRT plugin to load instead of the one the platform would take
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Outer data-parallel axis; on CPU as many virtual devices [default: what the runtime reports; on CPU one, of a
    /// virtual device for each processor that the batch divides over]
    #[arg(long, value_name = "N")]
    pub slices: Option<usize>,
    /// Virtual devices in each slice, on CPU
    #[arg(long, value_name = "N")]
    pub devices_per_slice: Option<usize>,
}

/// Where the recordings are.
#[derive(Args, Clone, Debug)]
pub struct DataArgs {
    /// Download root with ECGPCGSpreadsheet.csv and MAT/, or a prepared folder
    /// [default: the folder that a recursive wget leaves here]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Folder of the prepared shards [default: one in the user's cache folder]
    #[arg(long, value_name = "DIR")]
    pub prepared: Option<PathBuf>,
    /// Learn this column of the spreadsheet instead of the exercise scenario
    #[arg(long, value_name = "NAME")]
    pub label_column: Option<String>,
}

/// Where the training windows are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheChoice {
    /// Where they fit: on the devices, else in host memory, else in the shards; on CPU in the shards.
    #[default]
    Auto,
    /// In the devices' memory, each window on one of them: no step needs samples from the host.
    Device,
    /// In host memory, cut and laid out.
    Host,
    /// In the shards, mapped.
    None,
}

/// Settings of a training run.
#[derive(Args, Clone, Debug)]
pub struct TrainArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub platform: PlatformArgs,
    /// Simulate a small data set in ./demo and train on it
    #[arg(long)]
    pub demo: bool,
    /// Settings to start from: readme is the plain model, source is what the source's TPU notebook sets
    #[arg(long, value_enum, default_value_t = Recipe::Readme)]
    pub recipe: Recipe,
    /// Passes over the training windows, from the run's beginning [default: 50]
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,
    /// Stop after this many steps from the run's beginning, wherever in an epoch that is
    #[arg(long, value_name = "N")]
    pub steps: Option<u64>,
    /// Windows in a step, over all replicas [default: 512 on accelerators, 32 on CPU]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch_size: Option<usize>,
    /// Samples in a window [default: 10000]
    #[arg(long, value_name = "SAMPLES")]
    pub window: Option<usize>,
    /// Samples from one window's start to the next's [default: the window]
    #[arg(long, value_name = "SAMPLES")]
    pub stride: Option<usize>,
    /// Rows of batch normalisation's statistics [default: synced]
    #[arg(long, value_enum)]
    pub batch_norm: Option<BatchNormScope>,
    /// Momentum of the moving statistics [default: 0.99]
    #[arg(long, value_name = "M")]
    pub batch_norm_momentum: Option<f64>,
    /// Which statistics batch normalisation has in evaluation and in the saved model [default: moving]
    #[arg(long, value_enum)]
    pub batch_norm_statistics: Option<BatchNormStatistics>,
    /// Learning rate at the first step [default: 0.001]
    #[arg(long, value_name = "RATE")]
    pub learning_rate: Option<f64>,
    /// Exponential decay of the learning rate: to RATE of its value in STEPS steps
    #[arg(long, value_name = "STEPS:RATE")]
    pub lr_decay: Option<String>,
    /// Share of hidden dense units dropped [default: 0]
    #[arg(long, value_name = "SHARE")]
    pub dropout: Option<f64>,
    /// L2 penalty on the hidden dense kernel [default: 0]
    #[arg(long, value_name = "FACTOR")]
    pub l2: Option<f64>,
    /// What products are computed in; all else is float32 in either [default: f32]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// What a part of the split holds whole: no subject, or no recording, is in two parts [default: subject]
    #[arg(long, value_enum)]
    pub split: Option<SplitBy>,
    /// Share of windows for validation, 0 for none [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub val_fraction: Option<f64>,
    /// Share of windows for the test at the end, 0 for none [default: 0.1]
    #[arg(long, value_name = "SHARE")]
    pub test_fraction: Option<f64>,
    /// Seed of the initial weights, the order of windows, the split and dropout [default: 42]
    #[arg(long)]
    pub seed: Option<u32>,
    /// Windows in the order of the spreadsheet, then of time
    #[arg(long)]
    pub no_shuffle: bool,
    /// Start from the weights of a saved model, whatever its layers' sizes; its optimizer starts anew
    #[arg(long, value_name = "FILE")]
    pub init_weights: Option<PathBuf>,
    /// Go on with the run whose model is in --out, with the same settings, to more --epochs or --steps
    #[arg(long, conflicts_with = "init_weights")]
    pub resume: bool,
    /// Folder of the TensorBoard logs [default: logs/fit]
    #[arg(long, value_name = "DIR")]
    pub logdir: Option<PathBuf>,
    /// Where the model is saved [default: model.keras]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Steps in one execution of the program
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = steps_at_once)]
    pub steps_per_execution: usize,
    /// Where the training windows are kept between epochs
    #[arg(long, value_enum, default_value_t = CacheChoice::Auto)]
    pub cache: CacheChoice,
    /// Training step compiled ahead of time by `compile --executable-out`; one that does not fit is left aside
    #[arg(long, value_name = "FILE", conflicts_with = "xla_dump")]
    pub executable: Option<PathBuf>,
    /// Leave the HLO of every program before and after optimization in this folder
    #[arg(long, value_name = "DIR")]
    pub xla_dump: Option<PathBuf>,
    /// Print the results as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Settings of `prepare`.
#[derive(Args, Clone, Debug)]
pub struct PrepareArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
    /// Print the results as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Settings of `simulate`.
#[derive(Args, Clone, Debug)]
pub struct SimulateArgs {
    /// Folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Simulated persons; each is recorded in all six scenarios
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub subjects: usize,
    /// Length of each recording, seconds
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    pub seconds: f64,
    /// Seed of all draws
    #[arg(long, default_value_t = 42)]
    pub seed: u64,
}

/// Windows that `eval` looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The part the model was trained on.
    Train,
    /// The part it was validated on after each epoch.
    Validation,
    /// The part held out to the end.
    Test,
    /// Every labelled window.
    All,
}

/// Settings of `eval`.
#[derive(Args, Clone, Debug)]
pub struct EvalArgs {
    /// The saved model
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub platform: PlatformArgs,
    /// Which windows; a part is cut again as the model's own run cut it
    #[arg(long, value_enum, default_value_t = Part::All)]
    pub part: Part,
    /// Windows in a step, over all replicas [default: 512 on accelerators, 32 on CPU]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch_size: Option<usize>,
    /// Samples in a window; none but the model's own will do
    #[arg(long, value_name = "SAMPLES")]
    pub window: Option<usize>,
    /// Samples from one window's start to the next's [default: the model's own]
    #[arg(long, value_name = "SAMPLES")]
    pub stride: Option<usize>,
    /// Print the results as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Settings of `predict`.
#[derive(Args, Clone, Debug)]
pub struct PredictArgs {
    /// The saved model
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Recordings: .mat files or WFDB headers
    #[arg(value_name = "FILE", required = true)]
    pub recordings: Vec<PathBuf>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub platform: PlatformArgs,
    /// Windows in a step, over all replicas [default: 512 on accelerators, 32 on CPU]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch_size: Option<usize>,
    /// Samples from one window's start to the next's [default: the model's own]
    #[arg(long, value_name = "SAMPLES")]
    pub stride: Option<usize>,
    /// Print the predictions as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Settings of `export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// The saved model
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// File to write: .keras, .weights.h5, .h5 or .safetensors, or the graph alone as .hlo.pb (a serialized
    /// HloModuleProto) or .hlo.txt
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Windows that the graph takes at once [default: 1]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch_size: Option<usize>,
}

/// Settings of `bench`.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub platform: PlatformArgs,
    /// Windows in a step, over all replicas [default: 512 on accelerators, 32 on CPU]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch_size: Option<usize>,
    /// Steps that count
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = at_least_one)]
    pub steps: usize,
    /// Steps before those that count
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = at_least_one)]
    pub warmup: usize,
    /// Samples in a window
    #[arg(long, value_name = "SAMPLES", default_value_t = DEFAULT_WINDOW)]
    pub window: usize,
    /// What products are computed in; all else is float32 in either
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Steps in one execution of the program, with --input
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = steps_at_once, requires = "input")]
    pub steps_per_execution: usize,
    /// Where the windows are kept, with --input
    #[arg(long, value_enum, default_value_t = CacheChoice::Auto, requires = "input")]
    pub cache: CacheChoice,
    /// Measure with the input pipeline of `train`, on the windows of this download or prepared folder
    #[arg(long, value_name = "DIR", group = "what")]
    pub input: Option<PathBuf>,
    /// Measure how fast the recordings of this download become shards
    #[arg(long, value_name = "DIR", group = "what")]
    pub prepare: Option<PathBuf>,
    /// Measure what a window costs as batch, windows and slices grow
    #[arg(long, group = "what")]
    pub growth: bool,
    /// Leave the HLO of the training step before and after optimization in this folder
    #[arg(long, value_name = "DIR")]
    pub xla_dump: Option<PathBuf>,
    /// Leave out the speed of a plain product, which the steps are held against
    #[arg(long)]
    pub no_product: bool,
    /// Print the results as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// Settings of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub platform: PlatformArgs,
    /// Where a model would be saved
    #[arg(long, value_name = "FILE", default_value = "model.keras")]
    pub out: PathBuf,
    /// Print the findings as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
}

/// A batch's windows are counted in float32, which holds every whole number up to this.
const MOST_WINDOWS: usize = 1 << 24;

/// A program holds the batches of all its steps.
const MOST_STEPS_AT_ONCE: usize = 1000;

fn at_least_one(typed: &str) -> Result<usize, String> {
    up_to(usize::MAX, typed)
}

fn batch(typed: &str) -> Result<usize, String> {
    up_to(MOST_WINDOWS, typed)
}

fn steps_at_once(typed: &str) -> Result<usize, String> {
    up_to(MOST_STEPS_AT_ONCE, typed)
}

fn up_to(most: usize, typed: &str) -> Result<usize, String> {
    match typed.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(count) if count > most => Err(format!("expected at most {most}")),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

/// Programs that `compile` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ProgramName {
    /// One optimizer step.
    Train,
    /// What `eval`, and `train` after each epoch, runs on a batch.
    Eval,
    /// What `predict` runs on a batch.
    Predict,
    /// Each of them.
    All,
}

/// Settings of `compile`.
#[derive(Args, Clone, Debug)]
pub struct CompileArgs {
    /// The TPU slice to compile for: v5litepod-8, v6e-8, v4-32, …, or by chips, v5e:2x4, v4:2x2x1, …
    #[arg(long, value_name = "NAME")]
    pub topology: String,
    /// TPU slices of that kind, joined by the data centre's network
    #[arg(long, visible_alias = "slices", value_name = "N", default_value_t = 1)]
    pub num_slices: usize,
    /// Windows in a step, over all replicas [default: 512]
    #[arg(long, value_name = "N", value_parser = batch)]
    pub batch_size: Option<usize>,
    /// What products are computed in [default: f32]
    #[arg(long, value_enum)]
    pub precision: Option<Precision>,
    /// Samples in a window [default: 10000]
    #[arg(long, value_name = "SAMPLES")]
    pub window: Option<usize>,
    /// Classes told apart
    #[arg(long, value_name = "N", default_value_t = 6)]
    pub classes: usize,
    /// Which program
    #[arg(long, value_enum, default_value_t = ProgramName::Train)]
    pub program: ProgramName,
    /// On v4, make one device of the two cores of a chip, as Cloud TPU VMs do
    #[arg(long)]
    pub megacore: bool,
    /// Find the largest batch that fits, by trying
    #[arg(long)]
    pub largest_batch: bool,
    /// Write the optimized module: .pb is a serialized HloModuleProto, any other name text
    #[arg(long, value_name = "FILE")]
    pub hlo_out: Option<PathBuf>,
    /// Write the executable, for `train --executable` on the same build of libtpu
    #[arg(long, value_name = "FILE")]
    pub executable_out: Option<PathBuf>,
    /// libtpu to use instead of the one installed
    #[arg(long, value_name = "FILE")]
    pub plugin: Option<PathBuf>,
    /// Print the results as one JSON object on stdout
    #[arg(long)]
    pub json: bool,
    /// Settings of `train` that decide its program: --recipe, --seed, --learning-rate, --l2, …
    #[arg(last = true, value_name = "SETTINGS")]
    pub settings: Vec<String>,
}

/// Settings of `plugin`.
#[derive(Args, Clone, Debug)]
pub struct PluginArgs {
    #[command(subcommand)]
    #[allow(missing_docs)]
    pub action: PluginAction,
}

/// What `plugin` does.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginAction {
    /// Show the plugins this program knows and where they are
    List {
        /// Print the list as one JSON object on stdout
        #[arg(long)]
        json: bool,
    },
    /// Install the pinned plugin of a platform into the user's cache folder
    Install {
        /// The platform
        #[arg(value_name = "cpu|tpu|cuda")]
        platform: Platform,
    },
}
