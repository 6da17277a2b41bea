//! What is printed, against published schemas and against the tables of others.

use tempfile::TempDir;
use tpu_train::deploy::accelerator::Slice;

use super::{ACCELERATORS, NASTY, jobset, launches, vm, write};
use crate::support::judge;

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
