//! What would keep a run from starting, found before it starts: devices and who holds them, the variables of a job of
//! several hosts, plugin, ports, hugepages, disk and memory, each with a remedy.
//!
//! A **check** looks at a [`View`] of the machine, never at a device: it cannot hang, and every check is tested on
//! machines that are made up. A **finding** is what it says; a *fatal* one would stop a run. `tpu-train doctor` prints
//! all findings; a run looks at those of its platform first ([`before_run`]) and ends with the first fatal one.
//!
//! ```
//! use tpu_train::doctor::{Asked, Level, View, findings};
//! use tpu_train::pjrt::Platform;
//! let empty = tempfile::tempdir().unwrap();
//! let view = View::new(empty.path(), [("MEGASCALE_NUM_SLICES", "4")]);
//! let asked = Asked { platform: Platform::Tpu, auto: false, slices: Some(8) };
//! let first = findings(&view, &asked).into_iter().find(|finding| finding.level == Level::Fatal).unwrap();
//! assert!(first.text.contains("--slices 8") && first.text.contains("MEGASCALE_NUM_SLICES=4"));
//! ```

mod cluster;
mod devices;
mod plugins;
mod ports;
mod resources;
mod view;

use crate::cli::{DoctorArgs, PlatformArgs};
use crate::pjrt::{Platform, PlatformRequest, plugin};
use crate::report::table::{Align, Table};
use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

pub use view::View;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// A run starts, but may be slow, or not be what was meant.
    Warning,
    /// A run would not start.
    Fatal,
}

/// What a check says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How much it matters.
    pub level: Level,
    /// One sentence.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, level: Level::Ok, text: text.into(), remedy: None }
    }

    fn new(level: Level, subject: &'static str, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, level, text: text.into(), remedy: Some(remedy.into()) }
    }

    /// The sentence and its remedy in one.
    pub fn sentence(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.text),
            None => self.text.clone(),
        }
    }
}

/// The run that the machine is looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where it would run.
    pub platform: Platform,
    /// Whether `auto` chose the platform, so that nobody may have meant it.
    pub auto: bool,
    /// `--slices`, if typed.
    pub slices: Option<usize>,
}

impl Asked {
    /// What the options of a command ask for.
    ///
    /// # Errors
    /// A variable names a plugin that does not exist.
    pub fn of(args: &PlatformArgs) -> Result<Self> {
        let platform = plugin::platform(args.platform, args.plugin.as_deref())?;
        let auto = args.platform == PlatformRequest::Auto && args.plugin.is_none();
        Ok(Self { platform, auto, slices: args.slices })
    }
}

/// All that is found without loading a plugin, in the order in which it would matter.
pub fn findings(view: &View, asked: &Asked) -> Vec<Finding> {
    let mut all = cluster::multislice(view, asked);
    all.extend(devices::files(view, asked));
    all.extend(devices::gpu(view, asked));
    all.extend(cluster::workers(view, asked));
    all.extend(devices::holders(view, asked));
    all.extend(ports::ports(view, asked));
    all.push(resources::hugepages(view, asked));
    all
}

/// Looks at what a run needs, before any device is touched; gives the warnings.
///
/// # Errors
/// The first finding that would stop the run.
pub fn before_run(args: &PlatformArgs) -> Result<Vec<Finding>> {
    let mut found = findings(&View::here(), &Asked::of(args)?);
    if let Some(fatal) = found.iter().find(|finding| finding.level == Level::Fatal) {
        bail!(fatal.sentence());
    }
    found.retain(|finding| finding.level == Level::Warning);
    Ok(found)
}

/// The subcommand `doctor`.
///
/// # Errors
/// When something would stop a run; all of it has been printed.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let (view, asked) = (View::here(), Asked::of(&args.platform)?);
    let mut all = findings(&view, &asked);
    all.extend(resources::disks(&args.out));
    all.push(resources::memory(&view));
    all.push(plugins::plugin(asked.platform, args.platform.plugin.as_deref()));
    let fatal = all.iter().filter(|finding| finding.level == Level::Fatal).count();
    if args.json {
        let platform = asked.platform.to_string();
        println!("{}", json!({ "platform": platform, "ready": fatal == 0, "findings": all }));
    } else {
        println!("for a run on {}\n\n{}", asked.platform, table(&all));
    }
    match fatal {
        0 => Ok(()),
        1 => bail!("one thing here would stop a run"),
        _ => bail!("{fatal} things here would stop a run"),
    }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&[("", Align::Left), ("subject", Align::Left), ("finding", Align::Left)]);
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Fatal => "FATAL",
        };
        table.row([level, finding.subject, &finding.text]);
        if let Some(remedy) = &finding.remedy {
            table.row(["", "", &format!("→ {remedy}")]);
        }
    }
    table
}

#[cfg(test)]
mod tests;
