//! The checked-in Rust is what the `.proto` files say.
//!
//! After a change to `protos/`: `UPDATE_GENERATED=1 cargo test -p tpu-train-proto --test generated`.

use std::path::Path;

const PACKAGES: &[(&str, &[&str])] = &[
    ("xla", &["xla_data.proto", "hlo.proto", "compile_options.proto"]),
    ("tensorboard", &["tensorboard.proto"]),
];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let update = std::env::var_os("UPDATE_GENERATED").is_some();
    for (package, files) in PACKAGES {
        let made = generate(&root.join("protos"), package, files);
        let path = root.join("src/generated").join(format!("{package}.rs"));
        if update {
            std::fs::write(&path, &made).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(made == kept, "{} is stale: run this test with UPDATE_GENERATED=1", path.display());
    }
}

/// The Rust for one package, made in a temporary folder.
fn generate(protos: &Path, package: &str, files: &[&str]) -> String {
    let descriptors = protox::compile(files, [protos]).expect("the messages parse");
    let out = tempfile::tempdir().expect("a temporary folder");
    let mut config = prost_build::Config::new();
    config.out_dir(out.path()).btree_map(["."]);
    config.compile_fds(descriptors).expect("Rust is made");
    std::fs::read_to_string(out.path().join(format!("{package}.rs"))).expect("the file is made")
}
