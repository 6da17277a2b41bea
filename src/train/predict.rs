//! The subcommand `predict`: a saved model on recordings that need no labels.

use super::evaluate::{Evaluator, most_probable};
use super::pass::Windows;
use super::session::Session;
use super::stop::Stop;
use super::{dataset, saved};
use crate::cli::PredictArgs;
use crate::data::{self, Prepared, WindowTable};
use crate::report::table::{Align, Table};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use std::sync::Arc;

/// The subcommand `predict`.
///
/// # Errors
/// One sentence on what is wrong with the model, a recording or the platform.
pub fn run(args: &PredictArgs, stop: &Stop) -> Result<()> {
    let model = saved::open(&args.model)?;
    let classes = match &model.details {
        Some(details) => details.class_names.clone(),
        None => (0..model.config.classes).map(|class| format!("class {class}")).collect(),
    };
    let window = model.config.window;
    let stride = args.stride.or(model.details.as_ref().map(|details| details.stride)).unwrap_or(window);
    let prepared = Arc::new(data::load_files(&args.recordings, &stop.flag())?);
    let table = Arc::new(WindowTable::unlabelled(&prepared, window, stride)?);
    for name in &table.too_short {
        eprintln!("warning: {name} is shorter than a window of {window} samples and has no prediction");
    }
    let session = Session::start(&args.platform, args.batch_size, None)?;
    eprintln!("platform  {}\nmodel     {}", session.describe(), args.model.display());
    let step = saved::step_config(&model, &session, dataset::element_type(&table))?;
    let variables = session.replicate(&model.weights)?;
    let indices: Vec<u32> = (0..table.len() as u32).collect();
    let windows = Windows { prepared: &prepared, table: &table, indices: &indices };
    let evaluator = Evaluator::new(&session, &step)?;
    let Some(probabilities) = evaluator.probabilities(&variables, windows, stop)? else {
        bail!("stopped before all {} windows were predicted", indices.len());
    };
    if args.json {
        println!("{}", as_json(&prepared, &table, &classes, &probabilities));
    } else {
        println!("{}", as_table(&prepared, &table, &classes, &probabilities));
    }
    Ok(())
}

fn as_json(prepared: &Prepared, table: &WindowTable, classes: &[String], probabilities: &[f32]) -> Value {
    let rows = table.windows.iter().zip(probabilities.chunks(classes.len()));
    let windows: Vec<Value> = rows
        .map(|(window, probabilities)| {
            let recording = &prepared.recordings()[window.recording as usize].shard.name;
            json!({ "recording": recording, "start": window.start, "probabilities": probabilities })
        })
        .collect();
    json!({ "classes": classes, "windows": windows })
}

/// One row for each recording: its most probable class on average, and how many of its windows agree.
fn as_table(prepared: &Prepared, table: &WindowTable, classes: &[String], probabilities: &[f32]) -> String {
    let columns = [("recording", Align::Left), ("class", Align::Left), ("windows", Align::Right)];
    let mut text = Table::new(&[columns[0], columns[1], columns[2], ("mean probability", Align::Right)]);
    for (index, recording) in prepared.recordings().iter().enumerate() {
        let rows: Vec<&[f32]> = table
            .windows
            .iter()
            .zip(probabilities.chunks(classes.len()))
            .filter(|(window, _)| window.recording as usize == index)
            .map(|(_, probabilities)| probabilities)
            .collect();
        if rows.is_empty() {
            continue;
        }
        let mean: Vec<f32> = (0..classes.len())
            .map(|c| rows.iter().map(|row| row[c]).sum::<f32>() / rows.len() as f32)
            .collect();
        let class = most_probable(&mean);
        let agree = rows.iter().filter(|row| most_probable(row) == class).count();
        text.row([
            recording.shard.name.clone(),
            classes[class].clone(),
            format!("{agree} of {}", rows.len()),
            format!("{:.3}", mean[class]),
        ]);
    }
    text.to_string()
}
