//! The `.keras` archive: a zip of `config.json`, `metadata.json`, `model.weights.h5` and our own `tpu_train.json`.
//!
//! Keras ignores the entry it does not know. Nothing in the archive depends on the clock, so equal models give equal
//! bytes; `date_saved` is therefore left out, which Keras does not read.

use std::io::{Cursor, Read, Write};

use serde_json::{Value, json};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::hdf5::Reader;
use super::layers::fit;
use super::{
    Extras, LARGEST_FILE, Problem, SavedModel, network_json, network_parse, optimizer, trainable_variables,
    weights_h5,
};

const CONFIG: &str = "config.json";
const METADATA: &str = "metadata.json";
const WEIGHTS: &str = "model.weights.h5";
const EXTRAS: &str = "tpu_train.json";
/// The most bytes of JSON that are read.
const LARGEST_JSON: u64 = 1 << 24;

pub(super) fn to_bytes(model: &SavedModel) -> Result<Vec<u8>, Problem> {
    let metadata = json!({"keras_version": network_json::KERAS_VERSION});
    let config = network_json::archive_config(&model.config, model.optimizer.as_ref());
    let mut entries = vec![
        (METADATA, metadata.to_string().into_bytes()),
        (CONFIG, config.to_string().into_bytes()),
        (WEIGHTS, weights_h5::tree(model).into_bytes()?),
    ];
    if model.details.is_some() {
        entries.push((EXTRAS, Extras::details_of(model).to_json()?));
    }
    pack(entries).map_err(|error| Problem::damaged("the archive to be written", error))
}

fn pack(entries: Vec<(&str, Vec<u8>)>) -> Result<Vec<u8>, ZipError> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        SimpleFileOptions::default().compression_method(CompressionMethod::Stored).unix_permissions(0o644);
    for (name, bytes) in entries {
        archive.start_file(name, stored)?;
        archive.write_all(&bytes)?;
    }
    Ok(archive.finish()?.into_inner())
}

pub(super) fn from_bytes(bytes: &[u8]) -> Result<SavedModel, Problem> {
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|error| Problem::damaged("the archive", error))?;
    let hint = "save the model from Keras 3 by model.save(\"model.keras\")";
    let mut needed = |name: &str, limit: u64| {
        entry(&mut archive, name, limit)?.ok_or_else(|| Problem::missing(name, hint))
    };
    let json = needed(CONFIG, LARGEST_JSON)?;
    let weights = needed(WEIGHTS, LARGEST_FILE)?;
    let extras = entry(&mut archive, EXTRAS, LARGEST_JSON)?;
    let details =
        extras.map(|bytes| Extras::from_json(&bytes)).transpose()?.and_then(|extras| extras.details);

    let json: Value = serde_json::from_slice(&json).map_err(|error| Problem::damaged(CONFIG, error))?;
    let config = network_parse::model_config(&json)?;
    let file = Reader::new(weights)?;
    let weights = fit(weights_h5::found_layers(&file)?, &config)?;
    let mut notes: Vec<String> = network_parse::precision_note(&json).into_iter().collect();
    let described = json.pointer("/compile_config/optimizer");
    let variables = || weights_h5::optimizer_variables(&file);
    let optimizer = optimizer::from_keras(described, variables, &trainable_variables(&config), &mut notes)?;
    Ok(SavedModel { config, weights, optimizer, details, notes })
}

/// An entry's bytes; `None` where there is no such entry.
fn entry(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    name: &str,
    limit: u64,
) -> Result<Option<Vec<u8>>, Problem> {
    let file = match archive.by_name(name) {
        Ok(file) => file,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(Problem::damaged(name, error)),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| Problem::damaged(name, error))?;
    match bytes.len() as u64 > limit {
        true => Err(Problem::TooLarge { object: name.to_owned(), found: bytes.len() as u64, limit }),
        false => Ok(Some(bytes)),
    }
}
