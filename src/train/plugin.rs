//! The subcommand `plugin`.

use crate::cli::{PluginAction, PluginArgs};
use crate::pjrt::install::InstallOptions;
use crate::pjrt::plugin::{self, PluginInfo};
use crate::report::table::{Align, Table};
use anyhow::Result;
use serde_json::json;

/// The subcommand `plugin`.
///
/// # Errors
/// When a plugin cannot be installed.
pub fn run(args: &PluginArgs) -> Result<()> {
    match &args.action {
        PluginAction::List { json: true } => {
            let plugins: Vec<_> = plugin::list().iter().map(entry).collect();
            println!("{}", json!({ "plugins": plugins }));
        }
        PluginAction::List { json: false } => println!("{}", table(&plugin::list())),
        PluginAction::Install { platform } => {
            let file = plugin::install_file(*platform, &InstallOptions::from_environment()?)?;
            println!("{}", file.path.display());
        }
    }
    Ok(())
}

fn entry(info: &PluginInfo) -> serde_json::Value {
    json!({
        "platform": info.platform.to_string(),
        "name": info.name,
        "version": info.version,
        "path": info.path,
        "installed": info.installed,
        "bytes": info.bytes,
        "api_version": info.api_version.map(|(major, minor)| format!("{major}.{minor}")),
    })
}

fn table(plugins: &[PluginInfo]) -> Table {
    let mut table = Table::new(&[
        ("platform", Align::Left),
        ("plugin", Align::Left),
        ("C API", Align::Left),
        ("size", Align::Right),
        ("where", Align::Left),
    ]);
    for info in plugins {
        let version = info.version.as_deref().unwrap_or_default();
        let api = info.api_version.map_or("-".into(), |(major, minor)| format!("{major}.{minor}"));
        let place = match info.installed {
            true => info.path.display().to_string(),
            false => format!("not installed: tpu-train plugin install {}", info.platform),
        };
        table.row([
            info.platform.to_string(),
            format!("{} {version}", info.name).trim().to_owned(),
            api,
            format!("{:.0} MB", info.bytes as f64 / 1e6),
            place,
        ]);
    }
    table
}
