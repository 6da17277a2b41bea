//! The printed scripts, run with a `gcloud` that plays every host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{NASTY, root, vm, write};

/// A machine of our own: `gcloud` that runs each remote command once for each host, in that host's home.
pub(super) struct Cloud {
    pub(super) folder: TempDir,
}

const GCLOUD: &str = r#"#!/usr/bin/env bash
set -euo pipefail
printf '%q ' "$@" >>"$CLOUD/calls"; echo >>"$CLOUD/calls"
hosts() {
  local slices=2 workers=2
  [[ " $* " == *" --node=0 "* ]] && slices=1
  [[ " $* " == *" --worker=0 "* ]] && workers=1
  [[ " $* " == *" tpu-vm "* ]] && slices=1
  for ((s = 0; s < slices; s++)); do for ((w = 0; w < workers; w++)); do echo "$s-$w"; done; done
}
case "$*" in
  *" describe "*) [[ -e "$CLOUD/state" ]] && cat "$CLOUD/state" || exit 1 ;;
  *" create "*) if [[ "$*" == *queued* ]]; then echo ACTIVE; else echo READY; fi >"$CLOUD/state" ;;
  *" delete "*) rm "$CLOUD/state" ;;
  *" ssh "*)
    command="${*: -1}"
    for host in $(hosts "$@"); do
      mkdir -p "$CLOUD/host-$host"
      (cd "$CLOUD/host-$host" && HOME="$PWD" HOST="$host" MEGASCALE_LEFT_OVER=1 MEGASCALE_NUM_SLICES=7 bash -c "$command")
    done ;;
  *" scp "*)
    for host in $(hosts "$@"); do
      for word in "$@"; do if [[ -f "$word" ]]; then cp "$word" "$CLOUD/host-$host/tpu-train-run/incoming/"; fi; done
    done ;;
  "storage rsync"*) echo "${HOST:-} rsync ${*: -2}" >>"$CLOUD/storage" ;;
  "storage ls"*)
    [[ -z "${BROKEN:-}" ]] || { echo "ERROR: (gcloud.storage.ls) HTTPError 403" >&2; exit 1; }
    [[ -e "$CLOUD/model.keras" ]] || { echo "ERROR: One or more URLs matched no objects." >&2; exit 1; } ;;
  "storage cp"*) echo "${HOST:-} cp $3" >>"$CLOUD/storage" && cp "$CLOUD/model.keras" "$4" ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"#;

const CURL: &str = r#"#!/usr/bin/env bash
case "${*: -1}" in
  */agent-worker-number) echo "${HOST#*-}" ;;
  */tpu-env) printf "ACCELERATOR_TYPE: 'x'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '%s'\n" "${HOST%-*}" ;;
  *) exit 22 ;;
esac
"#;

const PROGRAM: &str = r#"#!/usr/bin/env bash
if [[ "$1" == --version || "$1" == plugin ]]; then echo "tpu-train $*"; exit; fi
printf '%s\n' "$@" >"$HOME/arguments"
env | grep '^MEGASCALE' | sort >"$HOME/megascale"
echo "step 1 on ${HOST:-}"
if [[ -n "${LONG:-}" ]]; then
  trap 'echo stopped; exit 0' TERM
  for _ in $(seq 600); do sleep 0.1; done
fi
while [[ $# -gt 1 && "$1" != --out ]]; do shift; done
echo "of ${HOST:-}" >"$2"
exit "${STATUS:-0}"
"#;

impl Cloud {
    pub(super) fn new() -> Self {
        let cloud = Self { folder: TempDir::new().unwrap() };
        fs::create_dir(cloud.path("bin")).unwrap();
        for (name, text) in [
            ("gcloud", GCLOUD),
            ("curl", CURL),
            ("sudo", "#!/usr/bin/env bash\nexit 1\n"),
            ("tpu-train", PROGRAM),
        ] {
            write(&cloud.path("bin"), name, text);
        }
        cloud
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(super) fn command(&self, script: &Path) -> Command {
        let mut command = Command::new("bash");
        command
            .arg(script)
            .env("PATH", format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap()))
            .env("CLOUD", self.folder.path())
            .env("TPU_TRAIN_LOCK", self.path("no-lock"))
            .env("TPU_TRAIN_POLL", "0")
            .env_remove("TPU_LIBRARY_PATH")
            // libtpu, which other tests load into this process, sets it.
            .env_remove("TPU_WORKER_ID")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(super) fn run(&self, script: &Path, words: &[&str]) -> Output {
        self.command(script).args(words).output().unwrap()
    }

    pub(super) fn launch(&self, target: &str, words: &[&str]) -> PathBuf {
        let binary = self.path("bin/tpu-train").display().to_string();
        let text = vm(target, &[&["--binary", &binary], words].concat()).unwrap();
        write(self.folder.path(), "launch.sh", &text)
    }
}

pub(super) fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

pub(super) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(30), "waited 30 s until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_queued_resource_starts_every_host_of_every_slice() {
    let cloud = Cloud::new();
    let words = ["--accelerator", "v6e-8", "--slices", "2", "--bucket", "b", "--data", "my data", "--"];
    let script = cloud.launch("queued-resource", &[&words[..], NASTY].concat());
    let output = cloud.run(&script, &[]);
    assert!(output.status.success(), "{}", printed(&output));
    assert!(printed(&output).contains("step 1 on 0-0"), "{}", printed(&output));

    for host in ["0-0", "0-1", "1-0", "1-1"] {
        let ended = format!("host-{host}/tpu-train-run/run/exit-status");
        until("each host has ended", || cloud.read(&ended) == "0\n");
        let expected = [&["--platform", "tpu", "--slices", "2", "--data", "data"], NASTY].concat().join("\n");
        let arguments = cloud.read(&format!("host-{host}/arguments"));
        assert!(arguments.starts_with(&format!("{expected}\n--logdir\n")), "{arguments}");
        // Left-over variables are gone, the resource's own are there.
        let slice = &host[..1];
        let megascale = format!("MEGASCALE_NUM_SLICES=2\nMEGASCALE_SLICE_ID={slice}\n");
        assert_eq!(cloud.read(&format!("host-{host}/megascale")), megascale);
    }
    let storage = cloud.read("storage");
    assert_eq!(storage.lines().filter(|line| line.contains("rsync gs://b/my data")).count(), 4, "{storage}");
    let kept: Vec<_> = storage.lines().filter(|line| line.ends_with("gs://b/tpu-train")).collect();
    assert!(!kept.is_empty() && kept.iter().all(|line| line.starts_with("0-0 ")), "{storage}");

    let again = cloud.run(&script, &["up"]);
    assert!(again.status.success(), "{}", printed(&again));
    for host in ["0-0", "0-1", "1-0", "1-1"] {
        let resumed = || cloud.read(&format!("host-{host}/arguments")).ends_with("--resume\n");
        until("each host goes on with its model", resumed);
        let ended = format!("host-{host}/tpu-train-run/run/exit-status");
        until("each host has ended again", || cloud.read(&ended) == "0\n");
    }
    let creates = |cloud: &Cloud| cloud.read("calls").matches(" create ").count();
    assert_eq!(creates(&cloud), 1, "what exists is kept");
    assert!(cloud.run(&script, &["delete"]).status.success());
    fs::write(cloud.path("state"), "SUSPENDED\n").unwrap();
    let suspended = cloud.run(&script, &[]);
    assert!(!suspended.status.success() && printed(&suspended).contains("tpu-train is SUSPENDED"));
    assert_eq!(creates(&cloud), 1);
}

#[test]
fn a_tpu_vm_is_started_once_and_stopped() {
    let cloud = Cloud::new();
    let script = cloud.launch("tpu-vm", &["--accelerator", "v3-32", "--slices", "8"]);
    let start = |words: &[&str]| cloud.command(&script).args(words).env("LONG", "1").output().unwrap();
    let mut up = cloud.command(&script).env("LONG", "1").stdout(Stdio::piped()).spawn().unwrap();
    for host in ["0-0", "0-1"] {
        until("each host runs", || {
            cloud.read(&format!("host-{host}/arguments")).contains("--slices\n8\n--demo\n")
        });
    }
    let pid = cloud.read("host-0-1/tpu-train-run/pid");
    let status = start(&["status"]);
    assert_eq!(printed(&status).matches("running (pid").count(), 2, "{}", printed(&status));

    // A second start of everything finds both running; its follow ends with the run.
    let stop = start(&["stop"]);
    assert!(stop.status.success(), "{}", printed(&stop));
    assert_eq!(cloud.read("host-0-1/tpu-train-run/pid"), pid);
    assert!(up.wait().unwrap().success());
    for host in ["0-0", "0-1"] {
        assert_eq!(cloud.read(&format!("host-{host}/tpu-train-run/run/exit-status")), "143\n");
        assert!(cloud.read(&format!("host-{host}/tpu-train-run/run.log")).contains("stopped"));
    }
    let status = start(&["status"]);
    assert_eq!(printed(&status).matches("ended with status 143").count(), 2, "{}", printed(&status));
    assert!(!cloud.run(&script, &["upp"]).status.success());
}

#[test]
fn a_running_host_is_left_running() {
    let cloud = Cloud::new();
    let host = root().join("deploy/scripts/host.sh");
    let base = cloud.path("base");
    fs::create_dir_all(base.join("incoming")).unwrap();
    write(&base.join("incoming"), "tpu-train", PROGRAM);
    write(
        &base.join("incoming"),
        "supervise.sh",
        &fs::read_to_string(root().join("deploy/scripts/supervise.sh")).unwrap(),
    );
    let run = |words: &[&str]| {
        let output = cloud
            .command(&host)
            .args(words)
            .env("TPU_TRAIN_BASE", &base)
            .env("HOME", cloud.folder.path())
            .env("HOST", "0-0")
            .env("LONG", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{words:?}: {}", printed(&output));
        printed(&output)
    };
    assert!(run(&["install"]).contains("tpu-train --version"));
    assert!(run(&["start", "--demo"]).contains("started as pid"));
    until("it runs", || cloud.path("arguments").exists());
    assert!(run(&["start", "--demo"]).contains("runs already"));
    run(&["stop"]);
    assert!(run(&["follow"]).contains("ended with status 143"));
}
