//! What this process has used so far, as the kernel counts it.

use std::fs;

/// Clock ticks a second in `/proc`, the same on every Linux that this program runs on.
const TICKS: f64 = 100.0;

/// Places of utime, stime and starttime in `/proc/<pid>/stat`, counted from the field after the name.
const USER: usize = 11;
const SYSTEM: usize = 12;
const BEGAN: usize = 19;

/// Processor time of all threads, in seconds; `None` where the kernel does not tell.
pub(super) fn cpu_seconds() -> Option<f64> {
    let fields = stat()?;
    Some((fields.get(USER)? + fields.get(SYSTEM)?) / TICKS)
}

/// Seconds since the process began, to a hundredth.
pub(super) fn age_seconds() -> Option<f64> {
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    Some(uptime - stat()?.get(BEGAN)? / TICKS)
}

/// The most memory that was ever resident, in MiB.
pub(super) fn peak_mib() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok()? / 1024.0)
}

/// The numbers behind the process's name; one that is none (the state) counts as 0.
fn stat() -> Option<Vec<f64>> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_memory_are_counted() {
        let (before, age) = (cpu_seconds().unwrap(), age_seconds().unwrap());
        let began = std::time::Instant::now();
        let mut filled = vec![0_u64; 4 << 20];
        while began.elapsed().as_secs_f64() < 0.2 {
            filled.iter_mut().for_each(|item| *item = item.wrapping_mul(6_364_136_223_846_793_005) + 1);
        }
        assert!(cpu_seconds().unwrap() - before > 0.05, "{filled:?} took no time");
        assert!(age_seconds().unwrap() - age > 0.15);
        assert!(peak_mib().unwrap() > 32.0);
    }
}
