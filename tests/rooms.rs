//! Which room of `src` may know which: dependencies go one way.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A room, the rooms it may use, and the crates of this project it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "aot",
        &[
            "cli",
            "config",
            "data",
            "deploy",
            "model",
            "pjrt",
            "report",
            "runtime",
            "topology",
            "tpu_train_hlo",
            "tpu_train_proto",
        ],
    ),
    ("cache", &[]),
    ("data", &["cache"]),
    ("deploy", &[]),
    ("doctor", &["cache", "cli", "deploy", "pjrt", "report", "runtime"]),
    ("events", &["tpu_train_proto"]),
    ("model", &["tpu_train_hlo", "tpu_train_proto"]),
    ("pjrt", &["cache"]),
    ("report", &["tpu_train_proto"]),
    ("runtime", &["pjrt", "topology", "tpu_train_hlo", "tpu_train_proto"]),
    ("topology", &[]),
    ("cli", &["config", "data", "deploy", "model", "pjrt"]),
    ("config", &["cli", "data", "model"]),
];

const PROJECT_CRATES: &[&str] = &["tpu_train_hlo", "tpu_train_proto"];

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            sources(&entry.unwrap().path(), found);
        }
    } else if path.extension().is_some_and(|ending| ending == "rs") {
        found.push(path.to_owned());
    }
}

/// Rooms and project crates that the source text names.
fn used(text: &str, rooms: &BTreeSet<String>) -> BTreeSet<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let mut used = BTreeSet::new();
    for line in code {
        for (_, after) in line.match_indices("crate::").map(|(at, found)| line.split_at(at + found.len())) {
            used.extend(rooms.iter().filter(|room| after.starts_with(room.as_str())).cloned());
        }
        used.extend(PROJECT_CRATES.iter().filter(|name| line.contains(*name)).map(|name| (*name).to_owned()));
    }
    used
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rooms: BTreeSet<String> = fs::read_dir(&src)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "lib" && name != "main")
        .collect();
    let mut files_read = 0;
    for (room, allowed) in MAY_USE {
        let mut files = Vec::new();
        for place in [src.join(room), src.join(format!("{room}.rs"))] {
            if place.exists() {
                sources(&place, &mut files);
            }
        }
        assert!(!files.is_empty(), "there is no room {room}");
        for file in files {
            files_read += 1;
            for name in used(&fs::read_to_string(&file).unwrap(), &rooms) {
                let fine = name == *room || allowed.contains(&name.as_str());
                assert!(fine, "{} uses {name}, which {room} must not know", file.display());
            }
        }
    }
    assert!(files_read > 40, "only {files_read} files were read");
}
