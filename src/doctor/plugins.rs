//! The platform's plugin.

use super::{Finding, Level};
use crate::pjrt::plugin::{self, NEWEST_TRIED};
use crate::pjrt::{Error, Platform, PlatformRequest};
use std::path::Path;

const SUBJECT: &str = "plugin";

/// The plugin that a run would load: where it is, and whether this program can talk to it. It is opened, but not
/// initialised.
pub(super) fn plugin(platform: Platform, explicit: Option<&Path>) -> Finding {
    let found = match explicit {
        Some(_) => plugin::discover(PlatformRequest::Only(platform), explicit).map(Some),
        None => plugin::find(platform),
    };
    let install = format!("tpu-train plugin install {platform}, or name another with --plugin FILE");
    match found {
        Ok(Some(file)) => {
            let place = format!("{} ({})", file.path.display(), file.origin);
            judge(&place, plugin::api_version(&file.path), &install)
        }
        Ok(None) if platform == Platform::Cpu => Finding::new(
            Level::Note,
            SUBJECT,
            "the CPU plugin is not installed",
            "the first run does it, through pip",
        ),
        Ok(None) => {
            Finding::new(Level::Fatal, SUBJECT, format!("no plugin for {platform} is installed"), install)
        }
        Err(error) => Finding::new(Level::Fatal, SUBJECT, error.to_string(), install),
    }
}

fn judge(place: &str, version: Result<(i32, i32), Error>, install: &str) -> Finding {
    match version {
        Err(error) => Finding::new(Level::Fatal, SUBJECT, error.to_string(), install),
        Ok((major, minor)) if minor > NEWEST_TRIED => Finding::new(
            Level::Note,
            SUBJECT,
            format!(
                "{place}, PJRT C API {major}.{minor}: newer than {major}.{NEWEST_TRIED}, the newest tried"
            ),
            format!("should it misbehave: {install}"),
        ),
        Ok((major, minor)) => Finding::ok(SUBJECT, format!("{place}, PJRT C API {major}.{minor}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_new_and_foreign_plugins_are_told_apart() {
        let old = Error::TooOld { path: "/p.so".into(), major: 0, minor: 20, functions: 60, needed: 71 };
        let found = judge("/p.so", Err(old), "install");
        assert_eq!(found.level, Level::Fatal);
        assert!(found.text.contains("0.20") && found.text.contains("60 functions"), "{}", found.text);
        let major =
            Error::Version { path: "/p.so".into(), found_major: 1, found_minor: 0, expected_major: 0 };
        assert_eq!(judge("/p.so", Err(major), "install").level, Level::Fatal);
        assert_eq!(judge("/p.so", Ok((0, NEWEST_TRIED)), "install").level, Level::Ok);
        let newer = judge("/p.so", Ok((0, NEWEST_TRIED + 1)), "install");
        assert_eq!(newer.level, Level::Note);
        assert!(newer.text.contains("newer than"), "{}", newer.text);
    }

    #[test]
    fn a_file_that_is_no_plugin_is_fatal() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = plugin(Platform::Tpu, Some(file.path()));
        assert_eq!(found.level, Level::Fatal);
        assert!(found.text.contains("cannot load the plugin"), "{}", found.text);
    }
}
