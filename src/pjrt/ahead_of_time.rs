//! libtpu as a compiler alone: the environment in which it neither looks for a TPU nor minds one in use.

use std::env;
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::install::Pin;
use super::plugin::{self, Platform};

/// Variables of a job or of a host begin with these; libtpu reads them, and ends the process over some.
const JOB_PREFIXES: [&str; 2] = ["TPU_", "MEGASCALE_"];
/// What begins like that and says nothing of a job.
const KEPT: [&str; 3] = ["TPU_LIBRARY_PATH", "TPU_TRAIN_", "TPU_SKIP_MDS_QUERY"];
/// Flags for libtpu, which ends the process when it does not know one.
const INIT_ARGS: &str = "LIBTPU_INIT_ARGS";

/// What makes libtpu load without a metadata server, without a complaint that it found none, and beside another
/// process that has loaded it.
const SETTINGS: [(&str, &str); 5] = [
    ("TPU_SKIP_MDS_QUERY", "1"),
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ("TPU_ACCELERATOR_TYPE", "v5litepod-1"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    ("TPU_WORKER_ID", "0"),
];

/// Keeps libtpu from moving this program's code into huge pages, and from complaining where it cannot.
const QUIET: &str = "--hugepage_text=false";

/// Makes the environment one in which libtpu compiles ahead of time, and gives the names of the variables that are
/// set aside: those of a job, which say nothing of the topology to compile for.
///
/// Call it as [`super::prepare_environment`]: before a plugin is loaded and before the program starts a thread.
pub fn prepare_ahead_of_time() -> Vec<String> {
    // A libtpu of another version may not know the flag.
    let pinned = Pin::of(Platform::Tpu).map(Pin::title);
    let is_pinned = plugin::find(Platform::Tpu).is_ok_and(|file| file.map(|file| file.origin) == pinned);
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut aside: Vec<String> = names.filter(|name| is_of_a_job(name)).collect();
    aside.sort();
    for name in &aside {
        // SAFETY: documented to run before any other thread exists, so nothing reads the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
    for (name, value) in SETTINGS {
        // SAFETY: as above.
        unsafe { env::set_var(name, value) };
    }
    if is_pinned && env::var_os(INIT_ARGS).is_none() {
        // SAFETY: as above.
        unsafe { env::set_var(INIT_ARGS, QUIET) };
    }
    aside
}

fn is_of_a_job(name: &str) -> bool {
    JOB_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// What is said if the plugin ends the process while it is at work.
static LAST_WORDS: OnceLock<String> = OnceLock::new();
/// Whether the plugin's work is done.
static DONE: AtomicBool = AtomicBool::new(false);

/// Runs `work` with the plugin at `path`. Should the plugin end the process meanwhile, as libtpu does over a flag it
/// does not know, one sentence says so.
pub fn or_last_words<R>(path: &Path, work: impl FnOnce() -> R) -> R {
    let hint = match env::var(INIT_ARGS) {
        Ok(flags) if !flags.is_empty() && flags != QUIET => {
            format!("correct or unset {INIT_ARGS}, which is \"{flags}\"")
        }
        _ => "TF_CPP_MIN_LOG_LEVEL=0 makes it tell more".to_owned(),
    };
    let sentence = format!("error: the plugin {} ended the process; {hint}", path.display());
    if LAST_WORDS.set(sentence).is_ok() {
        // SAFETY: the handler takes nothing, returns, and does not unwind.
        unsafe { libc::atexit(say_last_words) };
    }
    let result = work();
    DONE.store(true, Ordering::SeqCst);
    result
}

extern "C" fn say_last_words() {
    if let Some(sentence) = LAST_WORDS.get().filter(|_| !DONE.load(Ordering::SeqCst)) {
        let _ = writeln!(std::io::stderr(), "{sentence}");
    }
}

#[cfg(test)]
mod tests {
    use super::is_of_a_job;

    #[test]
    fn only_variables_of_a_job_are_set_aside() {
        for name in ["TPU_WORKER_HOSTNAMES", "TPU_CHIPS_PER_PROCESS_BOUNDS", "MEGASCALE_NUM_SLICES"] {
            assert!(is_of_a_job(name), "{name}");
        }
        for name in ["TPU_LIBRARY_PATH", "TPU_TRAIN_SLOW", "LIBTPU_INIT_ARGS", "PATH", "XLA_FLAGS"] {
            assert!(!is_of_a_job(name), "{name}");
        }
    }
}
