//! Windows as views: which stretch of which recording, with which label.
//!
//! Window, stride and labels are chosen at training time, so one prepared set serves them all.

use std::collections::HashMap;

use super::labels::Labels;
use super::spreadsheet::{SUBJECT_ID, field};
use super::{DataError, LabelRule, Prepared, SOURCE_ORDER, SampleType};

/// A fixed-length cut of one recording: one example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Index into [`Prepared::recordings`].
    pub recording: u32,
    /// First time point.
    pub start: u64,
    /// Index into [`WindowTable::classes`].
    pub label: u32,
}

/// In which order recordings give their windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RecordingOrder {
    /// As the spreadsheet lists them.
    #[default]
    Spreadsheet,
    /// As the source's directory listing gave them ([`SOURCE_ORDER`]); others follow in spreadsheet order.
    Source,
}

/// All windows of a set, recording by recording, then in time.
#[derive(Clone, Debug)]
pub struct WindowTable {
    /// The windows.
    pub windows: Vec<Window>,
    /// Class names; labels index them.
    pub classes: Vec<String>,
    /// Time points of a window.
    pub window: usize,
    /// Time points from one window's start to the next.
    pub stride: usize,
    /// Channels of a window.
    pub channels: usize,
    /// How batches carry samples: int16 only if every recording in the table is.
    pub sample_type: SampleType,
    /// Distinct subjects, in order of appearance.
    pub subjects: Vec<String>,
    /// Subject of each recording of the prepared set, an index into `subjects`; `u32::MAX` where it gives no windows.
    pub subject_of_recording: Vec<u32>,
    /// Recordings of the prepared set that belong to no class.
    pub unlabelled: Vec<String>,
    /// Recordings too short for one window.
    pub too_short: Vec<String>,
}

impl WindowTable {
    /// Cuts every labelled recording into windows of `window` time points every `stride`; the tail is dropped.
    ///
    /// # Errors
    /// When window or stride is 0, no recording is as long as a window, the label column is missing, or no recording
    /// belongs to a class.
    pub fn new(
        prepared: &Prepared,
        window: usize,
        stride: usize,
        rule: &LabelRule,
        order: RecordingOrder,
    ) -> Result<Self, DataError> {
        let fields = prepared.recordings().iter().map(|r| &r.fields);
        let place = prepared.folder().map_or("the set".into(), |f| format!("prepared set {}", f.display()));
        let labels = rule.assign(fields, &place)?;
        if labels.classes.is_empty() {
            let reason = format!(
                "none of the {} recordings has a class in column \"{}\"",
                prepared.recordings().len(),
                rule.column()
            );
            return Err(DataError::NoRecordings { reason });
        }
        Self::build(prepared, window, stride, labels, order)
    }

    /// As [`WindowTable::new`] for recordings without labels: every window has label 0 and there are no classes.
    ///
    /// # Errors
    /// When window or stride is 0, or no recording is as long as a window.
    pub fn unlabelled(prepared: &Prepared, window: usize, stride: usize) -> Result<Self, DataError> {
        let labels = Labels { classes: Vec::new(), of_row: vec![Some(0); prepared.recordings().len()] };
        Self::build(prepared, window, stride, labels, RecordingOrder::Spreadsheet)
    }

    fn build(
        prepared: &Prepared,
        window: usize,
        stride: usize,
        labels: Labels,
        order: RecordingOrder,
    ) -> Result<Self, DataError> {
        let recordings = prepared.recordings();
        let channels = recordings.first().map_or(0, |r| r.shard.channels.len());
        check_settings(prepared, &labels, window, stride)?;
        let mut table = Self {
            windows: Vec::new(),
            classes: labels.classes,
            window,
            stride,
            channels,
            sample_type: SampleType::Int16,
            subjects: Vec::new(),
            subject_of_recording: vec![u32::MAX; recordings.len()],
            unlabelled: Vec::new(),
            too_short: Vec::new(),
        };
        let mut subject_index = HashMap::new();
        for index in recording_order(prepared, order) {
            let entry = &recordings[index];
            let Some(label) = labels.of_row[index] else {
                table.unlabelled.push(entry.shard.name.clone());
                continue;
            };
            let count = window_count(entry.shard.samples, window, stride);
            let all = table.windows.len() as u64 + count;
            if u32::try_from(all).is_err() {
                let problem = format!("more than {} windows: choose a larger stride", u32::MAX);
                return Err(DataError::Window { problem });
            }
            if count == 0 {
                table.too_short.push(entry.shard.name.clone());
                continue;
            }
            if entry.shard.sample_type == SampleType::Float32 {
                table.sample_type = SampleType::Float32;
            }
            let subject = subject_of(prepared, index);
            let next = table.subjects.len() as u32;
            let known = *subject_index.entry(subject.clone()).or_insert(next);
            if known == next {
                table.subjects.push(subject);
            }
            table.subject_of_recording[index] = known;
            let recording = index as u32;
            let starts = (0..count).map(|i| i * stride as u64);
            table.windows.extend(starts.map(|start| Window { recording, start, label }));
        }
        Ok(table)
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Recordings that have windows.
    pub fn recordings(&self) -> usize {
        self.subject_of_recording.iter().filter(|&&subject| subject != u32::MAX).count()
    }

    /// Whether there are no windows; [`WindowTable::new`] never gives such a table.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// The subject of a window, an index into [`WindowTable::subjects`].
    pub fn subject(&self, window: u32) -> u32 {
        self.subject_of_recording[self.windows[window as usize].recording as usize]
    }

    /// How many of these windows each class has.
    pub fn class_counts(&self, windows: &[u32]) -> Vec<u64> {
        let mut counts = vec![0; self.classes.len()];
        for &window in windows {
            counts[self.windows[window as usize].label as usize] += 1;
        }
        counts
    }

    /// The same windows with labels that index `classes`, those of a saved model, say.
    ///
    /// # Errors
    /// When a class of this table is not among `classes`.
    pub fn with_classes(mut self, classes: &[String]) -> Result<Self, DataError> {
        let position = |name: &String| {
            classes.iter().position(|c| c == name).map(|i| i as u32).ok_or_else(|| DataError::Labels {
                problem: format!(
                    "class \"{name}\" of the recordings is not among the model's: {}",
                    classes.join(", ")
                ),
            })
        };
        let map = self.classes.iter().map(position).collect::<Result<Vec<_>, _>>()?;
        for window in &mut self.windows {
            window.label = map[window.label as usize];
        }
        self.classes = classes.to_vec();
        Ok(self)
    }
}

/// Whole windows that fit into `samples`.
fn window_count(samples: u64, window: usize, stride: usize) -> u64 {
    match samples.checked_sub(window as u64) {
        Some(rest) => rest / stride as u64 + 1,
        None => 0,
    }
}

fn check_settings(
    prepared: &Prepared,
    labels: &Labels,
    window: usize,
    stride: usize,
) -> Result<(), DataError> {
    let fail = |problem: String| Err(DataError::Window { problem });
    if window == 0 || stride == 0 {
        return fail(format!("window {window} and stride {stride}: expected at least 1 each"));
    }
    let labelled = prepared.recordings().iter().zip(&labels.of_row).filter(|(_, label)| label.is_some());
    let longest = labelled.max_by_key(|(entry, _)| entry.shard.samples);
    match longest {
        None => Err(DataError::NoRecordings { reason: "the set has no recording".into() }),
        Some((entry, _)) if entry.shard.samples < window as u64 => fail(format!(
            "a window of {window} samples fits no recording: the longest, {}, has {}; choose --window {} or less",
            entry.shard.name, entry.shard.samples, entry.shard.samples
        )),
        Some(_) => Ok(()),
    }
}

/// The row's subject; a recording without one counts as a person of its own.
fn subject_of(prepared: &Prepared, recording: usize) -> String {
    let entry = &prepared.recordings()[recording];
    match field(&entry.fields, SUBJECT_ID).map(str::trim) {
        Some(subject) if !subject.is_empty() => subject.to_owned(),
        _ => format!("unknown, recording {}", entry.shard.name),
    }
}

fn recording_order(prepared: &Prepared, order: RecordingOrder) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..prepared.recordings().len()).collect();
    if order == RecordingOrder::Source {
        let rank: HashMap<&str, usize> = SOURCE_ORDER.iter().enumerate().map(|(i, n)| (*n, i)).collect();
        let name = |index: usize| prepared.recordings()[index].shard.name.as_str();
        indices.sort_by_key(|&index| rank.get(name(index)).copied().unwrap_or(usize::MAX));
    }
    indices
}
