//! How much memory there is.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes of host memory this process may still take: what the kernel calls available, within the limits of the
/// control groups the process is in. `None` where neither can be read.
pub fn memory_available() -> Option<u64> {
    memory_available_under(Path::new("/"))
}

/// As [`memory_available`], on the machine whose `/` is `root`.
pub fn memory_available_under(root: &Path) -> Option<u64> {
    let system = meminfo_available(&fs::read_to_string(root.join("proc/meminfo")).ok()?);
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = group_folders(root, &groups).into_iter().filter_map(|folder| group_available(&folder));
    system.into_iter().chain(limits).min()
}

fn meminfo_available(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The memory folders of the process's groups and of the groups around them.
fn group_folders(root: &Path, groups: &str) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let base = match controllers {
            "" => root.join("sys/fs/cgroup"),
            list if list.split(',').any(|name| name == "memory") => root.join("sys/fs/cgroup/memory"),
            _ => continue,
        };
        let own = base.join(path.trim_start_matches('/'));
        folders.extend(own.ancestors().take_while(|folder| folder.starts_with(&base)).map(Path::to_owned));
    }
    folders
}

/// What a group (version 2 or 1) may still take; file pages that can be dropped count as free.
fn group_available(folder: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"))?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        matches!(name, "inactive_file" | "total_inactive_file").then(|| value.trim().parse::<u64>().ok())?
    });
    Some(limit.saturating_sub(used.saturating_sub(inactive.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        memory_available_under(root.path())
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1000 kB\n");

    #[test]
    fn the_tightest_limit_holds() {
        assert_eq!(machine(&[MEMINFO]), Some(1_024_000));
        let v2 = [
            MEMINFO,
            ("proc/self/cgroup", "0::/job/run\n"),
            ("sys/fs/cgroup/job/memory.max", "500000\n"),
            ("sys/fs/cgroup/job/memory.current", "300000\n"),
            ("sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 100000\n"),
            ("sys/fs/cgroup/job/run/memory.max", "max\n"),
            ("sys/fs/cgroup/job/run/memory.current", "1\n"),
        ];
        assert_eq!(machine(&v2), Some(300_000));
        let v1 = [
            MEMINFO,
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
        ];
        assert_eq!(machine(&v1), Some(1_024_000));
    }

    #[test]
    fn this_machine_has_some() {
        assert!(memory_available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
