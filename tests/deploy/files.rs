//! Scripts, Dockerfile and documents, against their linters.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{launches, root, write};
use crate::support::judge;

#[test]
fn scripts_pass_shellcheck() {
    let Some(judge) = judge::linters() else { return };
    let folder = TempDir::new().unwrap();
    let mut files: Vec<PathBuf> = launches()
        .iter()
        .filter(|(name, _)| name.ends_with(".sh"))
        .map(|(name, text)| write(folder.path(), name, text))
        .collect();
    assert!(files.len() > 40);
    for entry in fs::read_dir(root().join("deploy/scripts")).unwrap() {
        files.push(entry.unwrap().path());
    }
    let (good, printed) = judge.program("shellcheck", &files, folder.path());
    assert!(good, "{printed}");
    for file in &files {
        assert!(fs::read_to_string(file).unwrap().contains("\nset -euo pipefail\n"), "{}", file.display());
    }
    let wrong = write(folder.path(), "wrong.sh", "#!/usr/bin/env bash\nrm -rf $1/x\n");
    assert!(!judge.program("shellcheck", &[wrong], folder.path()).0, "shellcheck can say no");
}

#[test]
fn the_dockerfile_passes_hadolint() {
    let Some(judge) = judge::linters() else { return };
    let (good, printed) = judge.program("hadolint", &["deploy/Dockerfile"], &root());
    assert!(good, "{printed}");
    let folder = TempDir::new().unwrap();
    let wrong = write(folder.path(), "Dockerfile", "FROM debian\nRUN cd /tmp && apt-get install curl\n");
    assert!(!judge.program("hadolint", &[wrong], folder.path()).0, "hadolint can say no");
    let text = fs::read_to_string(root().join("deploy/Dockerfile")).unwrap();
    let copied: Vec<&str> = text.lines().filter(|line| line.starts_with("COPY --chmod")).collect();
    for line in copied {
        let source = line.split_whitespace().nth(2).unwrap();
        assert!(root().join(source).is_file(), "{source}");
    }
}

/// Every path that the runbook names in the repository is there.
#[test]
fn the_runbook_names_files_that_exist() {
    for document in ["deploy/RUNBOOK.md", "deploy/README.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let named = text.split('`').filter(|word| word.starts_with("deploy/") && !word.contains([' ', '*']));
        for path in named {
            assert!(root().join(path).exists(), "{document} names {path}");
        }
    }
}
