//! Simulates a small data set in EPHNOGRAM's own form: a spreadsheet, and one compressed `.mat` file a recording.
//!
//! Every subject is recorded once in each of the six scenarios. The ECG follows McSharry, Clifford, Tarassenko and
//! Smith, "A dynamical model for generating synthetic electrocardiogram signals" (IEEE Transactions on Biomedical
//! Engineering 50, 2003); the heart sounds are bursts locked to its beats, and breathing, muscles, footfalls, pedals
//! and machines disturb both. Stress tests run their whole course within the recording, however short.
//!
//! A subject's traits come from (seed, subject), everything else of a recording from (seed, subject, scenario): the
//! same settings give the same bytes, whatever the number of threads. The only operations that another platform may
//! round otherwise are the mathematics library's sines and exponentials, which reach a file only
//! where they tip a sample over half a step of the 12-bit converter.
//!
//! Invariant: the journal `simulate.json` names the files only once all of them are there; a folder without such a
//! journal is either not ours or not finished.
//!
//! ```no_run
//! use std::sync::atomic::AtomicBool;
//! use tpu_train::data::simulate::{SimulateOptions, simulate};
//!
//! let options = SimulateOptions { subjects: 4, ..SimulateOptions::new("demo-data") };
//! let report = simulate(&options, &|done, of| eprintln!("{done}/{of}"), &AtomicBool::new(false))?;
//! println!("{} recordings", report.recordings.len());
//! # Ok::<(), tpu_train::data::simulate::SimulateError>(())
//! ```

mod ecg;
mod folder;
mod mat_writer;
mod noise;
mod pcg;
mod recording;
mod rng;
mod scenario;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::prelude::*;

use folder::{Before, Journal, Line, Settings, Written};
use mat_writer::{Variable, write_mat};
use recording::{Recording, Samples, Subject};
use rng::Rng;
pub use scenario::Scenario;

/// What to simulate, and where to.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulateOptions {
    /// The folder to write; missing, empty, or what an earlier run with the same settings left.
    pub out: PathBuf,
    /// Number of subjects, 1 to 999; each makes six recordings.
    pub subjects: usize,
    /// Length of a recording in seconds, 1 to 3600.
    pub seconds: f64,
    /// Samples a second, 1000 to 48000.
    pub sampling_frequency: u32,
    /// Decides everything that is random.
    pub seed: u64,
    /// Share of the recordings that carry five channels instead of two, 0 to 1.
    pub five_channel_fraction: f64,
}

impl SimulateOptions {
    /// The demo's data set: 20 subjects, 120 recordings of 10 s at 8 kHz, one in five with five channels.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        let out = out.into();
        Self {
            out,
            subjects: 20,
            seconds: 10.0,
            sampling_frequency: 8000,
            seed: 42,
            five_channel_fraction: 0.2,
        }
    }

    fn validate(&self) -> Result<(), SimulateError> {
        let check = |fits: bool, setting, found: String, expected| {
            if fits { Ok(()) } else { Err(SimulateError::Setting { setting, found, expected }) }
        };
        let fraction = self.five_channel_fraction;
        check((1..=999).contains(&self.subjects), "subjects", self.subjects.to_string(), "1 to 999")?;
        check((1.0..=3600.0).contains(&self.seconds), "seconds", self.seconds.to_string(), "1 to 3600")?;
        let frequency = self.sampling_frequency;
        check(
            (1000..=48_000).contains(&frequency),
            "sampling frequency",
            frequency.to_string(),
            "1000 to 48000",
        )?;
        check((0.0..=1.0).contains(&fraction), "five-channel fraction", fraction.to_string(), "0 to 1")
    }

    /// Samples in a channel.
    fn samples(&self) -> usize {
        (self.seconds * f64::from(self.sampling_frequency)).round() as usize
    }
}

/// What was simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulateReport {
    /// The recordings in the spreadsheet's order.
    pub recordings: Vec<SimulatedRecording>,
    /// Samples in each channel of each recording.
    pub samples: usize,
    /// Length of all files together, in bytes.
    pub bytes: u64,
    /// True if an earlier run with the same settings had left everything in place.
    pub reused: bool,
}

/// One recording of the data set.
#[derive(Clone, Debug, PartialEq)]
pub struct SimulatedRecording {
    /// `ECGPCG0001`, …
    pub name: String,
    /// `S001`, …
    pub subject: String,
    /// What the subject did.
    pub scenario: Scenario,
    /// Mean of the heart rate asked of the model, in beats a minute.
    pub heart_rate: f64,
}

/// Why a data set could not be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimulateError {
    /// A setting is out of range.
    #[error("the number {found} for {setting} is out of range: expected {expected}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// Its value.
        found: String,
        /// The range.
        expected: &'static str,
    },
    /// The output folder holds something else.
    #[error("the folder {} is not empty, it holds {found}: name an empty or new folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// What is in it.
        found: &'static str,
    },
    /// The output folder cannot be looked at.
    #[error("cannot read the folder {}: {source}", path.display())]
    Read {
        /// The folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The stop flag was raised.
    #[error("stopped after {done} of {total} recordings; what was written is taken away")]
    Stopped {
        /// Recordings written.
        done: usize,
        /// Recordings planned.
        total: usize,
    },
}

/// A recording with its place in the data set.
struct Planned {
    name: String,
    subject: usize,
    recording: Recording,
}

/// Writes the data set, or finds it already written by the same settings.
///
/// `progress` is told the number of finished recordings and of all, from several threads. Raising `stop` ends the
/// run within one recording's time. A failed or stopped run takes its files away again.
///
/// # Errors
/// If a setting is out of range, the folder holds something else, a file cannot be written, or `stop` was raised.
pub fn simulate(
    options: &SimulateOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
    stop: &AtomicBool,
) -> Result<SimulateReport, SimulateError> {
    options.validate()?;
    let settings = Settings::from(options);
    let subjects = draw_subjects(options);
    let planned = plan(options, &subjects);
    let mut journal = Journal { settings, files: Vec::new() };
    let reused = match folder::inspect(&options.out, &journal.settings)? {
        Before::Ours(earlier) if earlier.is_whole(&options.out) => {
            journal = earlier;
            true
        }
        Before::Ours(_) | Before::Empty => {
            journal.files = write_all(options, &subjects, &planned, &journal, (progress, stop))?;
            false
        }
    };
    Ok(report(options, &planned, &journal.files, reused))
}

fn report(options: &SimulateOptions, planned: &[Planned], files: &[Written], reused: bool) -> SimulateReport {
    let recordings = planned.iter().map(|planned| SimulatedRecording {
        name: planned.name.clone(),
        subject: subject_name(planned.subject),
        scenario: planned.recording.scenario,
        heart_rate: planned.recording.mean_heart_rate(),
    });
    SimulateReport {
        recordings: recordings.collect(),
        samples: options.samples(),
        bytes: files.iter().map(|file| file.bytes).sum(),
        reused,
    }
}

fn draw_subjects(options: &SimulateOptions) -> Vec<Subject> {
    (0..options.subjects as u64)
        .map(|subject| Subject::draw(&mut Rng::new(&[options.seed, 1, subject])))
        .collect()
}

fn subject_name(subject: usize) -> String {
    format!("S{:03}", subject + 1)
}

/// All recordings in the order of their names, which is that of a shuffled deck.
fn plan(options: &SimulateOptions, subjects: &[Subject]) -> Vec<Planned> {
    let mut order: Vec<(usize, usize)> =
        (0..subjects.len()).flat_map(|subject| (0..6).map(move |class| (subject, class))).collect();
    let mut deck = Rng::new(&[options.seed, 2]);
    deck.shuffle(&mut order);
    // The five-channel recordings lie evenly among the names: each time the running share passes a whole number.
    let share = |n: usize| (n as f64 * options.five_channel_fraction).floor();
    let draw = |(n, (subject, class)): (usize, (usize, usize))| Planned {
        name: format!("ECGPCG{:04}", n + 1),
        subject,
        recording: Recording::draw(
            &subjects[subject],
            Scenario::ALL[class],
            options.seconds,
            share(n + 1) > share(n),
            Rng::new(&[options.seed, 3, subject as u64, class as u64]),
        ),
    };
    order.into_iter().enumerate().map(draw).collect()
}

/// Writes everything, the journal first and last; takes it away again if anything fails.
fn write_all(
    options: &SimulateOptions,
    subjects: &[Subject],
    planned: &[Planned],
    journal: &Journal,
    (progress, stop): (&(dyn Fn(usize, usize) + Sync), &AtomicBool),
) -> Result<Vec<Written>, SimulateError> {
    let out = &options.out;
    let write = || {
        folder::create(out)?;
        folder::write_journal(out, journal)?;
        let written = write_recordings(options, planned, progress, stop)?;
        let files = write_tables(options, subjects, planned, written)?;
        folder::write_journal(out, &Journal { files: files.clone(), ..journal.clone() })?;
        Ok(files)
    };
    let result = write();
    if result.is_err() {
        let recordings = planned.iter().map(|planned| mat_path(&planned.name));
        let tables = ["ECGPCGSpreadsheet.csv", "RECORDS", "SHA256SUMS.txt"].map(str::to_owned);
        folder::clear(out, recordings.chain(tables).map(|path| out.join(path)));
    }
    result
}

/// A written recording and whether its ECG and PCG touch an end of the converter.
type WrittenRecording = (Written, [bool; 2]);

fn write_recordings(
    options: &SimulateOptions,
    planned: &[Planned],
    progress: &(dyn Fn(usize, usize) + Sync),
    stop: &AtomicBool,
) -> Result<Vec<WrittenRecording>, SimulateError> {
    let (done, total) = (AtomicUsize::new(0), planned.len());
    let write_one = |planned: &Planned| {
        if stop.load(Ordering::Relaxed) {
            return Err(SimulateError::Stopped { done: done.load(Ordering::Relaxed), total });
        }
        let written = write_recording(options, planned)?;
        progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
        Ok(written)
    };
    planned.par_iter().map(write_one).collect()
}

fn mat_path(name: &str) -> String {
    format!("MAT/{name}.mat")
}

fn write_recording(options: &SimulateOptions, planned: &Planned) -> Result<WrittenRecording, SimulateError> {
    let frequency = options.sampling_frequency;
    let Samples { ecg, pcg, auxiliary } = planned.recording.samples(options.samples(), f64::from(frequency));
    let mut variables = vec![Variable::Signal("ECG", &ecg), Variable::Signal("PCG", &pcg)];
    if let Some([aux1, aux2, pcg2]) = &auxiliary {
        variables.splice(0..0, [Variable::Signal("AUX1", aux1), Variable::Signal("AUX2", aux2)]);
        variables.push(Variable::Signal("PCG2", pcg2));
    }
    // `validate` keeps the sampling frequency within 16 bits.
    variables.push(Variable::Scalar("fs", frequency as u16));
    let written = folder::write_file(&options.out, &mat_path(&planned.name), |mut file| {
        write_mat(&mut file, &variables)
    })?;
    let saturated = |samples: &[i16]| samples.iter().any(|&sample| sample == -2048 || sample == 2047);
    Ok((written, [saturated(&ecg), saturated(&pcg)]))
}

/// The spreadsheet, `RECORDS` and the checksums; gives all files of the data set.
fn write_tables(
    options: &SimulateOptions,
    subjects: &[Subject],
    planned: &[Planned],
    recordings: Vec<WrittenRecording>,
) -> Result<Vec<Written>, SimulateError> {
    let text_file = |path: &str, text: String| {
        folder::write_file(&options.out, path, |file: &mut dyn io::Write| file.write_all(text.as_bytes()))
    };
    let line = |(planned, (_, saturated)): (&Planned, &WrittenRecording)| {
        spreadsheet_line(options, subjects, planned, *saturated)
    };
    let lines: Vec<Line> = planned.iter().zip(&recordings).map(line).collect();
    let sheet = text_file("ECGPCGSpreadsheet.csv", folder::spreadsheet(&lines))?;
    let names: String = planned.iter().map(|planned| format!("MAT/{}\n", planned.name)).collect();
    let mut files = vec![sheet];
    files.extend(recordings.into_iter().map(|(written, _)| written));
    files.push(text_file("RECORDS", names)?);
    files.push(text_file("SHA256SUMS.txt", folder::checksums(&files))?);
    Ok(files)
}

fn spreadsheet_line(
    options: &SimulateOptions,
    subjects: &[Subject],
    planned: &Planned,
    [ecg_saturated, pcg_saturated]: [bool; 2],
) -> Line {
    let subject = &subjects[planned.subject];
    Line {
        name: planned.name.clone(),
        subject: subject_name(planned.subject),
        seconds: options.seconds,
        age: subject.age,
        female: subject.female,
        scenario: planned.recording.scenario,
        five_channels: planned.recording.five_channels,
        ecg_saturated,
        pcg_saturated,
    }
}
