//! The order of training windows: a stateless permutation, so that a batch is a pure function of (seed, step).
//!
//! Position → index by a balanced Feistel network over the next power of four, walked along its cycle until it falls
//! inside `[0, n)` (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). O(1) memory, no state to save:
//! resuming at a step gives what never having stopped gives.
//!
//! ```
//! use tpu_train::data::Plan;
//! let plan = Plan::new((0..10).collect(), 4, 7, true)?;
//! assert_eq!(plan.steps_per_epoch(), 3);
//! assert_eq!(plan.indices(2).len(), 2); // the last, partial batch of the first epoch
//! # Ok::<(), tpu_train::data::DataError>(())
//! ```

use std::ops::Range;

use super::DataError;

const ROUNDS: usize = 10;

/// Halves of at least this many bits, so that small sets are mixed by more than a few bits.
const MIN_HALF_BITS: u32 = 5;

/// A bijection of `[0, n)` onto itself.
#[derive(Clone, Debug)]
pub struct Shuffle {
    n: u64,
    half_bits: u32,
    /// None: the identity.
    keys: Option<[u64; ROUNDS]>,
}

impl Shuffle {
    /// The permutation of `n` items for this seed and epoch.
    pub fn new(seed: u64, epoch: u64, n: u64) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        let mut state = mix(seed ^ mix(epoch.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self { n, half_bits: bits.div_ceil(2).max(MIN_HALF_BITS), keys: Some(keys) }
    }

    /// The identity of `n` items.
    pub fn identity(n: u64) -> Self {
        Self { n, half_bits: 0, keys: None }
    }

    /// The item at `position`, which must be below `n`.
    pub fn index(&self, position: u64) -> u64 {
        debug_assert!(position < self.n, "position {position} of {}", self.n);
        let Some(keys) = &self.keys else { return position };
        let mut value = position;
        loop {
            value = self.feistel(keys, value);
            if value < self.n {
                return value;
            }
        }
    }

    fn feistel(&self, keys: &[u64; ROUNDS], value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

/// The whole order of an epoch: `n` indices, each once.
pub fn epoch_order(seed: u64, epoch: u64, n: u64) -> impl Iterator<Item = u64> {
    let shuffle = Shuffle::new(seed, epoch, n);
    (0..n).map(move |position| shuffle.index(position))
}

/// SplitMix64's finalizer (Steele, Lea and Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Which windows make up each step's batch.
///
/// An epoch passes once over `windows`; its last batch may be smaller.
#[derive(Clone, Debug)]
pub struct Plan {
    windows: Vec<u32>,
    batch_size: usize,
    seed: u64,
    shuffle: bool,
}

impl Plan {
    /// A plan over these window indices. Without `shuffle` every epoch takes them as they stand.
    ///
    /// # Errors
    /// When there are no windows or the batch is 0.
    pub fn new(windows: Vec<u32>, batch_size: usize, seed: u64, shuffle: bool) -> Result<Self, DataError> {
        if windows.is_empty() || batch_size == 0 {
            let problem =
                format!("{} windows in batches of {batch_size}, expected at least 1 of each", windows.len());
            return Err(DataError::Batch { problem });
        }
        Ok(Self { windows, batch_size, seed, shuffle })
    }

    /// Windows in an epoch.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    /// Never: [`Plan::new`] refuses an empty plan.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Windows in a full batch.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Batches in an epoch, the partial one included.
    pub fn steps_per_epoch(&self) -> u64 {
        self.windows.len().div_ceil(self.batch_size) as u64
    }

    /// Windows of step `step`, counted from 0 over all epochs.
    pub fn indices(&self, step: u64) -> Vec<u32> {
        self.rows(step, 0..self.batch_size)
    }

    /// Windows of step `step` in the rows `rows` of its batch; fewer where the last batch ends among them.
    pub fn rows(&self, step: u64, rows: Range<usize>) -> Vec<u32> {
        let (epoch, within) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let n = self.windows.len() as u64;
        let order = if self.shuffle { Shuffle::new(self.seed, epoch, n) } else { Shuffle::identity(n) };
        let first = within * self.batch_size as u64;
        let last = (first + self.batch_size.min(rows.end) as u64).min(n);
        let own = first + rows.start as u64..last;
        own.map(|position| self.windows[order.index(position) as usize]).collect()
    }

    /// As [`Self::steps`], of each batch the rows `rows` alone: what one process of several assembles.
    pub fn steps_of(
        &self,
        rows: Range<usize>,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = Vec<u32>> + Send + use<> {
        let plan = self.clone();
        (first..last).map(move |step| plan.rows(step, rows.clone()))
    }

    /// The index lists of steps `first..last`, for a [`Loader`](super::Loader).
    pub fn steps(&self, first: u64, last: u64) -> impl Iterator<Item = Vec<u32>> + Send + use<> {
        self.steps_of(0..self.batch_size, first, last)
    }
}
