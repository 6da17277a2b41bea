//! Ports that the TPU runtime listens on.

use super::view::View;
use super::{Asked, Finding, Level, cluster};
use crate::pjrt::Platform;

/// The kernel's code of a socket that listens.
const LISTENS: &str = "0A";

/// A port, and what needs it.
struct Port {
    number: u16,
    purpose: &'static str,
    /// What becomes of a run where somebody else has it.
    level: Level,
}

/// Ports that another process listens on.
pub(super) fn ports(view: &View, asked: &Asked) -> Vec<Finding> {
    if asked.platform != Platform::Tpu {
        return Vec::new();
    }
    let listening = listening(view);
    let needed = needed(view);
    let mut found: Vec<Finding> = needed
        .iter()
        .filter_map(|port| Some((port, listening.iter().find(|(number, _)| *number == port.number)?)))
        .map(|(port, (number, socket))| {
            let holder = view.processes_with(&[format!("socket:[{socket}]")]);
            let holder = holder.first().map_or("another process".to_owned(), ToString::to_string);
            let text = format!("{holder} listens on port {number}, which {} needs", port.purpose);
            Finding::new(
                port.level,
                "ports",
                text,
                format!("end it; `ss -ltnp 'sport = :{number}'` shows it to root"),
            )
        })
        .collect();
    if found.is_empty() {
        let numbers: Vec<String> = needed.iter().map(|port| port.number.to_string()).collect();
        found.push(Finding::ok("ports", format!("{} are free", numbers.join(", "))));
    }
    found
}

fn needed(view: &View) -> Vec<Port> {
    let own =
        |name: &str, usual: u16| view.variable(name).and_then(|port| port.parse().ok()).unwrap_or(usual);
    let several_hosts = view.list("TPU_WORKER_HOSTNAMES").len() > 1;
    let coordinates = cluster::slices(view) > 1
        && view.variable("MEGASCALE_SLICE_ID") == Some("0")
        && view.variable("TPU_WORKER_ID").unwrap_or("0") == "0";
    let coordinator =
        view.variable("MEGASCALE_COORDINATOR_ADDRESS").and_then(|address| address.rsplit_once(':'));
    let megascale =
        coordinator.and_then(|(_, port)| port.parse().ok()).unwrap_or(own("MEGASCALE_PORT", 8080));
    let fatal_if = |needed: bool, otherwise: Level| if needed { Level::Fatal } else { otherwise };
    vec![
        Port { number: 8431, purpose: "the TPU runtime's metrics", level: Level::Warning },
        Port {
            number: own("TPU_PROCESS_PORT", 8471),
            purpose: "the TPU runtime, host to host,",
            level: fatal_if(several_hosts, Level::Warning),
        },
        Port {
            number: megascale,
            purpose: "the coordinator of a Multislice job",
            level: fatal_if(coordinates, Level::Note),
        },
    ]
}

/// Ports that something listens on, each with its socket's number.
fn listening(view: &View) -> Vec<(u16, String)> {
    let tables = ["proc/net/tcp", "proc/net/tcp6"].into_iter().filter_map(|table| view.read(table));
    let socket = |line: &str| -> Option<(u16, String)> {
        // "0: 00000000:20EF 00000000:0000 0A … inode": number, here, there, state; the inode is the tenth field.
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        (*fields.get(3)? == LISTENS).then(|| Some((port, (*fields.get(9)?).to_owned())))?
    };
    tables.flat_map(|table| table.lines().filter_map(socket).collect::<Vec<_>>()).collect()
}
