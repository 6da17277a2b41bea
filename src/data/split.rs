//! Dealing windows to training, validation and test.
//!
//! By subject (the default) a person is in one part only, so test figures say what happens on a new person. By
//! recording, people may recur. At random, windows of one recording fall into every part, as in the source:
//! `RandomState(seed).permutation(n)`, the first ⌈test · n⌉ windows are the test set, the next ⌈validation · n⌉ the
//! validation set, the rest trains.

use std::collections::HashMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::mt19937::{Mt19937, permutation};
use super::{DataError, WindowTable};

/// What is dealt out as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SplitBy {
    /// All windows of a person.
    #[default]
    Subject,
    /// All windows of a recording.
    Recording,
    /// Each window by itself.
    Random,
}

/// How to split.
#[derive(Clone, Debug, PartialEq)]
pub struct SplitOptions {
    /// What is dealt out as a whole.
    pub by: SplitBy,
    /// Share of windows for validation, in [0, 1).
    pub validation: f64,
    /// Share of windows for test, in [0, 1).
    pub test: f64,
    /// Seed of the deal.
    pub seed: u64,
    /// The source's way (with [`SplitBy::Random`]): it had no third part and validated on its test set.
    pub validate_on_test: bool,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self { by: SplitBy::Subject, validation: 0.1, test: 0.1, seed: 42, validate_on_test: false }
    }
}

/// Window indices of each part. Disjoint and exhaustive, unless validation is on the test set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// For training.
    pub train: Vec<u32>,
    /// For the end of each epoch.
    pub validation: Vec<u32>,
    /// For the end.
    pub test: Vec<u32>,
}

/// Deals tried by group; the best one counts.
const TRIES: u32 = 256;

impl Split {
    /// Splits the table's windows; the same table and options always give the same split. By subject or recording,
    /// parts list their windows in the table's order; at random, in the permutation's.
    ///
    /// # Errors
    /// When a fraction is out of range, or there are fewer subjects, recordings or windows than parts.
    pub fn new(table: &WindowTable, options: &SplitOptions) -> Result<Self, DataError> {
        let (validation, test) = (options.validation, options.test);
        let valid = |f: f64| (0.0..1.0).contains(&f);
        if !valid(validation) || !valid(test) || validation + test >= 1.0 {
            return Err(DataError::Split {
                problem: format!(
                    "validation fraction {validation} and test fraction {test}: expected each in [0, 1) and a sum below 1"
                ),
            });
        }
        match options.by {
            SplitBy::Random => random(table, options),
            SplitBy::Subject => by_group(table, options, "subject", |window| table.subject(window)),
            SplitBy::Recording => {
                by_group(table, options, "recording", |window| table.windows[window as usize].recording)
            }
        }
    }
}

/// A seed for the 32-bit generator: itself if it fits, as numpy takes it.
fn seed32(seed: u64) -> u32 {
    (seed ^ (seed >> 32)) as u32
}

fn random(table: &WindowTable, options: &SplitOptions) -> Result<Split, DataError> {
    let n = table.len();
    let share = |fraction: f64| (fraction * n as f64).ceil() as usize;
    let test = share(options.test);
    let validation = if options.validate_on_test { 0 } else { share(options.validation) };
    if test + validation >= n {
        return Err(DataError::Split {
            problem: format!(
                "{n} windows do not suffice for {validation} validation, {test} test and any training windows: choose a smaller --stride, --val-fraction 0 or --test-fraction 0"
            ),
        });
    }
    let mut order = permutation(seed32(options.seed), n as u32);
    let train = order.split_off(test + validation);
    let validation = if options.validate_on_test { order.clone() } else { order.split_off(test) };
    Ok(Split { train, validation, test: order })
}

/// A subject or recording, with its windows by class.
struct Group {
    windows: u64,
    classes: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Train,
    Validation,
    Test,
}

fn by_group(
    table: &WindowTable,
    options: &SplitOptions,
    noun: &str,
    group_of: impl Fn(u32) -> u32,
) -> Result<Split, DataError> {
    let (groups, of_window) = collect_groups(table, group_of);
    let parts = 1 + usize::from(options.validation > 0.0) + usize::from(options.test > 0.0);
    if groups.len() < parts {
        let found = groups.len();
        let plural = if found == 1 { "" } else { "s" };
        return Err(DataError::Split {
            problem: format!(
                "{found} {noun}{plural} cannot be dealt to {parts} parts: choose --split random, or --val-fraction 0 and --test-fraction 0"
            ),
        });
    }
    let mut generator = Mt19937::new(seed32(options.seed));
    let deals = (0..TRIES).map(|_| deal(&groups, options, &mut generator));
    let (_, parts) = deals
        .map(|parts| (penalty(&groups, &parts, options), parts))
        .min_by(|(a, _), (b, _)| a.total_cmp(b))
        .unwrap_or_else(|| (0.0, vec![Part::Train; groups.len()]));
    let pick = |part: Part| {
        let windows = 0..table.len() as u32;
        windows.filter(|&w| parts[of_window[w as usize]] == part).collect::<Vec<u32>>()
    };
    let (train, validation, test) = (pick(Part::Train), pick(Part::Validation), pick(Part::Test));
    let validation = if options.validate_on_test { test.clone() } else { validation };
    Ok(Split { train, validation, test })
}

/// Groups in order of appearance, and each window's group.
fn collect_groups(table: &WindowTable, group_of: impl Fn(u32) -> u32) -> (Vec<Group>, Vec<usize>) {
    let mut index = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    let mut of_window = Vec::with_capacity(table.len());
    for window in 0..table.len() as u32 {
        let at = *index.entry(group_of(window)).or_insert(groups.len());
        if at == groups.len() {
            groups.push(Group { windows: 0, classes: vec![0; table.classes.len().max(1)] });
        }
        groups[at].windows += 1;
        groups[at].classes[table.windows[window as usize].label as usize] += 1;
        of_window.push(at);
    }
    (groups, of_window)
}

/// One deal: groups in random order go to test, then to validation, while that brings the part closer to its share.
fn deal(groups: &[Group], options: &SplitOptions, generator: &mut Mt19937) -> Vec<Part> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, generator.interval(i as u32) as usize);
    }
    let total: u64 = groups.iter().map(|g| g.windows).sum();
    let mut parts = vec![Part::Train; groups.len()];
    let validation = if options.validate_on_test { 0.0 } else { options.validation };
    let mut left = groups.len();
    for (part, fraction, reserve) in
        [(Part::Test, options.test, 1 + usize::from(validation > 0.0)), (Part::Validation, validation, 1)]
    {
        if fraction == 0.0 {
            continue;
        }
        let target = fraction * total as f64;
        let mut have = 0.0;
        for &group in &order {
            let with = have + groups[group].windows as f64;
            let closer = (with - target).abs() < (have - target).abs();
            if parts[group] == Part::Train && left > reserve && (closer || have == 0.0) {
                parts[group] = part;
                have = with;
                left -= 1;
            }
        }
    }
    parts
}

/// How bad a deal is: first classes that training never sees, then those the other parts lack, then shares missed.
fn penalty(groups: &[Group], parts: &[Part], options: &SplitOptions) -> f64 {
    let total: u64 = groups.iter().map(|g| g.windows).sum();
    let classes = groups.first().map_or(0, |g| g.classes.len());
    let sum = |part: Part, count: &dyn Fn(&Group) -> u64| -> u64 {
        groups.iter().zip(parts).filter(|(_, p)| **p == part).map(|(g, _)| count(g)).sum()
    };
    let missing =
        |part: Part| (0..classes).filter(|&c| sum(part, &|g: &Group| g.classes[c]) == 0).count() as f64;
    let off = |part: Part, fraction: f64| {
        if fraction == 0.0 {
            0.0
        } else {
            (sum(part, &|g: &Group| g.windows) as f64 / total as f64 - fraction).abs()
        }
    };
    let validation = if options.validate_on_test { 0.0 } else { options.validation };
    let shares = off(Part::Test, options.test) + off(Part::Validation, validation);
    let mut others = 0.0;
    for (part, fraction) in [(Part::Test, options.test), (Part::Validation, validation)] {
        others += if fraction > 0.0 { missing(part) } else { 0.0 };
    }
    missing(Part::Train) * 1e3 + others * 0.02 + shares
}
