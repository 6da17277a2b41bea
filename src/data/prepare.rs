//! Recordings and spreadsheet → shards and manifest.
//!
//! Parallel over recordings, with one recording's int16 samples in memory per thread. A shard's name carries the hash of
//! its sources; it is written under a temporary name, flushed and renamed, then described by a small file beside it. The
//! manifest comes last, the same way. So whatever interrupts a run, files that have their names are whole, and the
//! next run uses the shards that were finished. A lock file keeps two runs apart.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::UNIX_EPOCH;

use flate2::Crc;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::catalog::{Located, SPREADSHEET_FILE, default_prepared_dir, hex, locate};
use super::checksums::{Checksums, sha256_file};
use super::folder::{
    entry_file, lock, read_entries, remove_temporary, remove_unreferenced, temporary, write_json,
};
use super::manifest::{FORMAT, MANIFEST_FILE, VERSION};
use super::prepared::shard_is_whole;
use super::recording::{Recording, Signals};
use super::spreadsheet::{RECORD_NAME, Row, Spreadsheet, field};
use super::{
    CHANNELS, DataError, InputFile, LabelRule, Manifest, Prepared, RecordingEntry, SampleType, Samples,
    ShardEntry,
};

/// More recordings at once would need memory and gain little over the disk.
const MAX_THREADS: usize = 8;

/// Samples converted to bytes at a time when a shard is written.
const WRITE_CHUNK: usize = 1 << 17;

/// What to prepare, and where.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// Download root or prepared folder; by default the folder recursive wget leaves.
    pub data: Option<PathBuf>,
    /// Where shards go; by default a folder in the user's cache, one per root.
    pub out: Option<PathBuf>,
    /// Only recordings that have a class under this rule are prepared.
    pub rule: LabelRule,
    /// Whether the recordings' checksums are taken and the shards that are there read again, to be compared; without it
    /// what has the length and time it had is taken to be the same.
    pub verify: bool,
    /// Recordings at once; 0: one per core, at most 8.
    pub threads: usize,
    /// Set it (from a Ctrl-C handler) to stop with [`DataError::Interrupted`].
    pub stop: Arc<AtomicBool>,
}

/// What `prepare` is doing, for a progress line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareEvent<'a> {
    /// Another process prepares the same folder; this one waits for it.
    Waiting {
        /// The folder.
        folder: &'a Path,
    },
    /// The recordings are known.
    Started {
        /// The folder.
        folder: &'a Path,
        /// How many recordings there are.
        recordings: usize,
    },
    /// One recording is ready.
    Recording {
        /// Its name.
        name: &'a str,
        /// Whether a valid shard was there already.
        reused: bool,
        /// Bytes of its shard.
        bytes: u64,
        /// Recordings ready so far, this one included.
        done: usize,
        /// How many there are.
        recordings: usize,
    },
}

impl PrepareOptions {
    /// The defaults for a data folder.
    pub fn new(data: Option<PathBuf>) -> Self {
        let (out, rule, stop) = (None, LabelRule::default(), Arc::default());
        Self { data, out, rule, verify: false, threads: 0, stop }
    }
}

/// A recording to be prepared.
struct Job<'a> {
    row: &'a Row,
    source: PathBuf,
}

/// What all jobs share.
struct Context<'a> {
    options: &'a PrepareOptions,
    root: &'a Path,
    out: &'a Path,
    sums: Checksums,
    known: Vec<ShardEntry>,
    /// Whether what is known was made from this root, so that equal times mean equal files.
    same_root: bool,
}

/// Brings the prepared form of a data set up to date and opens it. A prepared folder is only opened.
///
/// # Errors
/// One sentence for whatever is wrong with folder, spreadsheet or recordings, for a full disk, or when stopped.
pub fn prepare(
    options: &PrepareOptions,
    progress: &(dyn Fn(PrepareEvent<'_>) + Sync),
) -> Result<Prepared, DataError> {
    match locate(options.data.as_deref())? {
        Located::Prepared(folder) => open_prepared(options, &folder),
        Located::Root(root) => {
            let out = match &options.out {
                Some(out) => out.clone(),
                None => default_prepared_dir(&root)?,
            };
            prepare_root(options, &root, &out, progress)
        }
    }
}

/// A set that is prepared already; rows that would have a class under the rule, but no shard, are a warning.
fn open_prepared(options: &PrepareOptions, folder: &Path) -> Result<Prepared, DataError> {
    if options.out.as_deref().is_some_and(|out| !same_folder(out, folder)) {
        let reason = "it is a prepared set itself; leave --prepared out, or name the recordings with --data";
        return Err(DataError::io("prepare", folder, io::Error::other(reason)));
    }
    let prepared = Prepared::open(folder)?;
    if options.verify {
        prepared.verify()?;
    }
    let place = format!("prepared set {}", folder.display());
    let mut missing = Vec::new();
    for row in prepared.left_out() {
        if options.rule.value(row, &place)?.is_some() {
            missing.push(field(row, RECORD_NAME).unwrap_or_default());
        }
    }
    let warnings = missing.first().map(|first| {
        let (count, column) = (missing.len(), options.rule.column());
        format!(
            "{count} recordings with a class by column \"{column}\" (the first: {first}) are not in {place}: they had no \
             file, or no class by the column that it was made for"
        )
    });
    Ok(prepared.with_warnings(warnings.into_iter().collect()))
}

/// Whether two paths lead to one folder that exists.
fn same_folder(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Reads recordings given as files (`.mat`, `.hea`) into a set in memory, without labels; for prediction.
///
/// # Errors
/// As [`Recording::open_file`] and [`Recording::read`].
pub fn load_files(paths: &[PathBuf], stop: &AtomicBool) -> Result<Prepared, DataError> {
    if paths.is_empty() {
        return Err(DataError::NoRecordings { reason: "no file was named".into() });
    }
    let load = |path: &PathBuf| {
        let recording = Recording::open_file(path)?;
        let signals = recording.read(&CHANNELS, stop)?;
        let mut bytes = Vec::new();
        write_samples(&mut bytes, &signals.data, &AtomicBool::new(false))
            .map_err(|e| DataError::io("read", path, e))?;
        let shard = shard_entry(&recording.name, &signals, Vec::new(), bytes.len() as u64, 0);
        let fields = BTreeMap::from([(RECORD_NAME.to_owned(), recording.name)]);
        Ok((RecordingEntry { fields, shard }, bytes))
    };
    Ok(Prepared::in_memory(paths.iter().map(load).collect::<Result<Vec<_>, DataError>>()?))
}

fn prepare_root(
    options: &PrepareOptions,
    root: &Path,
    out: &Path,
    progress: &(dyn Fn(PrepareEvent<'_>) + Sync),
) -> Result<Prepared, DataError> {
    if same_folder(out, root) {
        let reason = "the recordings themselves are there; name another folder with --prepared DIR";
        return Err(DataError::io("write shards to", out, io::Error::other(reason)));
    }
    let sums = Checksums::read(root)?;
    let sheet_path = root.join(SPREADSHEET_FILE);
    let spreadsheet = input_file(root, &sheet_path, &options.stop)?;
    let sheet = Spreadsheet::read(&sheet_path)?;
    let (jobs, mut warnings) = choose(&sheet, root, &options.rule)?;
    if sums.check(&spreadsheet.path, &spreadsheet.sha256).is_err() {
        // People edit it to add columns and correct labels: that is no reason to stop.
        let path = sheet_path.display();
        warnings.push(format!(
            "{path} is not as published in SHA256SUMS.txt: download it again if you did not edit it"
        ));
    }
    fs::create_dir_all(out).map_err(|e| DataError::write(out, 0, e))?;
    let lock = lock(out, &options.stop, progress)?;
    remove_temporary(out)?;
    let known = read_entries(out);
    let old = Manifest::read(out).ok();
    let root_name = root.canonicalize().unwrap_or_else(|_| root.into()).to_string_lossy().into_owned();
    let same_root = old.as_ref().is_some_and(|old| old.root == root_name);
    let context = Context { options, root, out, sums, known, same_root };
    progress(PrepareEvent::Started { folder: out, recordings: jobs.len() });
    let made = run_jobs(&context, &jobs, progress)?;
    let (recordings, left_out) = gather(&context, &sheet, made);
    let manifest = Manifest {
        format: FORMAT.into(),
        version: VERSION,
        root: root_name,
        spreadsheet,
        columns: sheet.columns.clone(),
        recordings,
        left_out,
    };
    if old.as_ref() != Some(&manifest) {
        write_json(out, MANIFEST_FILE, &manifest)?;
    }
    remove_unreferenced(out, &manifest)?;
    let prepared = Prepared::open(out)?.with_warnings(warnings);
    drop(lock);
    Ok(prepared)
}

/// The rows that have a class and a file, and what to say about the others.
fn choose<'a>(
    sheet: &'a Spreadsheet,
    root: &Path,
    rule: &LabelRule,
) -> Result<(Vec<Job<'a>>, Vec<String>), DataError> {
    let place = format!("spreadsheet {}", sheet.path.display());
    let (mut jobs, mut missing, mut unlabelled) = (Vec::new(), Vec::new(), Vec::new());
    for row in &sheet.rows {
        match (rule.value(&row.fields, &place)?, Recording::find(root, &row.record)) {
            (None, _) => unlabelled.push(row.record.as_str()),
            (Some(_), None) => missing.push(row.record.as_str()),
            (Some(_), Some(source)) => jobs.push(Job { row, source }),
        }
    }
    let rows = sheet.rows.len();
    let mut warnings = Vec::new();
    if let Some(first) = missing.first() {
        warnings.push(format!(
            "{} of {rows} recordings in the spreadsheet have no file under {} (the first: {first}) and are left out",
            missing.len(),
            root.display()
        ));
    }
    if let Some(first) = unlabelled.first() {
        warnings.push(format!(
            "{} of {rows} recordings in the spreadsheet belong to no class by column \"{}\" (the first: {first}) and are left out",
            unlabelled.len(),
            rule.column()
        ));
    }
    if jobs.is_empty() {
        let hint = match missing.is_empty() {
            true => "--label-column names another column",
            false => "expected MAT/NAME.mat or WFDB/NAME.hea beside the spreadsheet",
        };
        return Err(DataError::NoRecordings { reason: format!("{}; {hint}", warnings.join("; ")) });
    }
    Ok((jobs, warnings))
}

/// Every job's shard, in spreadsheet order.
fn run_jobs(
    context: &Context<'_>,
    jobs: &[Job<'_>],
    progress: &(dyn Fn(PrepareEvent<'_>) + Sync),
) -> Result<Vec<ShardEntry>, DataError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if context.options.threads > 0 { context.options.threads } else { cores.min(MAX_THREADS) };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .map_err(|e| DataError::io("start threads for", context.out, io::Error::other(e)))?;
    // Long recordings first, so that no thread is left with one at the end.
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(fs::metadata(&jobs[i].source).map_or(0, |m| m.len())));
    let done = AtomicUsize::new(0);
    let run = |&index: &usize| {
        let (entry, reused) = shard(context, &jobs[index])?;
        let (done, recordings) = (done.fetch_add(1, Ordering::Relaxed) + 1, jobs.len());
        let (name, bytes) = (&entry.name, entry.bytes);
        progress(PrepareEvent::Recording { name, reused, bytes, done, recordings });
        Ok((index, entry))
    };
    let results: Result<Vec<_>, DataError> =
        pool.install(|| order.par_iter().with_max_len(1).map(run).collect());
    let mut made = results?;
    made.sort_by_key(|(index, _)| *index);
    Ok(made.into_iter().map(|(_, entry)| entry).collect())
}

/// A recording's shard: the one that is there if it is still valid, else a new one. True: it was there.
fn shard(context: &Context<'_>, job: &Job<'_>) -> Result<(ShardEntry, bool), DataError> {
    if context.options.stop.load(Ordering::Relaxed) {
        return Err(DataError::Interrupted);
    }
    let whole = |entry: &&ShardEntry| shard_is_whole(context.out, entry, context.options.verify);
    let mut known = context.known.iter().filter(|entry| entry.name == job.row.record);
    let unchanged = |entry: &&ShardEntry| !context.options.verify && comes_from(context, entry, &job.source);
    if let Some(entry) = known.find(|entry| unchanged(entry) && whole(entry)) {
        for input in &entry.inputs {
            context.sums.check(&input.path, &input.sha256)?;
        }
        return Ok((entry.clone(), true));
    }
    let recording = Recording::open_file(&job.source).map_err(|e| blame_checksum(context, &job.source, e))?;
    let files = recording.files();
    let inputs = files.iter().map(|file| input_file(context.root, file, &context.options.stop));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    for input in &inputs {
        context.sums.check(&input.path, &input.sha256)?;
    }
    let mut known = context.known.iter().filter(|entry| entry.name == job.row.record);
    if let Some(entry) = known.find(|entry| same_content(entry, &inputs) && whole(entry)) {
        let entry = ShardEntry { inputs, ..entry.clone() };
        write_json(context.out, &entry_file(&entry.file), &entry)?;
        return Ok((entry, true));
    }
    let signals = recording.read(&CHANNELS, &context.options.stop)?;
    write_shard(context, &job.row.record, &signals, inputs).map(|entry| (entry, false))
}

/// A file too damaged to open is reported by its checksum, if that is published: the remedy is then known.
fn blame_checksum(context: &Context<'_>, source: &Path, error: DataError) -> DataError {
    let checked = input_file(context.root, source, &context.options.stop)
        .and_then(|input| context.sums.check(&input.path, &input.sha256));
    match checked {
        Err(mismatch @ DataError::Checksum { .. }) => mismatch,
        _ => error,
    }
}

/// Whether the shard's inputs are the files a recording at `source` has, unchanged by size and time.
fn comes_from(context: &Context<'_>, entry: &ShardEntry, source: &Path) -> bool {
    let (root, first) = (context.root, entry.inputs.first().map(|input| input.path.as_str()));
    context.same_root
        && first == Some(relative(root, source).as_str())
        && entry.inputs.iter().all(|input| {
            stamp(&root.join(&input.path)).is_ok_and(|stamp| stamp == (input.bytes, input.modified_ns))
        })
}

fn same_content(entry: &ShardEntry, inputs: &[InputFile]) -> bool {
    let key =
        |inputs: &[InputFile]| inputs.iter().map(|i| (i.path.clone(), i.sha256.clone())).collect::<Vec<_>>();
    key(&entry.inputs) == key(inputs)
}

fn write_shard(
    context: &Context<'_>,
    name: &str,
    signals: &Signals,
    inputs: Vec<InputFile>,
) -> Result<ShardEntry, DataError> {
    let mut entry = shard_entry(name, signals, inputs, 0, 0);
    let row = signals.channels.len() * entry.sample_type.bytes();
    entry.bytes = signals.samples * row as u64;
    let path = context.out.join(&entry.file);
    let fail = |e: io::Error| match e.kind() {
        io::ErrorKind::Interrupted => DataError::Interrupted,
        _ => DataError::write(&path, entry.bytes, e),
    };
    let mut file = temporary(context.out).map_err(fail)?;
    let crc = write_samples(file.as_file_mut(), &signals.data, &context.options.stop).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(&path).map_err(|e| fail(e.error))?;
    entry.crc32 = crc;
    write_json(context.out, &entry_file(&entry.file), &entry)?;
    Ok(entry)
}

fn shard_entry(name: &str, signals: &Signals, inputs: Vec<InputFile>, bytes: u64, crc32: u32) -> ShardEntry {
    let (sample_type, extension) = match signals.data {
        Samples::I16(_) => (SampleType::Int16, "i16"),
        Samples::F32(_) => (SampleType::Float32, "f32"),
    };
    let mut hasher = Sha256::new();
    inputs.iter().for_each(|input| hasher.update(input.sha256.as_bytes()));
    let digest = hex(&hasher.finalize());
    ShardEntry {
        shard_version: VERSION,
        name: name.into(),
        sample_type,
        samples: signals.samples,
        sampling_rate: signals.sampling_rate,
        channels: signals.channels.clone(),
        inputs,
        file: format!("{name}-{}.{extension}", &digest[..12]),
        bytes,
        crc32,
    }
}

/// Writes samples little-endian and returns the bytes' CRC-32; `ErrorKind::Interrupted` when `stop` is set.
fn write_samples(file: &mut impl Write, samples: &Samples, stop: &AtomicBool) -> io::Result<u32> {
    let mut crc = Crc::new();
    let mut bytes = Vec::new();
    let mut put = |bytes: &mut Vec<u8>| -> io::Result<()> {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        crc.update(bytes);
        file.write_all(bytes)?;
        bytes.clear();
        Ok(())
    };
    match samples {
        Samples::I16(q) => q.chunks(WRITE_CHUNK).try_for_each(|chunk| {
            bytes.extend(chunk.iter().flat_map(|q| q.to_le_bytes()));
            put(&mut bytes)
        }),
        Samples::F32(values) => values.chunks(WRITE_CHUNK).try_for_each(|chunk| {
            bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes()));
            put(&mut bytes)
        }),
    }?;
    Ok(crc.sum())
}

/// Manifest entries in spreadsheet order: those just made, and valid shards of other recordings, made for another rule;
/// and the rows without a shard.
fn gather(
    context: &Context<'_>,
    sheet: &Spreadsheet,
    made: Vec<ShardEntry>,
) -> (Vec<RecordingEntry>, Vec<BTreeMap<String, String>>) {
    let mut by_name: BTreeMap<String, ShardEntry> = made.into_iter().map(|e| (e.name.clone(), e)).collect();
    for entry in &context.known {
        let current = Recording::find(context.root, &entry.name)
            .is_some_and(|source| comes_from(context, entry, &source));
        if !by_name.contains_key(&entry.name) && current && shard_is_whole(context.out, entry, false) {
            by_name.insert(entry.name.clone(), entry.clone());
        }
    }
    let (mut recordings, mut left_out) = (Vec::new(), Vec::new());
    for row in &sheet.rows {
        match by_name.remove(&row.record) {
            Some(shard) => recordings.push(RecordingEntry { fields: row.fields.clone(), shard }),
            None => left_out.push(row.fields.clone()),
        }
    }
    (recordings, left_out)
}

/// Size and time of the last change in ns.
fn stamp(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    let since = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), since.as_nanos() as u64))
}

fn relative(root: &Path, path: &Path) -> String {
    let path = path.strip_prefix(root).unwrap_or(path);
    path.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn input_file(root: &Path, path: &Path, stop: &AtomicBool) -> Result<InputFile, DataError> {
    let (bytes, modified_ns) = stamp(path).map_err(|e| DataError::io("read", path, e))?;
    Ok(InputFile { path: relative(root, path), bytes, modified_ns, sha256: sha256_file(path, stop)? })
}
