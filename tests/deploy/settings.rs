//! Settings that cannot work.

use tpu_train::deploy::accelerator::Slice;

use super::{jobset, print};

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
