//! `tpu-train deploy`: what it prints is held against published schemas, shellcheck and hadolint, and the scripts
//! are run with a gcloud of our own that plays every host. No cloud, no cluster and no image is touched.
#![allow(clippy::unwrap_used)] // a helper outside of #[test] may panic as well

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use tempfile::TempDir;
use tpu_train::deploy::{DeployArgs, accelerator::Slice, render};

use crate::run::{Bench, quick};
use crate::support::{self, judge};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    deploy: DeployArgs,
}

/// Names here, in the documentation of the clouds, and in nobody's.
const ACCELERATORS: &[&str] = &[
    "v5litepod-8",
    "v5litepod-1",
    "v5e:4x8",
    "v6e-4",
    "v6e-16",
    "v6e-256",
    "v4-8",
    "v4-32",
    "v5p-8",
    "v5p-32",
    "v5p-384",
    "v5p:4x4x12",
    "tpu7x-16",
    "tpu7x-2x2x1",
];

/// Arguments that break what is not quoted.
const NASTY: &[&str] =
    &["--epochs", "50", "--label-column", "it's \"a\" $HOME `id` @NAME@ \\ x", "-v", "", "#y: z"];

fn print(words: &[&str]) -> Result<String, String> {
    let cli = Cli::try_parse_from([&["deploy"], words].concat()).map_err(|error| error.to_string())?;
    render(&cli.deploy).map_err(|error| error.to_string())
}

fn jobset(words: &[&str]) -> Result<String, String> {
    print(&[&["jobset", "--image", "europe-docker.pkg.dev/p/r/tpu-train:0.1"], words].concat())
}

fn vm(target: &str, words: &[&str]) -> Result<String, String> {
    print(&[&[target, "--project", "p", "--zone", "us-central2-b"], words].concat())
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Every target × accelerator × slices that there is, with and without the optional parts: file name → text.
fn launches() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (i, accelerator) in ACCELERATORS.iter().enumerate() {
        for slices in ["1", "2", "3", "8", "16"] {
            let mut words = vec!["--accelerator", accelerator, "--slices", slices];
            if i % 2 == 0 {
                words.extend(["--bucket", "my-bucket", "--data", "prepared windows/a b"]);
            }
            if i % 3 == 0 {
                words.push("--spot");
            }
            words.push("--");
            words.extend(NASTY);
            let name = format!("{}-{slices}", accelerator.replace(':', "_"));
            all.insert(format!("{name}.yaml"), jobset(&words).unwrap());
            if !accelerator.starts_with("tpu7x") && ["1", "8"].contains(&slices) {
                for target in ["queued-resource", "tpu-vm"] {
                    all.insert(format!("{name}-{target}.sh"), vm(target, &words).unwrap());
                }
            }
        }
    }
    all
}

#[test]
fn no_placeholder_is_left() {
    for (name, text) in launches() {
        let text = text.replace("@NAME@ \\", ""); // the one that an argument brought
        let left = text.split('@').skip(1).find(|word| word.starts_with(|c: char| c.is_ascii_uppercase()));
        assert!(left.is_none(), "{name}: {left:?}");
        assert!(!text.contains("# @"), "{name}");
    }
}

const SCHEMAS: &str = r##"
import copy, json, pathlib, sys
import kubernetes_validate, yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

def plain(value):
    return json.loads(json.dumps(value, default=lambda other: other.isoformat()))

def judge(document):
    assert document["apiVersion"] == "jobset.x-k8s.io/v1alpha2" and document["kind"] == "JobSet"
    # The values that the CRD allows, which the models do not know.
    policy = document["spec"]["failurePolicy"]
    assert policy["restartStrategy"] in ("Recreate", "BlockingRecreate", "InPlaceRestart")
    for rule in policy["rules"]:
        assert rule["action"] in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts")
    # The models drop what they do not know: what comes back must be what went in.
    model = JobsetV1alpha2JobSet.from_dict(copy.deepcopy(document))
    back = plain(model.to_dict())
    assert back == document, {key: (document.get(key), back.get(key)) for key in document if document[key] != back.get(key)}
    for job in document["spec"]["replicatedJobs"]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, **job["template"]}
        kubernetes_validate.validate(whole, "1.37", strict=True)

def refused(document):
    try:
        judge(document)
    except Exception as error:
        return True
    return False

found = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.yaml")):
    documents = list(yaml.safe_load_all(path.read_text()))
    assert len(documents) == 1, path
    judge(documents[0])
    found[path.name] = documents[0]
    # The judges must be able to say no.
    for place, key, value in [
        (lambda d: d["spec"], "failurePolcy", {}),
        (lambda d: d["spec"]["failurePolicy"], "maxRestarts", "three"),
        (lambda d: d["spec"]["failurePolicy"], "restartStrategy", "Blocking"),
        (lambda d: d["spec"]["network"], "subDomain", "x"),
        (lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"], "parallelism", "two"),
        (lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"], "nodeSelektor", {}),
        (lambda d: d["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0], "args", [1]),
    ]:
        wrong = copy.deepcopy(documents[0])
        place(wrong)[key] = value
        assert refused(wrong), (path.name, key)
print(json.dumps(found))
"##;

#[test]
fn job_sets_pass_the_published_schemas() {
    let Some(judge) = judge::linters() else { return };
    let folder = TempDir::new().unwrap();
    for (name, text) in launches().iter().filter(|(name, _)| name.ends_with(".yaml")) {
        write(folder.path(), name, text);
    }
    let found: serde_json::Value = serde_json::from_str(&judge.run(SCHEMAS, &[folder.path().as_os_str()]))
        .expect("the judge prints JSON");
    assert_eq!(found.as_object().unwrap().len(), ACCELERATORS.len() * 5);

    let job = |name: &str| found[name]["spec"]["replicatedJobs"][0].clone();
    let pod = |name: &str| job(name)["template"]["spec"]["template"]["spec"].clone();
    assert_eq!(job("v5litepod-8-8.yaml")["replicas"], 8);
    for (name, hosts, chips, accelerator, topology) in [
        ("v5litepod-8-8.yaml", 2, 4, "tpu-v5-lite-podslice", "2x4"),
        ("v5litepod-1-1.yaml", 1, 1, "tpu-v5-lite-podslice", "1x1"),
        ("v6e-256-16.yaml", 64, 4, "tpu-v6e-slice", "16x16"),
        ("v4-32-3.yaml", 4, 4, "tpu-v4-podslice", "2x2x4"),
        ("v5p_4x4x12-2.yaml", 48, 4, "tpu-v5p-slice", "4x4x12"),
        ("tpu7x-16-8.yaml", 2, 4, "tpu7x", "2x2x2"),
    ] {
        let spec = &job(name)["template"]["spec"];
        assert_eq!((&spec["parallelism"], &spec["completions"]), (&hosts.into(), &hosts.into()), "{name}");
        assert_eq!((&spec["backoffLimit"], &spec["completionMode"]), (&0.into(), &"Indexed".into()));
        let pod = pod(name);
        assert_eq!(pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"], accelerator);
        assert_eq!(pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"], topology);
        assert_eq!(pod["containers"][0]["resources"]["limits"]["google.com/tpu"], chips, "{name}");
        assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= 60);
    }
    let ports = pod("v5litepod-8-8.yaml")["containers"][0]["ports"].clone();
    let ports: Vec<_> = ports.as_array().unwrap().iter().map(|port| port["containerPort"].clone()).collect();
    assert_eq!(ports, [8471, 8080, 8431]);
    let annotations = &found["v5litepod-8-8.yaml"]["metadata"]["annotations"];
    assert_eq!(annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"], "cloud.google.com/gke-nodepool");
    let arguments = pod("v5litepod-8-8.yaml")["containers"][0]["args"].clone();
    let expected = ["--platform", "tpu", "--slices", "8", "--data", "/bucket/prepared windows/a b"];
    let expected: Vec<&str> = expected.iter().chain(NASTY).copied().collect();
    assert_eq!(arguments, serde_json::json!(expected));
}

const PEER: &str = r#"
import json, sys
from xpk.core.system_characteristics import UserFacingNameToSystemCharacteristics as known
for name, topology, hosts, chips, machine, accelerator in json.loads(sys.argv[1]):
    peer = known[name]
    assert peer.vms_per_slice == hosts and peer.chips_per_vm == chips, (name, peer)
    assert peer.topology == topology, (name, peer.topology, topology)
    assert peer.gce_machine_type == machine and peer.gke_accelerator == accelerator, (name, peer)
print("ok")
"#;

#[test]
fn slices_are_those_that_xpk_knows() {
    let Some(judge) = judge::linters() else { return };
    let names = [
        "v4-8",
        "v4-16",
        "v4-32",
        "v4-64",
        "v4-128",
        "v4-256",
        "v4-512",
        "v5litepod-8",
        "v5litepod-16",
        "v5litepod-32",
        "v5litepod-64",
        "v5litepod-128",
        "v5litepod-256",
        "v5p-8",
        "v5p-16",
        "v5p-32",
        "v5p-64",
        "v5p-128",
        "v5p-256",
        "v5p-384",
        "v5p-512",
        "v5p-640",
        "v5p-768",
        "v5p-1024",
        "v5p-1536",
        "v5p-2048",
        "v5p-3072",
        "v5p-4096",
        "v5p-6144",
        "v5p-8192",
        "v5p-12288",
        "v6e-1",
        "v6e-4",
        "v6e-8",
        "v6e-16",
        "v6e-32",
        "v6e-64",
        "v6e-128",
        "v6e-256",
        "tpu7x-2",
        "tpu7x-8",
        "tpu7x-16",
        "tpu7x-32",
        "tpu7x-64",
        "tpu7x-128",
        "tpu7x-256",
        "tpu7x-512",
        "tpu7x-1024",
    ];
    let rows: Vec<_> = names
        .iter()
        .map(|name| {
            let slice: Slice = name.parse().unwrap();
            let text = jobset(&["--accelerator", name]).unwrap();
            let after =
                |mark: &str| text.split(mark).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
            let machine = after("--machine-type ");
            let accelerator = after("gke-tpu-accelerator: ");
            (name, slice.topology(), slice.gke_hosts(), slice.gke_chips_per_host(), machine, accelerator)
        })
        .collect();
    assert_eq!(judge.run(PEER, &[serde_json::to_string(&rows).unwrap()]).trim(), "ok");
}

#[test]
fn cloud_tpu_vms_have_the_hosts_of_that_api() {
    // One host of 8 chips where GKE has two of 4.
    for (name, chips, vms, nodes) in [
        ("v5litepod-8", 8, 1, 2),
        ("v6e-8", 8, 1, 2),
        ("v5litepod-16", 16, 4, 4),
        ("v3-8", 4, 1, 1),
        ("v3-32", 16, 4, 4),
    ] {
        let slice: Slice = name.parse().unwrap();
        assert_eq!((slice.chips(), slice.vm_hosts(), slice.gke_hosts()), (chips, vms, nodes), "{name}");
    }
    for (typed, name, topology) in [
        ("V5E-8", "v5litepod-8", "2x4"),
        (" v5lite:4x4", "v5litepod-16", "4x4"),
        ("v5p-4x4x8", "v5p-256", "4x4x8"),
    ] {
        let slice: Slice = typed.parse().unwrap();
        assert_eq!((slice.name().as_str(), slice.topology().as_str()), (name, topology), "{typed}");
    }
    let usual = vm("queued-resource", &["--accelerator", "v5p:2x2x4", "--slices", "2"]).unwrap();
    assert!(
        usual.contains(
            "--accelerator-type=v5p-32 --runtime-version=v2-alpha-tpuv5 --node-count=2 --node-prefix"
        )
    );
    let unusual = vm("tpu-vm", &["--accelerator", "v5p:4x4x16"]).unwrap();
    assert!(unusual.contains("--type=v5p --topology=4x4x16 --version=v2-alpha-tpuv5"), "{unusual}");
}

#[test]
fn wrong_settings_are_one_sentence() {
    for (name, nearest) in [
        ("v5p-12", "v5p-8, v5p-16, v5p-32"),
        ("v6-16", "v6e-16"),
        ("v5litepod8", "v5litepod-8"),
        ("v5e:3x3", "v5litepod-4, v5litepod-8, v5litepod-16"),
        ("v5litepod-2", "v5litepod-1"),
        ("v4-99999999999999999999", "v4-8192"),
        ("v5p:99999999999x99999999999x99999999999", "v5p-16384"),
        ("v5p-4x8x4", "v5p-256"),
        ("h100-8", "-8"),
        ("", "v2-"),
    ] {
        let error = jobset(&["--accelerator", name]).unwrap_err();
        assert!(error.starts_with("--accelerator: expected") && error.contains(nearest), "{error}");
        assert!(!error.contains('\n') && error.contains(&format!("`{name}`")));
        for suggested in error.split("nearest are ").nth(1).unwrap().split(", ") {
            assert!(suggested.parse::<Slice>().is_ok(), "{suggested}");
        }
    }
    for (words, part) in [
        (&["jobset"][..], "--image: jobset needs it"),
        (&["tpu-vm", "--project", "p"], "--zone: tpu-vm needs it"),
        (&["queued-resource", "--zone", "z"], "--project: queued-resource needs it"),
        (&["jobset", "--image", "i", "--accelerator", "v3-8"], "v3-8 is not to be had through jobset"),
        (&["tpu-vm", "--project", "p", "--zone", "z", "--accelerator", "tpu7x-8"], "use jobset"),
        (&["jobset", "--image", "i", "--slices", "0"], "--slices: expected"),
        (&["jobset", "--image", "i", "--name", "My Job"], "--name: expected lower-case"),
        (&["jobset", "--image", "i\nevil: true"], "--image: expected"),
        (&["jobset", "--image", "i", "--bucket", "gs://b"], "--bucket: expected"),
        (&["jobset", "--image", "i", "--machine-type", "ct6e-standard-8t"], "--machine-type: expected"),
        (
            &["jobset", "--image", "i", "--", "--slices=4"],
            "-- --slices=4: the launch sets this itself; give it before",
        ),
        (&["jobset", "--image", "i", "--data", "d"], "--bucket"),
        (&["jobste"], "jobset"),
    ] {
        let error = print(words).unwrap_err();
        assert!(error.contains(part), "{words:?}: {error}");
    }
    // Words that YAML would take for something else.
    let text = jobset(&["--name", "null", "--namespace", "yes", "--service-account", "on"]).unwrap();
    assert!(
        text.contains("  name: \"null\"\n  namespace: \"yes\"\n")
            && text.contains("serviceAccountName: \"on\"\n")
    );
    let eight = jobset(&["--machine-type", "ct5lp-hightpu-8t"]).unwrap();
    assert!(eight.contains("parallelism: 1\n") && eight.contains("google.com/tpu: 8\n"));
}

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

/// A machine of our own: `gcloud` that runs each remote command once for each host, in that host's home.
struct Cloud {
    folder: TempDir,
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
    fn new() -> Self {
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

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn command(&self, script: &Path) -> Command {
        let mut command = Command::new("bash");
        command
            .arg(script)
            .env("PATH", format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap()))
            .env("CLOUD", self.folder.path())
            .env("TPU_TRAIN_LOCK", self.path("no-lock"))
            .env("TPU_TRAIN_POLL", "0")
            .env_remove("TPU_LIBRARY_PATH")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, script: &Path, words: &[&str]) -> Output {
        self.command(script).args(words).output().unwrap()
    }

    fn launch(&self, target: &str, words: &[&str]) -> PathBuf {
        let binary = self.path("bin/tpu-train").display().to_string();
        let text = vm(target, &[&["--binary", &binary], words].concat()).unwrap();
        write(self.folder.path(), "launch.sh", &text)
    }
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn until(what: &str, condition: impl Fn() -> bool) {
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

/// The real program under the supervisor, in one pod after the other: the second goes on where the first ended.
#[test]
fn a_run_moves_from_pod_to_pod() {
    if support::runtime(1).is_none() {
        return;
    }
    let bench = Bench::new();
    bench.simulate();
    let program = Path::new(env!("CARGO_BIN_EXE_tpu-train")).parent().unwrap();
    let pod = |out: &str, steps: &str| {
        let output = Command::new("bash")
            .arg(root().join("deploy/scripts/supervise.sh"))
            .args(quick(&["train"], &["--steps", steps]))
            .env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap()))
            .env("TPU_TRAIN_OUT", bench.path(out))
            .env("TPU_TRAIN_KEEP", bench.path("bucket"))
            .current_dir(bench.path(""))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", printed(&output));
        printed(&output)
    };
    assert!(pod("first", "2").contains("drawn with seed"));
    let second = pod("second", "4");
    assert!(second.contains("after 2 steps"), "{second}");
    let read = |name: &str| fs::read(bench.path(name)).unwrap();
    assert!(read("bucket/model.keras") == read("second/model.keras"));
    bench.succeed(&quick(&["train"], &["--steps", "4", "--out", "whole.keras"]));
    assert!(read("bucket/model.keras") == read("whole.keras"), "not the model of one run");
}

#[test]
fn several_hosts_are_printed_with_a_note() {
    let several = |text: Result<String, String>| text.unwrap().contains("\n# Note: this launch has ");
    for name in ["v5litepod-1", "v5litepod-4", "v6e-1", "v6e-4", "v4-8", "v5p-8"] {
        assert!(!several(jobset(&["--accelerator", name])), "{name}");
        assert!(several(jobset(&["--accelerator", name, "--slices", "2"])), "{name}");
        for target in ["tpu-vm", "queued-resource"] {
            assert!(!several(vm(target, &["--accelerator", name])), "{name}");
        }
    }
    for (name, machine) in [("v5litepod-8", "ct5lp-hightpu-8t"), ("v6e-8", "ct6e-standard-8t")] {
        assert!(several(jobset(&["--accelerator", name])), "two hosts of 4");
        assert!(!several(jobset(&["--accelerator", name, "--machine-type", machine])));
    }
    assert!(
        !several(jobset(&["--accelerator", "tpu7x-2"])) && !several(jobset(&["--accelerator", "tpu7x-8"]))
    );
    for name in ["v2-8", "v3-8", "v5litepod-8", "v6e-8"] {
        assert!(!several(vm("tpu-vm", &["--accelerator", name, "--slices", "8"])), "{name}");
        assert!(several(vm("queued-resource", &["--accelerator", name, "--slices", "8"])), "{name}");
    }
    assert!(several(vm("tpu-vm", &["--accelerator", "v3-32"])));
    let bench = Bench::new();
    let words = ["deploy", "tpu-vm", "--project", "p", "--zone", "z", "--accelerator", "v5litepod-16"];
    let output = bench.run(&words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.starts_with("Note: this launch has 4 hosts"), "{said}");
    assert!(bench.fail(1, &["deploy", "jobset"]).contains("--image: jobset needs it"));
    assert!(include_str!("../deploy/RUNBOOK.md").contains("\n## One host\n"), "the note names it");
}

#[test]
fn the_supervisor_keeps_resumes_and_reports() {
    let cloud = Cloud::new();
    let supervise = root().join("deploy/scripts/supervise.sh");
    let run = |out: &str, keep: &str, settings: &[(&str, &str)]| {
        let _ = fs::remove_file(cloud.path("arguments"));
        let mut command = cloud.command(&supervise);
        command.args(["--demo"]).env("HOME", cloud.folder.path()).env("TPU_TRAIN_OUT", cloud.path(out));
        let output = command.env("TPU_TRAIN_KEEP", keep).envs(settings.iter().copied()).output().unwrap();
        (output.status.code(), cloud.read("arguments"), printed(&output))
    };
    let folder = cloud.path("bucket/my run");
    let keep = folder.to_str().unwrap();
    let (code, arguments, _) = run("out", keep, &[("HOST", "first")]);
    assert_eq!(code, Some(0));
    assert!(arguments.contains("/out/model.keras\n") && !arguments.contains("--resume"), "{arguments}");
    assert_eq!(cloud.read("bucket/my run/model.keras"), "of first\n");

    // Another pod: nothing on its disk.
    fs::create_dir_all(cloud.path("other/logs/fit")).unwrap();
    fs::write(cloud.path("other/logs/fit/events"), "x").unwrap();
    let (code, arguments, _) = run("other", keep, &[("HOST", "second"), ("STATUS", "3")]);
    assert_eq!(code, Some(3), "the program's own status comes back");
    assert!(arguments.ends_with("--resume\n"), "{arguments}");
    assert!(folder.join("logs/fit/events").is_file(), "logs are kept after a failure too");

    // The same with a bucket that is not mounted.
    fs::write(cloud.path("model.keras"), "of the bucket").unwrap();
    let (code, arguments, said) = run("third", "gs://b/run", &[]);
    assert!(code == Some(0) && arguments.ends_with("--resume\n"), "{arguments}{said}");
    assert!(cloud.read("storage").contains("cp gs://b/run/model.keras"));
    let (code, arguments, said) = run("fourth", "gs://b/run", &[("BROKEN", "1")]);
    assert_eq!(
        (code, arguments.as_str()),
        (Some(1), ""),
        "nothing is trained over a model that cannot be seen"
    );
    assert!(said.contains("cannot look for gs://b/run/model.keras: ERROR"), "{said}");

    let mut child = cloud
        .command(&supervise)
        .env("HOME", cloud.folder.path())
        .env("TPU_TRAIN_OUT", cloud.path("out2"))
        .env("LONG", "1")
        .spawn()
        .unwrap();
    until("it runs", || cloud.read("arguments").contains("out2"));
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert_eq!(
        child.wait().unwrap().code(),
        Some(143),
        "a stopped run is not a finished one, though it exits with 0"
    );
}
