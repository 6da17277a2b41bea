//! Counter-based random numbers: Threefry-2x32 with 20 rounds (Salmon et al. 2011, "Parallel random numbers: as easy
//! as 1, 2, 3"), from 32-bit integer operations, the same on every platform.
//!
//! A draw is a pure function of a key and the element's index, so it does not depend on how the elements are spread
//! over replicas: each replica passes the global index of its first element.
//! Usage: `let u = random::uniform(&mut g, key, first, &[rows, units]);`

use crate::{ElementType, Graph, Value};

const PARITY: u32 = 0x1BD1_1BDA;
const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
const ROUNDS: usize = 20;

/// Threefry-2x32-20 on the host: two random words for a key and a counter.
pub fn threefry2x32_host(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let schedule = [key[0], key[1], key[0] ^ key[1] ^ PARITY];
    let mut x = [counter[0].wrapping_add(key[0]), counter[1].wrapping_add(key[1])];
    for round in 0..ROUNDS {
        x[0] = x[0].wrapping_add(x[1]);
        x[1] = x[1].rotate_left(ROTATIONS[round % 8]) ^ x[0];
        if round % 4 == 3 {
            let group = round / 4 + 1;
            x[0] = x[0].wrapping_add(schedule[group % 3]);
            x[1] = x[1].wrapping_add(schedule[(group + 1) % 3]).wrapping_add(group as u32);
        }
    }
    x
}

/// The uniform number in `[0, 1)` of the element at `index`: what [`uniform`] draws on the device.
pub fn uniform_host(key: [u32; 2], index: u32) -> f32 {
    (threefry2x32_host(key, [index, 0])[0] >> 8) as f32 * (1.0 / (1 << 24) as f32)
}

/// Threefry-2x32-20 in the graph: all four values u32, of equal shapes or scalars.
#[track_caller]
pub fn threefry2x32(g: &mut Graph, key: [Value; 2], counter: [Value; 2]) -> [Value; 2] {
    let parity = g.scalar(ElementType::U32, PARITY.into());
    let mixed = g.xor(key[0], key[1]);
    let schedule = [key[0], key[1], g.xor(mixed, parity)];
    let mut x = [g.add(counter[0], key[0]), g.add(counter[1], key[1])];
    for round in 0..ROUNDS {
        x[0] = g.add(x[0], x[1]);
        let rotated = rotate_left(g, x[1], ROTATIONS[round % 8]);
        x[1] = g.xor(rotated, x[0]);
        if round % 4 == 3 {
            let group = round / 4 + 1;
            x[0] = g.add(x[0], schedule[group % 3]);
            let number = g.scalar(ElementType::U32, group as f64);
            let word = g.add(schedule[(group + 1) % 3], number);
            x[1] = g.add(x[1], word);
        }
    }
    x
}

#[track_caller]
fn rotate_left(g: &mut Graph, v: Value, by: u32) -> Value {
    let (left, right) =
        (g.scalar(ElementType::U32, by.into()), g.scalar(ElementType::U32, f64::from(32 - by)));
    let (high, low) = (g.shl(v, left), g.shr(v, right));
    g.or(high, low)
}

/// Uniform f32 numbers in `[0, 1)`, multiples of 2^-24, of extents `dims`. The key and `first` are u32 scalars; the
/// element at row-major position `i` is drawn for the global index `first + i`.
#[track_caller]
pub fn uniform(g: &mut Graph, key: [Value; 2], first: Value, dims: &[usize]) -> Value {
    let elements = dims.iter().product();
    let position = g.iota(ElementType::U32, &[elements], 0);
    let index = g.add(position, first);
    let zero = g.scalar(ElementType::U32, 0.0);
    let [word, _] = threefry2x32(g, key, [index, zero]);
    let eight = g.scalar(ElementType::U32, 8.0);
    let bits = g.shr(word, eight);
    let whole = g.convert(bits, ElementType::F32);
    let unit = g.scalar(ElementType::F32, 1.0 / f64::from(1 << 24));
    let drawn = g.mul(whole, unit);
    g.reshape(drawn, dims)
}
