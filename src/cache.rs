//! The user's cache folder: what the program keeps there, prepared recordings and plugins, it can make again.

use std::env;
use std::path::PathBuf;

/// `$XDG_CACHE_HOME/tpu-train`, by default `~/.cache/tpu-train`; `None` where neither is known. A relative
/// `XDG_CACHE_HOME` does not count, as its specification has it.
pub fn folder() -> Option<PathBuf> {
    let named = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".cache"));
    Some(named.or_else(home)?.join("tpu-train"))
}
