//! TPU generations and slice shapes, by the names that people type.
//!
//! A name is a generation and either a size, as the Cloud TPU API spells it (`v5litepod-8`, `v5p-32`, `v4-32`:
//! v5e and v6e count chips, the others TensorCores), or a topology in chips (`v5e:2x4`, `v5p-4x4x8`).
//! A *slice* is one ICI domain; its chips are spread over *hosts*. How many chips a host has differs between the
//! Cloud TPU API (one host of 8 chips for `v5litepod-8`) and GKE's multi-host pools (two hosts of 4).
//!
//! ```
//! use tpu_train::deploy::accelerator::Slice;
//! let slice: Slice = "v5p-32".parse().unwrap();
//! assert_eq!((slice.topology(), slice.chips(), slice.gke_hosts()), ("2x2x4".to_owned(), 16, 4));
//! ```

use std::str::FromStr;

use super::DeployError;

/// What Google Cloud calls a TPU generation in each of its places.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Generation {
    /// The Cloud TPU API's prefix, then other spellings.
    names: &'static [&'static str],
    /// libtpu's own name of it.
    libtpu: &'static str,
    /// TensorCores a chip, where names count those; 1 where they count chips.
    name_units_per_chip: usize,
    /// `true`: a 3D torus, topology `AxBxC`; `false`: `AxB`.
    cube: bool,
    least_chips: usize,
    most_chips: usize,
    /// The value of `cloud.google.com/gke-tpu-accelerator` and the machine type without its `-4t`.
    gke: Option<(&'static str, &'static str)>,
    /// The Cloud TPU API's software version; `None`: that API does not know this generation.
    runtime_version: Option<&'static str>,
}

static GENERATIONS: &[Generation] = &[
    Generation {
        names: &["v2"],
        libtpu: "v2",
        name_units_per_chip: 2,
        cube: false,
        least_chips: 4,
        most_chips: 256,
        gke: None,
        runtime_version: Some("tpu-ubuntu2204-base"),
    },
    Generation {
        names: &["v3"],
        libtpu: "v3",
        name_units_per_chip: 2,
        cube: false,
        least_chips: 4,
        most_chips: 1024,
        gke: None,
        runtime_version: Some("tpu-ubuntu2204-base"),
    },
    Generation {
        names: &["v4"],
        libtpu: "v4",
        name_units_per_chip: 2,
        cube: true,
        least_chips: 4,
        most_chips: 4096,
        gke: Some(("tpu-v4-podslice", "ct4p-hightpu")),
        runtime_version: Some("tpu-ubuntu2204-base"),
    },
    Generation {
        names: &["v5litepod", "v5e", "v5lite"],
        libtpu: "v5e",
        name_units_per_chip: 1,
        cube: false,
        least_chips: 1,
        most_chips: 256,
        gke: Some(("tpu-v5-lite-podslice", "ct5lp-hightpu")),
        runtime_version: Some("v2-alpha-tpuv5-lite"),
    },
    Generation {
        names: &["v5p"],
        libtpu: "v5p",
        name_units_per_chip: 2,
        cube: true,
        least_chips: 4,
        most_chips: 8960,
        gke: Some(("tpu-v5p-slice", "ct5p-hightpu")),
        runtime_version: Some("v2-alpha-tpuv5"),
    },
    Generation {
        names: &["v6e"],
        libtpu: "v6e",
        name_units_per_chip: 1,
        cube: false,
        least_chips: 1,
        most_chips: 256,
        gke: Some(("tpu-v6e-slice", "ct6e-standard")),
        runtime_version: Some("v2-alpha-tpuv6e"),
    },
    Generation {
        names: &["tpu7x", "v7x"],
        libtpu: "tpu7x",
        name_units_per_chip: 2,
        cube: true,
        least_chips: 1,
        most_chips: 9216,
        gke: Some(("tpu7x", "tpu7x-standard")),
        runtime_version: None,
    },
];

/// One TPU slice: a generation and a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    generation: &'static Generation,
    dims: Vec<usize>,
    /// Whether the topology was asked for and is not the one that the size alone stands for.
    unusual: bool,
}

impl Slice {
    /// Chips of the slice.
    pub fn chips(&self) -> usize {
        self.dims.iter().product()
    }

    /// The topology in chips, such as `2x4` or `2x2x4`.
    pub fn topology(&self) -> String {
        self.dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
    }

    /// The Cloud TPU API's name of this size, such as `v5litepod-8`.
    pub fn name(&self) -> String {
        self.generation.name_of(self.chips())
    }

    /// libtpu's name of the topology to compile for, such as `v5e:2x4`.
    pub fn libtpu_name(&self) -> String {
        format!("{}:{}", self.generation.libtpu, self.topology())
    }

    /// Chips of a host along each side, where a Cloud TPU VM has more of them than libtpu takes for granted: the
    /// one host of a `v5litepod-8` has all eight.
    pub fn chips_of_wide_host(&self) -> Option<[i64; 3]> {
        let &[rows, columns] = &self.dims[..] else { return None };
        (self.chips() == 8 && self.vm_hosts() == 1).then_some([rows as i64, columns as i64, 1])
    }

    /// Every generation with its least and its greatest slice, for a message.
    pub fn range_of_names() -> String {
        let range = |generation: &Generation| {
            let sizes: Vec<usize> = generation.usual_sizes().collect();
            let of = |size: Option<&usize>| generation.name_of(size.copied().unwrap_or_default());
            format!("{} to {}", of(sizes.first()), of(sizes.last()))
        };
        GENERATIONS.iter().map(range).collect::<Vec<_>>().join(", ")
    }

    /// The generation and the topology, for `gcloud … --type --topology`, where the size alone would give another
    /// topology.
    pub(super) fn unusual_topology(&self) -> Option<(&'static str, String)> {
        self.unusual.then(|| (self.generation.names[0], self.topology()))
    }

    /// Chips that one host of a GKE node pool has.
    pub fn gke_chips_per_host(&self) -> usize {
        self.chips().min(4)
    }

    /// Hosts of the slice as GKE nodes.
    pub fn gke_hosts(&self) -> usize {
        self.chips() / self.gke_chips_per_host()
    }

    /// Hosts of the slice as Cloud TPU VMs.
    pub fn vm_hosts(&self) -> usize {
        let whole_host = self.generation.name_units_per_chip == 1 && self.chips() <= 8;
        if whole_host { 1 } else { self.gke_hosts() }
    }

    /// The value of GKE's node selector `cloud.google.com/gke-tpu-accelerator` and the machine type's stem, or
    /// `None` for a generation that is not offered there.
    pub(super) fn gke(&self) -> Option<(&'static str, &'static str)> {
        self.generation.gke
    }

    /// The software version that the Cloud TPU API wants, or `None` for a generation it does not offer.
    pub(super) fn runtime_version(&self) -> Option<&'static str> {
        self.generation.runtime_version
    }
}

impl FromStr for Slice {
    type Err = DeployError;

    /// # Errors
    /// A name that is no slice; the message has the nearest names that are.
    fn from_str(name: &str) -> Result<Self, DeployError> {
        let typed = name.trim().to_ascii_lowercase();
        find(&typed).ok_or_else(|| DeployError::UnknownAccelerator {
            found: name.to_owned(),
            nearest: nearest(&typed).join(", "),
        })
    }
}

fn find(typed: &str) -> Option<Slice> {
    let (generation, size) = split(typed)?;
    if !size.contains('x') {
        let chips = exact_quotient(size.parse().ok()?, generation.name_units_per_chip)?;
        let dims = generation.usual_topology(chips)?;
        return Some(Slice { generation, dims, unusual: false });
    }
    let dims = size.split('x').map(|side| side.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let usual =
        generation.usual_topology(dims.iter().try_fold(1usize, |all, side| all.checked_mul(*side))?)?;
    let unusual = dims != usual;
    (!unusual || generation.allows(&dims)).then_some(Slice { generation, dims, unusual })
}

/// The generation and what follows the `-` or `:` behind its name.
fn split(typed: &str) -> Option<(&'static Generation, &str)> {
    let (name, size) = typed.split_once(['-', ':'])?;
    let generation = GENERATIONS.iter().find(|generation| generation.names.contains(&name))?;
    Some((generation, size))
}

fn exact_quotient(whole: usize, part: usize) -> Option<usize> {
    whole.is_multiple_of(part).then_some(whole / part)
}

impl Generation {
    fn name_of(&self, chips: usize) -> String {
        format!("{}-{}", self.names[0], chips * self.name_units_per_chip)
    }

    /// The topology that a number of chips stands for, or `None` where there is no slice of that size.
    fn usual_topology(&self, chips: usize) -> Option<Vec<usize>> {
        if !(self.least_chips..=self.most_chips).contains(&chips) {
            return None;
        }
        if self.cube { usual_cube(chips) } else { self.usual_square(chips) }
    }

    /// `AxA` or `Ax2A`, without the sizes that are not offered: 2 chips, and 8 before v5e.
    fn usual_square(&self, chips: usize) -> Option<Vec<usize>> {
        if !chips.is_power_of_two() || chips == 2 || (self.least_chips == 4 && chips == 8) {
            return None;
        }
        let short = 1 << (chips.ilog2() / 2);
        Some(vec![short, chips / short])
    }

    /// Whether a 3D topology other than the usual one may be asked for: whole cubes of 4x4x4, sides ascending.
    fn allows(&self, dims: &[usize]) -> bool {
        self.cube && dims.len() == 3 && dims.is_sorted() && dims.iter().all(|side| side % 4 == 0 && *side > 0)
    }

    /// Every usual size, ascending; for 3D tori those that are powers of two.
    fn usual_sizes(&self) -> impl Iterator<Item = usize> {
        (0..14).map(|power| 1 << power).filter(|chips| self.usual_topology(*chips).is_some())
    }
}

/// The most compact ascending topology of whole 4x4x4 cubes, or one of the shapes within a cube.
fn usual_cube(chips: usize) -> Option<Vec<usize>> {
    match chips {
        1 => return Some(vec![1, 1, 1]),
        4 => return Some(vec![2, 2, 1]),
        8 => return Some(vec![2, 2, 2]),
        16 => return Some(vec![2, 2, 4]),
        32 => return Some(vec![2, 4, 4]),
        _ => {}
    }
    let cubes = exact_quotient(chips, 64).filter(|cubes| *cubes > 0)?;
    let sides = |count: usize| (1..=count).filter(move |side| count.is_multiple_of(*side));
    sides(cubes)
        .flat_map(|a| sides(cubes / a).map(move |b| [a, b, cubes / a / b]))
        .filter(|side| side.is_sorted() && side[2] <= 64)
        .min_by_key(|[a, b, c]| a * b + b * c + a * c)
        .map(|side| side.iter().map(|cubes| cubes * 4).collect())
}

/// Up to three names near a wrong one: the sizes next to it where its generation is known, else by spelling.
fn nearest(typed: &str) -> Vec<String> {
    if let Some((generation, size)) = split(typed) {
        // Neither overflow nor nonsense is near anything: the one is far too large, the other a single chip.
        let digits = |side: &str| side.len() > 18 && side.chars().all(|c| c.is_ascii_digit());
        let number = |side: &str| side.parse().unwrap_or(if digits(side) { usize::MAX } else { 1 });
        let units = size.split('x').map(number);
        let wanted = units.fold(1usize, usize::saturating_mul)
            / if size.contains('x') { 1 } else { generation.name_units_per_chip };
        let mut sizes: Vec<usize> = generation.usual_sizes().collect();
        sizes.sort_by_key(|chips| chips.abs_diff(wanted));
        sizes.truncate(3);
        sizes.sort_unstable();
        return sizes.into_iter().map(|chips| generation.name_of(chips)).collect();
    }
    let mut names: Vec<(usize, String)> = GENERATIONS
        .iter()
        .flat_map(|generation| generation.usual_sizes().map(|chips| generation.name_of(chips)))
        .map(|name| (edit_distance(typed, &name), name))
        .collect();
    names.sort();
    names.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Levenshtein's distance: insertions, deletions and substitutions between two strings.
fn edit_distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.chars().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}
