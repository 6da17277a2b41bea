//! Named values: options given to a plugin and attributes it gives back.

use std::ffi::c_char;
use std::fmt;

use super::api::{slice, string};
use super::sys::{self, Header, NamedValueUnion};

/// The value of an option or attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    /// A string.
    Text(String),
    /// An integer.
    Int(i64),
    /// A list of integers.
    IntList(Vec<i64>),
    /// A float.
    Float(f32),
    /// A boolean.
    Bool(bool),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(value) => f.write_str(value),
            Self::Int(value) => value.fmt(f),
            Self::IntList(values) => write!(f, "{values:?}"),
            Self::Float(value) => value.fmt(f),
            Self::Bool(value) => value.fmt(f),
        }
    }
}

/// Options as the C API takes them; the pointers borrow from `options`.
pub(super) fn to_raw(options: &[(&str, OptionValue)]) -> Vec<sys::NamedValue> {
    options.iter().map(|(name, value)| raw_value(name, value)).collect()
}

fn raw_value(name: &str, value: &OptionValue) -> sys::NamedValue {
    let (kind, value, value_size) = match value {
        OptionValue::Text(text) => {
            (sys::NAMED_STRING, NamedValueUnion { string: text.as_ptr().cast::<c_char>() }, text.len())
        }
        OptionValue::Int(int64) => (sys::NAMED_INT64, NamedValueUnion { int64: *int64 }, 1),
        OptionValue::IntList(list) => {
            (sys::NAMED_INT64_LIST, NamedValueUnion { int64_list: list.as_ptr() }, list.len())
        }
        OptionValue::Float(float) => (sys::NAMED_FLOAT, NamedValueUnion { float: *float }, 1),
        OptionValue::Bool(boolean) => (sys::NAMED_BOOL, NamedValueUnion { boolean: *boolean }, 1),
    };
    sys::NamedValue {
        header: Header::sized(size_of::<sys::NamedValue>()),
        name: name.as_ptr().cast(),
        name_size: name.len(),
        kind,
        value,
        value_size,
    }
}

/// Copies a plugin's array of named values; a value of an unknown kind is left out.
///
/// # Safety
/// `values` is null or points to `count` values whose own pointers are readable.
pub(super) unsafe fn from_raw(values: *const sys::NamedValue, count: usize) -> Vec<(String, OptionValue)> {
    // SAFETY: the caller's promise.
    let values = unsafe { slice(values, count) };
    // SAFETY: as above, for the strings and lists inside.
    values.iter().filter_map(|value| unsafe { owned_value(value) }).collect()
}

/// # Safety
/// The pointers in `raw` are readable, and its kind says which member of the union holds.
unsafe fn owned_value(raw: &sys::NamedValue) -> Option<(String, OptionValue)> {
    // SAFETY: the caller's promise, for every arm.
    unsafe {
        let value = match raw.kind {
            sys::NAMED_STRING => OptionValue::Text(string(raw.value.string, raw.value_size)),
            sys::NAMED_INT64 => OptionValue::Int(raw.value.int64),
            sys::NAMED_INT64_LIST => {
                OptionValue::IntList(slice(raw.value.int64_list, raw.value_size).to_vec())
            }
            sys::NAMED_FLOAT => OptionValue::Float(raw.value.float),
            sys::NAMED_BOOL => OptionValue::Bool(raw.value.boolean),
            _ => return None,
        };
        Some((string(raw.name, raw.name_size), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_values_round_trip() {
        let options = [
            ("text", OptionValue::Text("v5e:2x4".into())),
            ("int", OptionValue::Int(-8)),
            ("list", OptionValue::IntList(vec![1, 2, 3])),
            ("float", OptionValue::Float(0.5)),
            ("bool", OptionValue::Bool(true)),
        ];
        let raw = to_raw(&options);
        // SAFETY: `raw` borrows from `options`, which is alive.
        let back = unsafe { from_raw(raw.as_ptr(), raw.len()) };
        let expected: Vec<_> =
            options.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        assert_eq!(back, expected);
    }
}
