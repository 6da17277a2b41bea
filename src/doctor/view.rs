//! The machine as the checks see it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A machine: a folder that stands for `/`, and the variables of a process.
#[derive(Clone, Debug)]
pub struct View {
    root: PathBuf,
    variables: BTreeMap<String, String>,
}

/// A process of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) id: u32,
    /// As the kernel shortens it; empty where it does not tell.
    pub(super) name: String,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "process {}", self.id),
            name => write!(f, "process {} ({name})", self.id),
        }
    }
}

impl View {
    /// The machine at `root` with these variables.
    pub fn new<N: Into<String>, V: Into<String>>(
        root: &Path,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { root: root.to_owned(), variables }
    }

    /// This machine and this process. Variables that are no text are left out.
    pub fn here() -> Self {
        let texts = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self::new(Path::new("/"), texts)
    }

    /// Where a file of the machine is found.
    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file.trim_start_matches('/'))
    }

    /// The machine's root.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// A file's text; `None` where it cannot be read.
    pub(super) fn read(&self, file: &str) -> Option<String> {
        std::fs::read_to_string(self.path(file)).ok()
    }

    /// A variable that is set to more than blanks.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// Variables of this beginning that are set to more than blanks, as `NAME=value`.
    pub(super) fn variables(&self, beginning: &str) -> Vec<String> {
        let names = self.variables.keys().filter(|name| name.starts_with(beginning));
        names.filter_map(|name| Some(format!("{name}={}", self.variable(name)?))).collect()
    }

    /// The parts of a variable between commas.
    pub(super) fn list(&self, name: &str) -> Vec<&str> {
        let parts = self.variable(name).unwrap_or_default().split(',');
        parts.map(str::trim).filter(|part| !part.is_empty()).collect()
    }

    /// The process of this id.
    pub(super) fn process(&self, id: u32) -> Process {
        let name = self.read(&format!("proc/{id}/comm")).unwrap_or_default();
        Process { id, name: name.trim().to_owned() }
    }

    /// The processes that have a file open whose link reads as one of `targets`, this one left out. Of other users'
    /// processes only root can tell.
    pub(super) fn processes_with(&self, targets: &[String]) -> Vec<Process> {
        let Ok(entries) = self.path("proc").read_dir() else { return Vec::new() };
        let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut ids: Vec<u32> =
            ids.filter(|&id| id != std::process::id() && self.has_open(id, targets)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| self.process(id)).collect()
    }

    fn has_open(&self, id: u32, targets: &[String]) -> bool {
        let Ok(entries) = self.path(&format!("proc/{id}/fd")).read_dir() else { return false };
        let mut links = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok());
        links.any(|link| targets.iter().any(|target| link == Path::new(target)))
    }
}
