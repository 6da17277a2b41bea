//! `prepare`: what it reuses, what it refuses, and what it leaves when it is interrupted.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use tpu_train::data::*;

use super::maker::{BED, CHAIR, HEADER, Root, mat_bytes, wave};

fn three() -> Root {
    let mut root = Root::new();
    root.recording("A1", "S1", BED, 30_000);
    root.recording("A2", "S2", CHAIR, 20_000);
    root.recording("A3", "S3", BED, 10_000);
    root
}

/// Names of the recordings that were made anew.
fn made(options: &PrepareOptions) -> (Prepared, Vec<String>) {
    let made = Mutex::new(Vec::new());
    let note = |event: PrepareEvent<'_>| {
        if let PrepareEvent::Recording { name, reused: false, .. } = event {
            made.lock().unwrap().push(name.to_owned());
        }
    };
    let prepared = prepare(options, &note).unwrap();
    let mut made = made.into_inner().unwrap();
    made.sort();
    (prepared, made)
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn shard_of(prepared: &Prepared, name: &str) -> std::path::PathBuf {
    let entry = prepared.recordings().iter().find(|r| r.shard.name == name).unwrap();
    prepared.folder().unwrap().join(&entry.shard.file)
}

#[test]
fn what_is_valid_is_used_again() {
    let root = three();
    let options = root.options();
    assert_eq!(made(&options).1, ["A1", "A2", "A3"]);
    let before = files(&root.out());
    assert_eq!(before.len(), 1 + 1 + 2 * 3, "lock, manifest, shards and their descriptions: {before:?}");
    assert!(made(&options).1.is_empty());

    let touch = File::options().write(true).open(root.mat_path("A1")).unwrap();
    touch.set_modified(SystemTime::now() - Duration::from_secs(1000)).unwrap();
    let (prepared, again) = made(&options);
    assert!(again.is_empty(), "same content");
    let input = &prepared.recordings()[0].shard.inputs[0];
    assert_eq!(input.path, "MAT/A1.mat");
    assert_eq!(input.sha256.len(), 64);

    root.file("A2", &mat_bytes(&wave(77, 20_000), &wave(78, 20_000), true));
    let (prepared, again) = made(&options);
    assert_eq!(again, ["A2"]);
    assert_eq!(files(&root.out()).len(), before.len(), "the old shard is gone");
    assert_eq!(prepared.shard(1).channel(0).collect::<Vec<_>>(), wave(77, 20_000));
    prepared.verify().unwrap();
}

#[test]
fn damaged_shards_are_made_anew() {
    let root = three();
    let mut options = root.options();
    let prepared = root.prepare();
    File::options().write(true).open(shard_of(&prepared, "A1")).unwrap().set_len(100).unwrap();
    fs::remove_file(shard_of(&prepared, "A3")).unwrap();
    let error = Prepared::open(&root.out()).unwrap_err().to_string();
    assert!(error.contains("has 100 bytes, expected 120000; prepare it again"), "{error}");
    assert_eq!(made(&options).1, ["A1", "A3"]);

    let path = shard_of(&prepared, "A2");
    let mut bytes = fs::read(&path).unwrap();
    bytes[999] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(made(&options).1.is_empty(), "only the length is looked at");
    let error = Prepared::open(&root.out()).unwrap().verify().unwrap_err().to_string();
    assert!(error.contains("A2") && error.contains("CRC-32"), "{error}");
    options.verify = true;
    assert_eq!(made(&options).1, ["A2"]);
    // Neither the time nor the length tells of this: the recording's own checksum does.
    let time = fs::metadata(root.mat_path("A3")).unwrap().modified().unwrap();
    let other = mat_bytes(&wave(5, 30_000), &wave(6, 30_000), true);
    let length = fs::metadata(root.mat_path("A3")).unwrap().len() as usize;
    root.file("A3", &[&other[..], &vec![0; length.saturating_sub(other.len())]].concat());
    File::options().write(true).open(root.mat_path("A3")).unwrap().set_modified(time).unwrap();
    assert_eq!(made(&options).1, ["A3"]);
    // A range that someone edited scales the samples otherwise.
    let entry = format!("{}.json", shard_of(&root.prepare(), "A1").display());
    let text = fs::read_to_string(&entry).unwrap();
    fs::write(&entry, text.replace("\"minimum\": -1.0", "\"minimum\": -0.75")).unwrap();
    assert_eq!(made(&options).1, ["A1"]);
    Prepared::open(&root.out()).unwrap().verify().unwrap();
}

#[test]
fn an_interrupted_run_leaves_finished_shards_only() {
    let root = three();
    let mut options = root.options();
    options.threads = 1;
    let stop = options.stop.clone();
    let note = |event: PrepareEvent<'_>| {
        if let PrepareEvent::Recording { done: 1, .. } = event {
            stop.store(true, Ordering::Relaxed);
        }
    };
    let error = prepare(&options, &note).unwrap_err();
    assert!(matches!(error, DataError::Interrupted));
    let left = files(&root.out());
    assert_eq!(left.len(), 3, "lock, one shard and its description: {left:?}");
    assert!(Prepared::open(&root.out()).is_err());
    options.stop = Default::default();
    assert_eq!(made(&options).1, ["A2", "A3"]);
}

#[test]
fn leftovers_of_a_killed_run_are_removed_and_never_used() {
    let root = three();
    let first = root.prepare();
    let entry = shard_of(&first, "A1").with_extension("i16.json");
    let text = fs::read_to_string(&entry).unwrap();
    fs::write(&entry, &text[..text.len() / 2]).unwrap();
    fs::write(root.out().join(".tmp-abc"), [0; 1000]).unwrap();
    fs::write(root.out().join("notes.txt"), "mine").unwrap();
    fs::remove_file(root.out().join("manifest.json")).unwrap();
    assert_eq!(made(&root.options()).1, ["A1"]);
    let left = files(&root.out());
    assert!(!left.contains(&".tmp-abc".to_owned()) && left.contains(&"notes.txt".to_owned()));
}

#[test]
fn one_bad_recording_is_one_sentence_and_the_others_stay() {
    let root = three();
    let whole = fs::read(root.mat_path("A3")).unwrap();
    root.file("A3", &whole[..whole.len() / 2]);
    let error = root.prepare_error();
    assert!(error.contains("A3.mat") && error.contains("cut short") && !error.contains('\n'), "{error}");
    assert!(Prepared::open(&root.out()).is_err());
    root.file("A3", &whole);
    let (prepared, made) = made(&root.options());
    assert!(made.contains(&"A3".to_owned()) && made.len() < 3, "longer ones come first and stay: {made:?}");
    assert_eq!(prepared.recordings().len(), 3);
}

#[test]
fn two_runs_at_once_agree() {
    let root = three();
    let sets: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| root.prepare())).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for set in &sets {
        assert_eq!(set.recordings(), sets[0].recordings());
        set.verify().unwrap();
    }
}

#[test]
fn a_run_waits_for_another_and_can_be_stopped() {
    let root = three();
    fs::create_dir(root.out()).unwrap();
    let lock = File::create(root.out().join(".lock")).unwrap();
    lock.lock().unwrap();
    let options = root.options();
    let note = |event: PrepareEvent<'_>| {
        assert!(matches!(event, PrepareEvent::Waiting { .. }));
        options.stop.store(true, Ordering::Relaxed);
    };
    assert!(matches!(prepare(&options, &note), Err(DataError::Interrupted)));
    drop(lock);
    assert_eq!(root.prepare().recordings().len(), 3);
}

#[test]
fn published_checksums_are_verified() {
    let root = three();
    let sum = |path: &Path| -> String {
        Sha256::digest(fs::read(path).unwrap()).iter().map(|b| format!("{b:02x}")).collect()
    };
    let sheet = sum(&root.path().join("ECGPCGSpreadsheet.csv"));
    let (a1, a2) = (sum(&root.mat_path("A1")), sum(&root.mat_path("A2")));
    let write = |text: String| fs::write(root.path().join("SHA256SUMS.txt"), text).unwrap();
    write(format!("{sheet} ECGPCGSpreadsheet.csv\n{a1}  MAT/A1.mat\n{a2} *MAT/A2.mat\n{a1} MAT/none.mat\n"));
    root.prepare();
    write(format!("{a2} MAT/A1.mat\n"));
    let error = root.prepare_error();
    assert!(error.contains("A1.mat does not match SHA256SUMS.txt") && error.contains("download"), "{error}");
    write(format!("{a2} ECGPCGSpreadsheet.csv\n"));
    let warnings = root.prepare().warnings().join("\n");
    assert!(warnings.contains("ECGPCGSpreadsheet.csv is not as published"), "{warnings}");
    write("what is this\n".into());
    let error = root.prepare_error();
    assert!(error.contains("line 1") && error.contains("what is this"), "{error}");

    let whole = fs::read(root.mat_path("A1")).unwrap();
    root.file("A1", &whole[..whole.len() / 2]);
    write(format!("{a1} MAT/A1.mat\n"));
    assert!(root.prepare_error().contains("A1.mat does not match SHA256SUMS.txt"));
}

#[test]
fn wrong_folders_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        |path: &Path| prepare(&PrepareOptions::new(Some(path.into())), &|_| {}).unwrap_err().to_string();
    assert!(error(&folder.path().join("none")).contains("there is no such folder"));
    assert!(error(folder.path()).contains("ECGPCGSpreadsheet.csv"));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(error(&file).contains("it is a file"));
    let sheet = folder.path().join("ECGPCGSpreadsheet.csv");
    fs::write(&sheet, "").unwrap();
    assert!(error(folder.path()).contains("the file is empty"));
}

#[test]
fn the_folder_wget_leaves_and_a_prepared_folder_are_found() {
    let root = three();
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join(catalog::WGET_FOLDER);
    fs::create_dir_all(inner.join("MAT")).unwrap();
    fs::write(inner.join("ECGPCGSpreadsheet.csv"), format!("{HEADER}\nA1,S1,,,,{BED}\n")).unwrap();
    fs::copy(root.mat_path("A1"), inner.join("MAT/A1.mat")).unwrap();
    let mut options = PrepareOptions::new(Some(outer.path().into()));
    options.out = Some(outer.path().join("out"));
    let prepared = prepare(&options, &|_| {}).unwrap();
    for folder in ["physionet.org", "physionet.org/files/ephnogram", catalog::WGET_FOLDER] {
        options.data = Some(outer.path().join(folder));
        assert_eq!(prepare(&options, &|_| {}).unwrap().recordings(), prepared.recordings());
    }
    fs::remove_dir_all(outer.path().join("physionet.org")).unwrap();
    let again = prepare(&PrepareOptions::new(options.out), &|_| {}).unwrap();
    assert_eq!(prepared.recordings(), again.recordings());
}

#[test]
fn shards_of_another_root_are_not_taken_by_their_time() {
    let (a, b) = (three(), three());
    let time = SystemTime::now() - Duration::from_secs(1000);
    b.file("A2", &mat_bytes(&wave(77, 30_000), &wave(78, 30_000), false));
    a.file("A2", &mat_bytes(&wave(79, 30_000), &wave(80, 30_000), false));
    for root in [&a, &b] {
        File::options().write(true).open(root.mat_path("A2")).unwrap().set_modified(time).unwrap();
    }
    a.prepare();
    let mut options = b.options();
    options.out = Some(a.out());
    let prepared = made(&options).0;
    assert_eq!(prepared.shard(1).channel(0).collect::<Vec<_>>(), wave(77, 30_000));
}

#[test]
fn shards_do_not_go_among_the_recordings() {
    let root = three();
    let mut options = root.options();
    options.out = Some(root.path().join("MAT/.."));
    let error = prepare(&options, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("the recordings themselves are there"), "{error}");
    // A manifest beside a spreadsheet is not asked.
    fs::write(root.path().join("manifest.json"), "{}").unwrap();
    assert_eq!(root.prepare().recordings().len(), 3);
}

#[test]
fn what_a_prepared_folder_lacks_is_said() {
    let mut root = three();
    root.row("A4", "S4", "no scenario at all");
    root.file("A4", &mat_bytes(&wave(4, 100), &wave(5, 100), true));
    assert_eq!(root.prepare().recordings().len(), 3);
    let mut options = PrepareOptions::new(Some(root.out()));
    assert_eq!(prepare(&options, &|_| {}).unwrap().warnings(), [""; 0]);
    options.rule = LabelRule::Column("Gender".into());
    let warnings = prepare(&options, &|_| {}).unwrap().warnings().to_vec();
    assert!(
        warnings.len() == 1 && warnings[0].contains("1 recordings with a class by column \"Gender\""),
        "{warnings:?}"
    );
    assert!(warnings[0].contains("(the first: A4)"), "{warnings:?}");
    options.out = Some(root.path().join("elsewhere"));
    let error = prepare(&options, &|_| {}).unwrap_err().to_string();
    assert!(error.contains("it is a prepared set itself"), "{error}");
}

#[test]
fn the_default_folder_depends_on_the_root() {
    let (a, b) = (Root::new(), Root::new());
    let of = |root: &Root| catalog::default_prepared_dir(root.path()).unwrap();
    assert_ne!(of(&a), of(&b));
    assert_eq!(of(&a), catalog::default_prepared_dir(&a.path().join("MAT/..")).unwrap());
    assert!(of(&a).to_string_lossy().contains("tpu-train/prepared/"));
}

#[test]
fn a_wfdb_pair_serves_where_the_mat_is_absent() {
    let mut root = Root::new();
    root.row("A1", "S1", BED);
    let q: Vec<u8> = [1i16, 2, 3, 4].iter().flat_map(|q| q.to_le_bytes()).collect();
    fs::write(root.path().join("WFDB/A1.dat"), q).unwrap();
    let header = "A1 2 8000 2\nA1.dat 16 2048/mV 0 0 1 4 0 ECG\nA1.dat 16 2048/mV 0 0 2 6 0 PCG\n";
    fs::write(root.path().join("WFDB/A1.hea"), header).unwrap();
    let prepared = root.prepare();
    assert_eq!(prepared.shard(0).channel(1).collect::<Vec<_>>(), [2.0 / 2048.0, 4.0 / 2048.0]);
    assert_eq!(prepared.recordings()[0].shard.inputs.len(), 2);
    root.file("A1", &mat_bytes(&[0.0; 9], &[0.5; 9], true));
    assert_eq!(root.prepare().shard(0).len(), 9, "a .mat that appears is preferred");
}

#[test]
fn constant_channels_are_zeros_with_a_warning() {
    let mut root = Root::new();
    root.row("A1", "S1", BED);
    root.file("A1", &mat_bytes(&wave(1, 100), &[0.5; 100], true));
    let prepared = root.prepare();
    let warning = &prepared.warnings()[0];
    assert!(warning.contains("recording A1 channel PCG is constant (0.5)"), "{warning}");
    assert_eq!(scaled_f64(&prepared, 0, 1), [0.0; 100]);
    let table = WindowTable::new(&prepared, 10, 10, &LabelRule::Scenario, Default::default()).unwrap();
    let batch = batch(&prepared, &table, &[3], 1).unwrap();
    assert_eq!((batch.minimum[1], batch.range[1]), (1024.0, 1.0));
}

#[test]
fn files_can_be_loaded_without_a_root() {
    let root = three();
    let paths = [root.mat_path("A3"), root.mat_path("A2")];
    let loaded = load_files(&paths, &Default::default()).unwrap();
    let prepared = root.prepare();
    assert_eq!(
        loaded.shard(1).channel(1).collect::<Vec<_>>(),
        prepared.shard(1).channel(1).collect::<Vec<_>>()
    );
    let table = WindowTable::unlabelled(&loaded, 10_000, 5_000).unwrap();
    assert_eq!(
        table.windows.iter().map(|w| (w.recording, w.start)).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (1, 5_000), (1, 10_000)]
    );
    assert!(
        load_files(&[root.mat_path("A9")], &Default::default()).unwrap_err().to_string().contains("A9.mat")
    );
}
