//! Slices, processes, devices and rows: pure arithmetic.
//!
//! The devices form a mesh of `slices × devices per slice`. The global batch is cut over all of them,
//! contiguously in replica order. Replicas go slice by slice, in a slice process by process, in a process in the
//! order of the job's device list: so that a process owns neighbouring replicas, and one stretch of the rows.
//!
//! ```
//! use tpu_train::topology::{Cluster, Place};
//! // Two slices of two hosts with two devices each.
//! let places: Vec<Place> = (0..8).map(|i| Place { slice: i / 4, process: (i / 2) as i32 }).collect();
//! let share = Cluster::new(&places).share(Place { slice: 1, process: 2 }).unwrap();
//! assert_eq!((share.process, share.processes, share.rows(16)), (2, 4, 64..96));
//! ```

use std::ops::Range;

/// The mesh of replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The outer data-parallel axis.
    pub slices: usize,
    /// Replicas in each slice.
    pub devices_per_slice: usize,
}

/// Why a mesh or a batch does not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// The devices cannot be cut into that many slices.
    #[error(
        "--slices {slices} does not divide the {devices} devices there are; \
         choose one of {}", list(.choices)
    )]
    Slices {
        /// Slices asked for.
        slices: usize,
        /// Devices present.
        devices: usize,
        /// Numbers of slices that do divide.
        choices: Vec<usize>,
    },
    /// The batch cannot be cut into equal parts.
    #[error(
        "--batch-size {batch} does not divide over {replicas} replicas; the nearest that do are {}",
        list(.nearest)
    )]
    Batch {
        /// The global batch.
        batch: usize,
        /// Replicas in the mesh.
        replicas: usize,
        /// The nearest batches that divide.
        nearest: Vec<usize>,
    },
    /// A size of zero.
    #[error("{what} must be at least 1")]
    Zero {
        /// The option.
        what: &'static str,
    },
}

fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

impl Mesh {
    /// A mesh of virtual devices, as many as it needs.
    pub fn new(slices: usize, devices_per_slice: usize) -> Result<Self, TopologyError> {
        match (slices, devices_per_slice) {
            (0, _) => Err(TopologyError::Zero { what: "--slices" }),
            (_, 0) => Err(TopologyError::Zero { what: "--devices-per-slice" }),
            _ => Ok(Self { slices, devices_per_slice }),
        }
    }

    /// `devices` real devices as `slices` logical slices.
    pub fn over(devices: usize, slices: usize) -> Result<Self, TopologyError> {
        if slices == 0 {
            return Err(TopologyError::Zero { what: "--slices" });
        }
        if !devices.is_multiple_of(slices) || devices == 0 {
            let choices = (1..=devices).filter(|n| devices.is_multiple_of(*n)).collect();
            return Err(TopologyError::Slices { slices, devices, choices });
        }
        Ok(Self { slices, devices_per_slice: devices / slices })
    }

    /// All replicas.
    pub fn replicas(&self) -> usize {
        self.slices * self.devices_per_slice
    }

    /// Rows of a global batch on each replica.
    pub fn rows(&self, batch: usize) -> Result<usize, TopologyError> {
        let replicas = self.replicas();
        if batch == 0 {
            return Err(TopologyError::Zero { what: "--batch-size" });
        }
        if !batch.is_multiple_of(replicas) {
            let below = batch / replicas * replicas;
            let nearest = [below, below + replicas].into_iter().filter(|&batch| batch > 0).collect();
            return Err(TopologyError::Batch { batch, replicas, nearest });
        }
        Ok(batch / replicas)
    }
}

/// Where in a job a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The TPU slice it belongs to; 0 where the runtime knows none.
    pub slice: i64,
    /// The process that reaches it; numbers may begin anew in each slice.
    pub process: i32,
}

/// Which process runs which replica, the same in every process of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Of each replica, the place of its device in the job's device list.
    order: Vec<usize>,
    /// Of each replica, where it is.
    places: Vec<Place>,
}

impl Cluster {
    /// One replica on each device of the job's list.
    pub fn new(devices: &[Place]) -> Self {
        let mut order: Vec<usize> = (0..devices.len()).collect();
        order.sort_by_key(|&device| devices[device]);
        let places = order.iter().map(|&device| devices[device]).collect();
        Self { order, places }
    }

    /// Of each replica, the place of its device in the job's device list.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Slices that the runtime reports, at least 1.
    pub fn slices(&self) -> usize {
        self.places.chunk_by(|a, b| a.slice == b.slice).count().max(1)
    }

    /// What the process at this place owns; `None` where no device is.
    pub fn share(&self, place: Place) -> Option<Share> {
        let processes: Vec<&[Place]> = self.places.chunk_by(|a, b| a == b).collect();
        let process = processes.iter().position(|replicas| replicas[0] == place)?;
        let first: usize = processes[..process].iter().map(|replicas| replicas.len()).sum();
        let replicas = first..first + processes[process].len();
        Some(Share { process, processes: processes.len(), replicas })
    }
}

/// One process's part of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The process, counted from 0 in the order of the replicas.
    pub process: usize,
    /// Processes of the job.
    pub processes: usize,
    /// Replicas of the process.
    pub replicas: Range<usize>,
}

impl Share {
    /// All `replicas` of a job of one process.
    pub fn whole(replicas: usize) -> Self {
        Self { process: 0, processes: 1, replicas: 0..replicas }
    }

    /// Whether the process is the job's only one.
    pub fn is_whole(&self) -> bool {
        self.processes == 1
    }

    /// Whether the process writes the job's logs, models and reports: exactly one does.
    pub fn writes(&self) -> bool {
        self.process == 0
    }

    /// The rows of a global batch that the process assembles, at so many rows a replica.
    pub fn rows(&self, per_replica: usize) -> Range<usize> {
        self.replicas.start * per_replica..self.replicas.end * per_replica
    }
}

impl std::fmt::Display for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural =
            |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        write!(f, "{} × {}", plural(self.slices, "slice"), plural(self.devices_per_slice, "device"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_does_not_divide_names_the_nearest() {
        let mesh = Mesh::new(8, 1).unwrap();
        assert_eq!(mesh.rows(32), Ok(4));
        let error = mesh.rows(30).unwrap_err().to_string();
        assert_eq!(error, "--batch-size 30 does not divide over 8 replicas; the nearest that do are 24, 32");
        assert!(mesh.rows(3).unwrap_err().to_string().ends_with("are 8"));
    }

    /// A job's devices in an order that no plugin promises: device by device, round the hosts.
    fn devices(slices: i64, hosts: i32, per_host: usize) -> Vec<Place> {
        let of_host = |process: i32| Place { slice: i64::from(process / hosts), process };
        (0..per_host).flat_map(|_| (0..slices as i32 * hosts).rev().map(of_host)).collect()
    }

    #[test]
    fn replicas_and_rows_are_owned_once_and_in_order() {
        for (slices, hosts, per_host) in [(1, 1, 1), (1, 1, 8), (1, 2, 1), (1, 4, 4), (8, 8, 4), (3, 2, 5)] {
            let devices = devices(slices, hosts, per_host);
            let cluster = Cluster::new(&devices);
            assert_eq!(cluster.slices(), slices as usize);
            let mut order = cluster.order().to_vec();
            order.sort_unstable();
            assert!(order.into_iter().eq(0..devices.len()), "each device runs one replica");
            let (mut rows, mut writers) = (0, 0);
            for process in 0..slices as i32 * hosts {
                let place = Place { slice: i64::from(process / hosts), process };
                let share = cluster.share(place).unwrap();
                assert_eq!((share.process as i32, share.processes as i32), (process, slices as i32 * hosts));
                let own = cluster.order()[share.replicas.clone()].iter();
                assert!(own.clone().all(|&device| devices[device].process == process));
                assert!(own.is_sorted(), "in the order of the device list");
                assert_eq!(share.rows(3).start, rows, "no gap and no overlap");
                rows = share.rows(3).end;
                writers += usize::from(share.writes());
            }
            assert_eq!((rows, writers), (3 * devices.len(), 1));
        }
    }

    #[test]
    fn processes_may_be_numbered_anew_in_each_slice() {
        let place = |slice, process| Place { slice, process };
        let cluster = Cluster::new(&[place(1, 0), place(0, 0), place(0, 1), place(1, 1)]);
        assert_eq!(cluster.order(), [1, 2, 0, 3]);
        let share = cluster.share(place(1, 1)).unwrap();
        assert_eq!((share.process, share.processes, share.replicas), (3, 4, 3..4));
        assert_eq!(cluster.share(place(2, 0)), None);
    }

    #[test]
    fn slices_must_divide_the_devices() {
        assert_eq!(Mesh::over(8, 2), Ok(Mesh { slices: 2, devices_per_slice: 4 }));
        let error = Mesh::over(8, 3).unwrap_err().to_string();
        assert_eq!(error, "--slices 3 does not divide the 8 devices there are; choose one of 1, 2, 4, 8");
        assert!(Mesh::over(8, 0).is_err());
    }
}
