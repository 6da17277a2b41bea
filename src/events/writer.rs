//! Appending to an event file, and reading one back.

use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use prost::Message;
use tpu_train_proto::tensorboard::event::What;
use tpu_train_proto::tensorboard::summary::Value;
use tpu_train_proto::tensorboard::{Event, GraphDef, SourceMetadata, Summary};

use super::EventError;
use super::record::{Records, frame};
use super::summary::{self, Bucket, PngImage};
use super::time::seconds;

const FILE_VERSION: &str = "brain.Event:2";
const WRITER: &str = "tpu_train.events";

/// Appends events to one file.
#[derive(Debug)]
pub struct EventWriter {
    file: File,
    path: PathBuf,
    length: u64,
}

impl EventWriter {
    /// Makes `events.out.tfevents.<seconds>.<host>.<pid>.<n><suffix>` in a folder, which is made if it is not
    /// there, and writes the version record. Keras's own suffix is `.v2`.
    ///
    /// # Errors
    /// [`EventError::Create`] or [`EventError::Write`].
    pub fn create(folder: &Path, suffix: &str) -> Result<Self, EventError> {
        fs::create_dir_all(folder)
            .map_err(|source| EventError::Create { path: folder.to_owned(), source })?;
        let now = SystemTime::now();
        let (file, path) = create_new(folder, suffix, now)?;
        let mut writer = Self { file, path, length: 0 };
        writer.append(&Event {
            wall_time: seconds(now),
            what: Some(What::FileVersion(FILE_VERSION.to_owned())),
            source_metadata: Some(SourceMetadata { writer: WRITER.to_owned() }),
            ..Event::default()
        })?;
        Ok(writer)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one number.
    ///
    /// # Errors
    /// [`EventError::Write`], as for all that follow.
    pub fn scalar(&mut self, tag: &str, step: u64, value: f32) -> Result<(), EventError> {
        self.value(step, summary::scalar(tag, value))
    }

    /// Writes Markdown.
    pub fn text(&mut self, tag: &str, step: u64, markdown: &str) -> Result<(), EventError> {
        self.value(step, summary::text(tag, markdown))
    }

    /// Writes a picture.
    pub fn image(&mut self, tag: &str, step: u64, png: &PngImage) -> Result<(), EventError> {
        self.value(step, summary::image(tag, png))
    }

    /// Writes a histogram; [`summary::buckets`] counts values into buckets.
    pub fn histogram(&mut self, tag: &str, step: u64, buckets: &[Bucket]) -> Result<(), EventError> {
        self.value(step, summary::histogram(tag, buckets))
    }

    /// Writes a Keras model's configuration under the tag `keras`, at step 0.
    pub fn keras_model(&mut self, json: &str) -> Result<(), EventError> {
        self.value(0, summary::keras_model("keras", json))
    }

    /// Writes the graph of the run.
    pub fn graph(&mut self, graph: &GraphDef) -> Result<(), EventError> {
        self.event(0, What::GraphDef(graph.encode_to_vec()))
    }

    /// Writes a value made by [`summary`].
    pub fn value(&mut self, step: u64, value: Value) -> Result<(), EventError> {
        self.event(step, What::Summary(Summary { value: vec![value] }))
    }

    fn event(&mut self, step: u64, what: What) -> Result<(), EventError> {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let wall_time = seconds(SystemTime::now());
        self.append(&Event { wall_time, step, what: Some(what), source_metadata: None })
    }

    fn append(&mut self, event: &Event) -> Result<(), EventError> {
        let record = frame(&event.encode_to_vec());
        if let Err(source) = self.file.write_all(&record) {
            // A half-written record would hide all that follow it. If even this fails the file is lost.
            let _ = self.file.set_len(self.length);
            return Err(EventError::Write { path: self.path.clone(), source });
        }
        self.length += record.len() as u64;
        Ok(())
    }
}

/// All events of a file, checksums verified.
///
/// # Errors
/// [`EventError::Read`], [`EventError::Record`] or [`EventError::Decode`].
pub fn read_events(path: &Path) -> Result<Vec<Event>, EventError> {
    let file = File::open(path).map_err(|source| EventError::Read { path: path.to_owned(), source })?;
    let decode = |(index, record): (usize, Result<Vec<u8>, _>)| {
        let bytes = record.map_err(|source| EventError::Record { path: path.to_owned(), source })?;
        Event::decode(bytes.as_slice()).map_err(|source| EventError::Decode {
            path: path.to_owned(),
            index,
            source,
        })
    };
    Records::new(BufReader::new(file)).enumerate().map(decode).collect()
}

/// A new file for appending; the counter in its name rises until the name is free.
fn create_new(folder: &Path, suffix: &str, now: SystemTime) -> Result<(File, PathBuf), EventError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let (seconds, host, pid) = (seconds(now) as u64, host_name(), std::process::id());
    loop {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("events.out.tfevents.{seconds}.{host}.{pid}.{count}{suffix}"));
        match File::options().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(EventError::Create { path, source }),
        }
    }
}

/// This machine's name, reduced to what may stand between the dots of a file name.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    let name: String =
        name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_one_sentence_and_the_file_keeps_its_whole_records() {
        let Ok(file) = File::options().append(true).open("/dev/full") else {
            eprintln!("skipped: this machine has no /dev/full");
            return;
        };
        let mut writer = EventWriter { file, path: "/dev/full".into(), length: 0 };
        let message = writer.scalar("loss", 0, 1.0).unwrap_err().to_string();
        assert!(message.starts_with("cannot append to the event file /dev/full: No space left"), "{message}");
        assert!(!message.contains('\n'));
    }

    #[test]
    fn files_of_one_second_do_not_collide() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> =
            (0..3).map(|_| EventWriter::create(folder.path(), ".v2").unwrap().path().to_owned()).collect();
        assert!(paths[0] != paths[1] && paths[1] != paths[2]);
        assert!(paths.iter().all(|path| read_events(path).unwrap().len() == 1));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let message = EventWriter::create(&file.path().join("run"), ".v2").unwrap_err().to_string();
        assert!(message.contains("run for event logs") && message.contains("--logdir"), "{message}");
    }
}
