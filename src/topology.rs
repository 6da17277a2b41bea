//! Slices, devices and rows: pure arithmetic.
//!
//! The devices form a mesh of `slices × devices per slice`. The global batch is cut over all of them,
//! contiguously in replica order.

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

    #[test]
    fn slices_must_divide_the_devices() {
        assert_eq!(Mesh::over(8, 2), Ok(Mesh { slices: 2, devices_per_slice: 4 }));
        let error = Mesh::over(8, 3).unwrap_err().to_string();
        assert_eq!(error, "--slices 3 does not divide the 8 devices there are; choose one of 1, 2, 4, 8");
        assert!(Mesh::over(8, 0).is_err());
    }
}
