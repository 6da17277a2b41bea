//! The subcommand `export`: a saved model in another format, or its inference graph as HLO.

use super::{dataset, saved};
use crate::cli::ExportArgs;
use crate::model::files::{self, SavedModel};
use crate::model::inference::inference;
use anyhow::{Context, Result, bail};
use prost::Message;
use std::path::Path;
use tpu_train_hlo::text;

/// What a file name asks for.
enum Kind {
    Model,
    HloProto,
    HloText,
}

impl Kind {
    fn of_name(out: &Path) -> Result<Self> {
        let name = out.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        if name.ends_with(".hlo.pb") {
            return Ok(Self::HloProto);
        }
        if name.ends_with(".hlo.txt") {
            return Ok(Self::HloText);
        }
        if files::Format::of_name(out).is_err() {
            bail!(
                "--out {}: the name has none of the endings that can be written, .keras, .weights.h5, .h5, \
                 .safetensors, .hlo.pb or .hlo.txt",
                out.display()
            );
        }
        Ok(Self::Model)
    }
}

/// The subcommand `export`.
///
/// # Errors
/// One sentence on what is wrong with the model, the name of the file to write, or the disk.
pub fn run(args: &ExportArgs) -> Result<()> {
    let kind = Kind::of_name(&args.out)?;
    match (&kind, args.batch_size) {
        (Kind::Model, Some(_)) => bail!("--batch-size is for .hlo.pb and .hlo.txt; a model takes any batch"),
        (_, Some(0)) => bail!("--batch-size 0 is out of range: expected a number above 0"),
        _ => {}
    }
    let model = saved::open(&args.model)?;
    let folder = dataset::parent(&args.out);
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("--out {}: {} cannot be made", args.out.display(), folder.display()))?;
    match kind {
        Kind::Model => files::write_any(&args.out, &model)?,
        Kind::HloProto => files::write_bytes(&args.out, &module(&model, args)?.encode_to_vec())?,
        Kind::HloText => files::write_bytes(&args.out, text::print(&module(&model, args)?).as_bytes())?,
    }
    println!("{}", args.out.display());
    Ok(())
}

/// The inference graph, its products as the model was trained.
fn module(model: &SavedModel, args: &ExportArgs) -> Result<tpu_train_proto::xla::HloModuleProto> {
    Ok(inference(&model.config, args.batch_size.unwrap_or(1), saved::precision(model))?)
}
