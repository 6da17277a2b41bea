//! Machines that are made up: TPU hosts, poisoned environments.

use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A machine's root folder, to be filled.
struct Machine(TempDir);

impl Machine {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// A healthy TPU host of so many chips.
    fn tpu(chips: usize) -> Self {
        let machine = Self::empty();
        (0..chips).for_each(|chip| machine.write(&format!("dev/accel{chip}"), ""));
        machine.write("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        machine.write("proc/net/tcp", "  sl  local_address rem_address   st\n");
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A process that has something open.
    fn process(&self, id: u32, name: &str, open: &str) {
        self.write(&format!("proc/{id}/comm"), &format!("{name}\n"));
        fs::create_dir_all(self.0.path().join(format!("proc/{id}/fd"))).unwrap();
        symlink(open, self.0.path().join(format!("proc/{id}/fd/5"))).unwrap();
    }

    fn findings(
        &self,
        platform: Platform,
        slices: Option<usize>,
        variables: &[(&str, &str)],
    ) -> Vec<Finding> {
        let view = View::new(self.0.path(), variables.iter().copied());
        findings(&view, &Asked { platform, auto: false, slices })
    }

    /// The first fatal finding of a run on TPU.
    fn fatal(&self, slices: Option<usize>, variables: &[(&str, &str)]) -> Option<String> {
        let found = self.findings(Platform::Tpu, slices, variables);
        found.into_iter().find(|finding| finding.level == Level::Fatal).map(|finding| finding.sentence())
    }

    fn worst(&self, platform: Platform, variables: &[(&str, &str)]) -> Vec<Finding> {
        let mut found = self.findings(platform, None, variables);
        let worst = found.iter().map(|finding| finding.level).max().unwrap();
        found.retain(|finding| finding.level == worst);
        found
    }
}

/// What GKE or a queued resource sets on a host of a Multislice job.
const MULTISLICE: [(&str, &str); 5] = [
    ("MEGASCALE_NUM_SLICES", "4"),
    ("MEGASCALE_SLICE_ID", "2"),
    ("MEGASCALE_COORDINATOR_ADDRESS", "job-slice-0-0.job:8080"),
    ("TPU_WORKER_ID", "1"),
    ("TPU_WORKER_HOSTNAMES", "job-slice-2-0.job,job-slice-2-1.job"),
];

fn with<'a>(base: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = base.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes).copied().collect()
}

#[test]
fn a_healthy_host_has_nothing_to_say() {
    let machine = Machine::tpu(4);
    for variables in [&[][..], &MULTISLICE[..]] {
        let found = machine.findings(Platform::Tpu, None, variables);
        assert!(found.iter().all(|finding| finding.level == Level::Ok), "{found:#?}");
        let subjects: Vec<&str> = found.iter().map(|finding| finding.subject).collect();
        assert_eq!(subjects, ["Multislice", "TPU devices", "hosts", "TPU lock file", "ports", "hugepages"]);
    }
    let cpu = Machine::empty().findings(Platform::Cpu, Some(8), &[]);
    assert!(cpu.iter().all(|finding| finding.level == Level::Ok), "{cpu:#?}");
}

#[test]
fn a_machine_without_a_tpu_is_told_so_at_once() {
    let start = Instant::now();
    // What keeps libtpu busy for minutes is never reached.
    let variables = [("TPU_SKIP_MDS_QUERY", "0"), ("TPU_LIBRARY_PATH", "/nowhere/libtpu.so")];
    let said = Machine::empty().fatal(None, &variables).unwrap();
    assert!(said.contains("no TPU device files") && said.contains("--platform cpu"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_device_that_auto_passes_by_is_mentioned() {
    let machine = Machine::empty();
    let warnings = |platform, auto, variables: &[(&str, &str)]| -> Vec<String> {
        let view = View::new(machine.0.path(), variables.iter().copied());
        let found = findings(&view, &Asked { platform, auto, slices: None });
        found.into_iter().filter(|f| f.level > Level::Ok).map(|f| f.sentence()).collect()
    };
    // What a Python program leaves to its children that has imported JAX or TensorFlow beside libtpu.
    let library = [("TPU_LIBRARY_PATH", "/site-packages/libtpu/libtpu.so")];
    let said = warnings(Platform::Cpu, true, &library);
    assert!(
        said.len() == 1 && said[0].contains("TPU_LIBRARY_PATH is set, but this machine has no TPU"),
        "{said:?}"
    );
    assert!(said[0].contains("so this runs on cpu"), "{said:?}");
    assert_eq!(warnings(Platform::Cpu, false, &library), [""; 0]);
    assert_eq!(warnings(Platform::Cpu, true, &[]), [""; 0]);

    machine.write("dev/nvidia0", "");
    let said = warnings(Platform::Cpu, true, &[]);
    assert!(said.len() == 1 && said[0].contains("NVIDIA GPU (/dev/nvidia0)"), "{said:?}");
    assert_eq!(warnings(Platform::Cuda, true, &[]), [""; 0]);
    assert_eq!(warnings(Platform::Cpu, false, &[]), [""; 0]);
}

#[test]
fn slices_must_be_those_of_the_multislice_job() {
    let machine = Machine::tpu(4);
    assert_eq!(machine.fatal(Some(4), &MULTISLICE), None);
    for (slices, changes, expected) in [
        (Some(8), &[][..], "--slices 8 differs from MEGASCALE_NUM_SLICES=4"),
        (Some(1), &[], "--slices 1 differs from MEGASCALE_NUM_SLICES=4"),
        (
            Some(4),
            &[("MEGASCALE_NUM_SLICES", "")],
            "MEGASCALE_NUM_SLICES is not set, though MEGASCALE_COORDINATOR_ADDRESS=",
        ),
        (None, &[("MEGASCALE_NUM_SLICES", " ")], "MEGASCALE_NUM_SLICES is not set"),
        (None, &[("MEGASCALE_NUM_SLICES", "four")], "MEGASCALE_NUM_SLICES=four is not a number"),
        (None, &[("MEGASCALE_NUM_SLICES", "0")], "MEGASCALE_NUM_SLICES=0 is not a number"),
        (None, &[("MEGASCALE_SLICE_ID", "4")], "MEGASCALE_SLICE_ID=4 is not one of the slices 0 to 3"),
        (None, &[("MEGASCALE_SLICE_ID", "-1")], "MEGASCALE_SLICE_ID=-1"),
        (Some(4), &[("MEGASCALE_SLICE_ID", "")], "MEGASCALE_SLICE_ID is not set"),
        (Some(4), &[("MEGASCALE_COORDINATOR_ADDRESS", "")], "MEGASCALE_COORDINATOR_ADDRESS is not set"),
    ] {
        let said = machine.fatal(slices, &with(&MULTISLICE, changes)).unwrap_or_else(|| panic!("{expected}"));
        assert!(said.contains(expected), "expected {expected}, found {said}");
        // A host without its TPU is told the same, before any device is looked at.
        assert_eq!(Machine::empty().fatal(slices, &with(&MULTISLICE, changes)), Some(said));
    }
    // Left over from an earlier job, alone.
    assert!(
        machine
            .fatal(None, &[("MEGASCALE_NUM_SLICES", "2")])
            .unwrap()
            .contains("MEGASCALE_SLICE_ID is not set")
    );
}

#[test]
fn logical_slices_need_no_variables_but_devices() {
    let machine = Machine::tpu(4);
    assert_eq!(machine.fatal(Some(8), &[]), None, "four chips may be eight cores");
    let said = machine.fatal(Some(16), &[]).unwrap();
    assert!(said.contains("--slices 16") && said.contains("MEGASCALE_NUM_SLICES is not set"), "{said}");
    let hosts = [("TPU_WORKER_HOSTNAMES", "a,b"), ("TPU_WORKER_ID", "0")];
    assert_eq!(machine.fatal(Some(16), &hosts), None, "two hosts have twice the chips");
}

#[test]
fn multislice_variables_off_a_tpu_are_a_warning() {
    let found = Machine::empty().worst(Platform::Cpu, &MULTISLICE);
    assert_eq!((found.len(), found[0].level), (1, Level::Warning));
    assert!(
        found[0].text.contains("MEGASCALE_NUM_SLICES=4") && found[0].text.contains("on cpu"),
        "{}",
        found[0].text
    );
}

#[test]
fn a_coordinator_of_another_job_is_suspicious_on_slice_0() {
    let variables = with(&MULTISLICE, &[("MEGASCALE_SLICE_ID", "0")]);
    let found = Machine::tpu(4).worst(Platform::Tpu, &variables);
    assert_eq!((found.len(), found[0].level), (1, Level::Warning), "{found:#?}");
    let own = with(&variables, &[("MEGASCALE_COORDINATOR_ADDRESS", "job-slice-2-0.job:8080")]);
    assert_eq!(Machine::tpu(4).worst(Platform::Tpu, &own)[0].level, Level::Ok);
    let triples = with(&own, &[("TPU_WORKER_HOSTNAMES", "job-slice-2-0.job:8471:10.0.0.2,b:8471:10.0.0.3")]);
    assert_eq!(Machine::tpu(4).worst(Platform::Tpu, &triples)[0].level, Level::Ok);
}

#[test]
fn hosts_must_fit_their_number_and_the_topology() {
    let (four, eight) = (Machine::tpu(4), Machine::tpu(8));
    let two = [("TPU_WORKER_ID", "1"), ("TPU_WORKER_HOSTNAMES", "a, b")];
    let fewer = "fewer hosts than the topology needs";
    for (machine, changes, expected) in [
        (&four, &[("TPU_WORKER_ID", "2")][..], "TPU_WORKER_ID=2, but TPU_WORKER_HOSTNAMES names 2 hosts"),
        (&four, &[("TPU_WORKER_ID", "b")], "TPU_WORKER_ID=b is not a number"),
        (&four, &[("TPU_WORKER_ID", "")], "TPU_WORKER_ID does not say"),
        (&four, &[("TPU_WORKER_HOSTNAMES", "a,a")], "names a host twice"),
        (&four, &[("TPU_PROCESS_ADDRESSES", "a:8471,b:8471,c:8471")], "has 3 processes"),
        (&four, &[("TPU_ACCELERATOR_TYPE", "v5litepod-16")], fewer),
        (&four, &[("TPU_TOPOLOGY", "4x4")], fewer),
        (&four, &[("TPU_TOPOLOGY", "2x2x4"), ("TPU_CHIPS_PER_HOST_BOUNDS", "2,2,1")], fewer),
        (&four, &[("TPU_HOST_BOUNDS", "2,2,1")], fewer),
        (&eight, &[("TPU_ACCELERATOR_TYPE", "v6e-32")], fewer),
        (&four, &[("TPU_ACCELERATOR_TYPE", "v5p-32")], fewer),
    ] {
        let said =
            machine.fatal(None, &with(&two, changes)).unwrap_or_else(|| panic!("{changes:?}: {expected}"));
        assert!(said.contains(expected), "{changes:?}: expected {expected}, found {said}");
    }
    for (machine, changes) in [
        (&four, &[("TPU_ACCELERATOR_TYPE", "v5litepod-8")][..]),
        (&eight, &[("TPU_ACCELERATOR_TYPE", "v5litepod-16")]),
        (&four, &[("TPU_TOPOLOGY", "2x4")]),
        (&four, &[("TPU_HOST_BOUNDS", "1,2,1"), ("TPU_ACCELERATOR_TYPE", "v5litepod-64")]),
        (&four, &[("TPU_PROCESS_ADDRESSES", "a:1,a:2,b:1,b:2")]),
        (&four, &[("TPU_ACCELERATOR_TYPE", "some-day-16")]),
    ] {
        assert_eq!(machine.fatal(None, &with(&two, changes)), None, "{changes:?}");
    }
    let alone = [("TPU_ACCELERATOR_TYPE", "v5litepod-16"), ("TPU_SKIP_MDS_QUERY", "1")];
    assert!(four.fatal(None, &alone).unwrap().contains("TPU_WORKER_HOSTNAMES is not set"));
    assert_eq!(four.fatal(None, &alone[..1]), None, "the metadata server knows the others");
}

fn lock_path(machine: &Machine) -> std::path::PathBuf {
    machine.write("tmp/libtpu_lockfile", "");
    machine.0.path().join("tmp/libtpu_lockfile")
}

/// The kernel's line of a lock on a file.
fn lock_line(path: &Path, kind: &str, id: i64) -> String {
    let metadata = path.metadata().unwrap();
    let (device, inode) = (metadata.dev(), metadata.ino());
    let (major, minor) = (libc::major(device), libc::minor(device));
    format!("7: {kind}  ADVISORY  WRITE {id} {major:02x}:{minor:02x}:{inode} 0 EOF\n")
}

#[test]
fn a_held_lock_names_its_holder() {
    for kind in ["FLOCK", "POSIX"] {
        let machine = Machine::tpu(4);
        let line = lock_line(&lock_path(&machine), kind, 4321);
        machine.write("proc/locks", &format!("1: POSIX  ADVISORY  READ 9 00:01:1 0 EOF\n{line}"));
        machine.write("proc/4321/comm", "python3\n");
        let said = machine.fatal(None, &[]).unwrap();
        assert!(said.contains("process 4321 (python3) holds /tmp/libtpu_lockfile"), "{said}");
        assert!(said.contains("kill 4321"), "{said}");
        let shared = machine.worst(Platform::Tpu, &[("TPU_VISIBLE_CHIPS", "0")]);
        assert_eq!(shared[0].level, Level::Warning, "{shared:#?}");
        assert!(shared[0].text.contains("TPU_VISIBLE_CHIPS is set"), "{}", shared[0].text);
    }
}

#[test]
fn a_lock_that_the_kernel_hides_is_found_by_trying() {
    let machine = Machine::tpu(4);
    let held = fs::File::open(lock_path(&machine)).unwrap();
    held.lock().unwrap();
    let said = machine.fatal(None, &[]).unwrap();
    assert!(said.contains("not visible from here") && said.contains("fuser"), "{said}");
    machine.process(88, "train", "/tmp/libtpu_lockfile");
    assert!(machine.fatal(None, &[]).unwrap().contains("process 88 (train)"));
    held.unlock().unwrap();
    assert_eq!(machine.fatal(None, &[]), None);
}

#[test]
fn a_stale_lock_file_does_no_harm_unless_it_cannot_be_opened() {
    let machine = Machine::tpu(4);
    let path = lock_path(&machine);
    let found = machine.worst(Platform::Tpu, &[]);
    assert_eq!((found.len(), found[0].level), (1, Level::Note));
    assert!(found[0].text.contains("left behind"), "{}", found[0].text);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let said = machine.fatal(None, &[]).unwrap();
    assert!(said.contains("cannot be opened") && said.contains("sudo rm"), "{said}");
}

#[test]
fn a_process_with_a_device_open_is_named() {
    let machine = Machine::tpu(4);
    machine.process(77, "jupyter", "/dev/accel2");
    machine.process(78, "bash", "/dev/null");
    let said = machine.fatal(None, &[]).unwrap();
    assert!(said.contains("process 77 (jupyter) has a device file open") && !said.contains("78"), "{said}");
}

#[test]
fn hugepages_matter_on_a_tpu() {
    let machine = Machine::tpu(4);
    machine.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    let found = machine.worst(Platform::Tpu, &[]);
    assert_eq!((found.len(), found[0].level), (1, Level::Warning));
    assert!(found[0].text.contains("\"madvise\""), "{}", found[0].text);
    assert!(found[0].remedy.as_ref().unwrap().contains("tee /sys/kernel"));
    assert_eq!(machine.worst(Platform::Cpu, &[])[0].level, Level::Ok);
}

#[test]
fn ports_in_use_are_fatal_where_a_run_needs_them() {
    let listens = |port: u16| {
        let machine = Machine::tpu(4);
        let line = format!(
            "   0: 0100007F:{port:04X} 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 555 1"
        );
        // An established connection from that port is none that listens.
        let other = format!("   1: 0100007F:{:04X} 0100007F:1F90 01 0:0 0:0 0 0 0 556 1", port ^ 1);
        machine.write("proc/net/tcp6", &format!("  sl  local_address\n{line}\n{other}\n"));
        machine.process(99, "node", "socket:[555]");
        machine
    };
    let worst = |port: u16, variables: &[(&str, &str)]| {
        let found = listens(port).worst(Platform::Tpu, variables);
        (found[0].level, found[0].text.clone())
    };
    let (level, text) = worst(8431, &[]);
    assert_eq!(level, Level::Warning);
    assert!(text.starts_with("process 99 (node) listens on port 8431"), "{text}");
    let hosts = [("TPU_WORKER_HOSTNAMES", "a,b"), ("TPU_WORKER_ID", "0")];
    assert_eq!(worst(8471, &[]).0, Level::Warning);
    assert_eq!(worst(8471, &hosts).0, Level::Fatal);
    assert_eq!(worst(8080, &MULTISLICE).0, Level::Note, "only slice 0 coordinates");
    let coordinator = [
        ("MEGASCALE_SLICE_ID", "0"),
        ("TPU_WORKER_ID", "0"),
        ("MEGASCALE_COORDINATOR_ADDRESS", "job-slice-2-0.job:9999"),
    ];
    assert_eq!(worst(9999, &with(&MULTISLICE, &coordinator)).0, Level::Fatal);
    assert_eq!(worst(8470, &hosts).0, Level::Ok);
}
