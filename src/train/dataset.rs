//! Recordings brought up to date, cut into windows and dealt to parts; the subcommands `prepare` and `simulate`.

use super::pass::Windows;
use super::stop::Stop;
use crate::cli::{DataArgs, PrepareArgs, SimulateArgs, TrainArgs};
use crate::config::{Recipe, TrainConfig};
use crate::data::catalog::hex;
use crate::data::simulate::{SimulateOptions, simulate as simulate_recordings};
use crate::data::{
    self, LabelRule, PrepareEvent, PrepareOptions, Prepared, RecordingOrder, SampleType, Split, SplitOptions,
    WindowTable,
};
use anyhow::Result;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tpu_train_hlo::ElementType;

/// Where the demo's recordings are simulated.
const DEMO_RECORDINGS: &str = "demo/recordings";
const DEMO_PREPARED: &str = "demo/prepared";

/// Windows ready to be trained on or evaluated.
pub struct Dataset {
    /// The shards.
    pub prepared: Arc<Prepared>,
    /// The windows in them.
    pub table: Arc<WindowTable>,
    /// Which window belongs to which part.
    pub split: Split,
}

impl Dataset {
    /// What a training run learns from. `--demo` simulates it first.
    ///
    /// # Errors
    /// One sentence on what is wrong with the folder, a recording or the split.
    pub fn for_training(args: &TrainArgs, config: &TrainConfig, stop: &Stop) -> Result<Self> {
        let mut data = args.data.clone();
        if args.demo {
            simulate_quietly(&SimulateOptions::new(DEMO_RECORDINGS), stop)?;
            data.data = Some(DEMO_RECORDINGS.into());
            data.prepared = Some(DEMO_PREPARED.into());
        }
        let dataset = Self::open(&data, config, stop)?;
        dataset.warn_of_classes();
        Ok(dataset)
    }

    /// Says what no training can learn of these windows.
    fn warn_of_classes(&self) {
        let classes = &self.table.classes;
        let counts = self.table.class_counts(&self.split.train);
        let without: Vec<&String> =
            classes.iter().zip(counts).filter(|(_, n)| *n == 0).map(|(c, _)| c).collect();
        if let ([_, _, ..], [first, ..]) = (&classes[..], &without[..]) {
            eprintln!(
                "warning: {} of {} classes have no window to train on (the first: {first}), since the split keeps \
                 subjects or recordings whole; --split random deals single windows",
                without.len(),
                classes.len()
            );
        }
        if let [only] = &classes[..] {
            eprintln!("warning: all windows are of one class, {only}: there is nothing to tell apart");
        }
    }

    /// The windows that `config` describes.
    ///
    /// # Errors
    /// As [`Self::for_training`].
    pub fn open(args: &DataArgs, config: &TrainConfig, stop: &Stop) -> Result<Self> {
        let rule = config.label_rule();
        let prepared = bring_up_to_date(args, rule.clone(), false, stop)?;
        let order = match config.recipe {
            Recipe::Readme => RecordingOrder::Spreadsheet,
            Recipe::Source => RecordingOrder::Source,
        };
        let table = WindowTable::new(&prepared, config.window, config.stride, &rule, order)?;
        report_left_out("belong to no class", &table.unlabelled);
        report_left_out("are shorter than a window", &table.too_short);
        let split = Split::new(
            &table,
            &SplitOptions {
                by: config.split,
                validation: config.val_fraction,
                test: config.test_fraction,
                seed: config.seed.into(),
                validate_on_test: config.validates_on_test(),
            },
        )?;
        Ok(Self { prepared, table: Arc::new(table), split })
    }

    /// The windows at these places of the table.
    pub fn select<'a>(&'a self, indices: &'a [u32]) -> Windows<'a> {
        Windows { prepared: &self.prepared, table: &self.table, indices }
    }

    /// The element type the windows travel in.
    pub fn element_type(&self) -> ElementType {
        element_type(&self.table)
    }

    /// Windows to train, to validate and to test.
    pub fn windows(&self) -> [usize; 3] {
        [&self.split.train, &self.split.validation, &self.split.test].map(Vec::len)
    }

    /// Samples a second, of the first recording.
    pub fn sampling_frequency(&self) -> f64 {
        self.prepared.recordings().first().map_or(0.0, |recording| recording.shard.sampling_rate)
    }

    /// What two runs have in common that learn from the same windows: the samples' checksums, their classes, the cut
    /// into windows and the deal of the parts. SHA-256 in hexadecimal.
    pub fn fingerprint(&self) -> String {
        let mut bytes = Vec::new();
        for window in &self.table.windows {
            let shard = &self.prepared.recordings()[window.recording as usize].shard;
            bytes.extend(window.start.to_le_bytes());
            bytes.extend([shard.crc32, window.label].map(u32::to_le_bytes).concat());
        }
        for part in [&self.split.train, &self.split.validation, &self.split.test] {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part.iter().flat_map(|index| index.to_le_bytes()));
        }
        bytes.extend(self.table.classes.join("\n").as_bytes());
        hex(&Sha256::digest(&bytes))
    }

    /// The windows and their classes, for the run header.
    pub fn describe(&self) -> String {
        format!(
            "{} windows of {} recordings, {} subjects: {} to train, {} to validate, {} to test\n\
             classes        {}: {}",
            self.table.len(),
            self.table.recordings(),
            self.table.subjects.len(),
            self.split.train.len(),
            self.split.validation.len(),
            self.split.test.len(),
            self.table.classes.len(),
            self.table.classes.join(", ")
        )
    }
}

/// The element type that a table's windows travel in.
pub(super) fn element_type(table: &WindowTable) -> ElementType {
    match table.sample_type {
        SampleType::Int16 => ElementType::S16,
        SampleType::Float32 => ElementType::F32,
    }
}

fn report_left_out(why: &str, recordings: &[String]) {
    if !recordings.is_empty() {
        eprintln!("note: {} recordings {why} and are left out: {}", recordings.len(), recordings.join(", "));
    }
}

impl TrainConfig {
    /// How recordings get their classes.
    pub fn label_rule(&self) -> LabelRule {
        match (&self.label_column, self.recipe) {
            (Some(column), _) => LabelRule::Column(column.clone()),
            (None, Recipe::Source) => LabelRule::SourceScenario,
            (None, Recipe::Readme) => LabelRule::Scenario,
        }
    }
}

fn bring_up_to_date(args: &DataArgs, rule: LabelRule, verify: bool, stop: &Stop) -> Result<Arc<Prepared>> {
    let mut options = PrepareOptions::new(args.data.clone());
    options.out = args.prepared.clone();
    options.rule = rule;
    options.verify = verify;
    options.stop = stop.flag();
    let prepared = data::prepare(&options, &print_event)?;
    for warning in prepared.warnings() {
        eprintln!("warning: {warning}");
    }
    Ok(Arc::new(prepared))
}

/// One line for each recording that was converted; what was there already is not worth one.
fn print_event(event: PrepareEvent<'_>) {
    match event {
        PrepareEvent::Waiting { folder } => {
            eprintln!("waiting for another process to finish preparing {}", folder.display());
        }
        PrepareEvent::Recording { name, reused: false, bytes, done, recordings } => {
            eprintln!("prepared {name} ({done}/{recordings}), {:.1} MB", bytes as f64 / 1e6);
        }
        PrepareEvent::Started { .. } | PrepareEvent::Recording { .. } => {}
    }
}

/// The subcommand `prepare`.
///
/// # Errors
/// One sentence on what is wrong with the folder or a recording.
pub fn prepare(args: &PrepareArgs, stop: &Stop) -> Result<()> {
    let rule = args.data.label_column.clone().map_or(LabelRule::Scenario, LabelRule::Column);
    let prepared = bring_up_to_date(&args.data, rule, true, stop)?;
    let (recordings, bytes) = (prepared.recordings().len(), prepared.bytes());
    let folder = prepared.folder().unwrap_or(Path::new(""));
    if args.json {
        println!("{}", json!({ "folder": folder, "recordings": recordings, "bytes": bytes }));
    } else {
        println!("{recordings} recordings, {:.1} MB, in {}", bytes as f64 / 1e6, folder.display());
    }
    Ok(())
}

/// The subcommand `simulate`.
///
/// # Errors
/// A setting out of range, a folder that holds something else, or the disk.
pub fn simulate(args: &SimulateArgs, stop: &Stop) -> Result<()> {
    let mut options = SimulateOptions::new(&args.out);
    options.subjects = args.subjects;
    options.seconds = args.seconds;
    options.seed = args.seed;
    simulate_quietly(&options, stop)
}

fn simulate_quietly(options: &SimulateOptions, stop: &Stop) -> Result<()> {
    let report = simulate_recordings(options, &|_, _| {}, &stop.flag())?;
    let verb = if report.reused { "found" } else { "simulated" };
    eprintln!(
        "{verb} {} recordings of {} s, {:.1} MB, in {}",
        report.recordings.len(),
        options.seconds,
        report.bytes as f64 / 1e6,
        options.out.display()
    );
    Ok(())
}

/// A folder for a file, made if need be.
pub(super) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => ".".into(),
    }
}
