//! HDF5 as Keras uses it: groups, attributes, and arrays of numbers.

use half::{bf16, f16};
use hdf5_pure::{
    AttrValue, DType, Dataset, Datatype, DatatypeByteOrder, File, FileBuilder, GroupBuilder as Builder,
};

use super::optimizer::Variable;
use super::{Problem, finite};
use crate::model::NamedTensor;

/// The most elements a tensor of a file may have.
pub(super) const MOST_ELEMENTS: u64 = 1 << 27;
/// Groups within groups that are followed.
const DEEPEST: usize = 8;

/// An HDF5 file in memory.
pub(super) struct Reader {
    file: File,
}

impl Reader {
    pub(super) fn new(bytes: Vec<u8>) -> Result<Self, Problem> {
        let length = bytes.len() as u64;
        let file = File::from_bytes(bytes).map_err(|error| Problem::damaged("the HDF5 file", error))?;
        let end = file.superblock().eof_address;
        match length < end {
            true => Err(Problem::damaged("the HDF5 file", format!("{length} bytes of {end}"))),
            false => Ok(Self { file }),
        }
    }

    fn group(&self, path: &str) -> Result<hdf5_pure::Group, hdf5_pure::Error> {
        if path.is_empty() { Ok(self.file.root()) } else { self.file.group(path) }
    }

    pub(super) fn has_group(&self, path: &str) -> bool {
        self.group(path).is_ok()
    }

    /// The names of the groups in a group.
    pub(super) fn groups(&self, path: &str) -> Result<Vec<String>, Problem> {
        self.group(path).and_then(|group| group.groups()).map_err(|error| Problem::damaged(name(path), error))
    }

    /// The names of the datasets in a group.
    pub(super) fn datasets(&self, path: &str) -> Result<Vec<String>, Problem> {
        self.group(path)
            .and_then(|group| group.datasets())
            .map_err(|error| Problem::damaged(name(path), error))
    }

    /// The paths of all groups at or below a path that are called `vars`.
    pub(super) fn variable_groups(&self, path: &str) -> Result<Vec<String>, Problem> {
        let mut found = Vec::new();
        let mut open = vec![(path.to_owned(), 0)];
        while let Some((path, depth)) = open.pop() {
            for child in self.groups(&path)? {
                let inner = format!("{path}/{child}");
                match child == "vars" {
                    true => found.push(inner),
                    false if depth < DEEPEST => open.push((inner, depth + 1)),
                    false => {}
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// An attribute that is a string or an array of strings; Keras cuts long arrays into `name0`, `name1`, ….
    pub(super) fn strings(&self, path: &str, attribute: &str) -> Result<Option<Vec<String>>, Problem> {
        let group = self.group(path).map_err(|error| Problem::damaged(name(path), error))?;
        let attributes = group.attrs().map_err(|error| Problem::damaged(name(path), error))?;
        let strings = |value: &AttrValue| value.as_strings().map(<[String]>::to_vec).unwrap_or_default();
        if let Some(value) = attributes.get(attribute) {
            return Ok(Some(strings(value)));
        }
        let parts = (0..).map_while(|part| attributes.get(&format!("{attribute}{part}")));
        let found: Vec<String> = parts.flat_map(strings).collect();
        Ok((!found.is_empty()).then_some(found))
    }

    /// An attribute that is one string.
    pub(super) fn string(&self, path: &str, attribute: &str) -> Result<Option<String>, Problem> {
        Ok(self.strings(path, attribute)?.and_then(|strings| strings.into_iter().next()))
    }

    /// The bytes of a dataset of unsigned 8-bit numbers; `None` where there is none.
    pub(super) fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, Problem> {
        let (group, leaf) = path.rsplit_once('/').unwrap_or(("", path));
        if !self.datasets(group)?.iter().any(|name| name == leaf) {
            return Ok(None);
        }
        let dataset = self.dataset(path)?;
        dims(&dataset, path)?;
        dataset.read_u8().map(Some).map_err(|error| Problem::damaged(name(path), error))
    }

    /// A dataset of floating-point numbers, under the last part of its path.
    pub(super) fn tensor(&self, path: &str) -> Result<NamedTensor, Problem> {
        let dataset = self.dataset(path)?;
        let dims = dims(&dataset, path)?;
        let values = finite(path, floats(&dataset, path)?)?;
        if values.len() != dims.iter().product::<usize>() {
            return Err(Problem::damaged(name(path), "fewer values than its shape says"));
        }
        let leaf = path.rsplit('/').next().unwrap_or(path);
        Ok(NamedTensor { name: leaf.trim_end_matches(":0").to_owned(), dims, values })
    }

    /// A dataset of floating-point numbers, or a scalar of any kind.
    pub(super) fn variable(&self, path: &str) -> Result<Variable, Problem> {
        let dataset = self.dataset(path)?;
        if !dims(&dataset, path)?.is_empty() {
            return self.tensor(path).map(Variable::Tensor);
        }
        let values = match dataset.dtype() {
            Ok(DType::F32 | DType::F64) => dataset.read_f64(),
            _ => dataset.read_i64().map(|values| values.into_iter().map(|value| value as f64).collect()),
        };
        let values = values.map_err(|error| Problem::damaged(name(path), error))?;
        values.first().copied().map(Variable::Scalar).ok_or_else(|| Problem::damaged(name(path), "no value"))
    }

    fn dataset(&self, path: &str) -> Result<Dataset, Problem> {
        self.file.dataset(path).map_err(|error| Problem::damaged(name(path), error))
    }
}

fn name(path: &str) -> String {
    if path.is_empty() { "the HDF5 file".to_owned() } else { format!("the HDF5 object {path}") }
}

/// The dimensions, if the elements fit in memory.
fn dims(dataset: &Dataset, path: &str) -> Result<Vec<usize>, Problem> {
    let shape = dataset.shape().map_err(|error| Problem::damaged(name(path), error))?;
    let elements = shape.iter().try_fold(1u64, |product, dim| product.checked_mul(*dim)).unwrap_or(u64::MAX);
    if elements > MOST_ELEMENTS || shape.iter().any(|dim| *dim > MOST_ELEMENTS) {
        return Err(Problem::TooLarge { object: name(path), found: elements, limit: MOST_ELEMENTS });
    }
    Ok(shape.into_iter().map(|dim| dim as usize).collect())
}

/// Values of 16, 32 or 64 bits; only 64 bits are rounded.
fn floats(dataset: &Dataset, path: &str) -> Result<Vec<f32>, Problem> {
    let damaged = |error| Problem::damaged(name(path), error);
    match dataset.dtype().map_err(damaged)? {
        DType::F32 => dataset.read_f32().map_err(damaged),
        DType::F64 => {
            Ok(dataset.read_f64().map_err(damaged)?.into_iter().map(|value| value as f32).collect())
        }
        DType::Other(datatype) => {
            let decode = decode_16_bits(dataset, &datatype).ok_or_else(|| Problem::ElementType {
                object: path.to_owned(),
                found: "values of another kind".to_owned(),
            })?;
            let bytes = dataset.read_raw().map_err(damaged)?;
            Ok(bytes.chunks_exact(2).map(|pair| decode([pair[0], pair[1]])).collect())
        }
        other => Err(Problem::ElementType { object: path.to_owned(), found: other.to_string() }),
    }
}

/// Keras stores bfloat16 as opaque pairs of bytes, marked by an attribute.
fn decode_16_bits(dataset: &Dataset, datatype: &Datatype) -> Option<fn([u8; 2]) -> f32> {
    match datatype {
        Datatype::FloatingPoint { size: 2, byte_order: DatatypeByteOrder::LittleEndian, .. } => {
            Some(|pair| f16::from_le_bytes(pair).to_f32())
        }
        Datatype::Opaque { size: 2, .. } => {
            let attributes = dataset.attrs().ok()?;
            let marked = attributes.get("dtype").and_then(AttrValue::as_str) == Some("bfloat16");
            marked.then_some(|pair| bf16::from_le_bytes(pair).to_f32())
        }
        _ => None,
    }
}

/// A group to be written, with everything below it.
#[derive(Default)]
pub(super) struct Group<'a> {
    attributes: Vec<(String, AttrValue)>,
    datasets: Vec<(String, Data<'a>)>,
    groups: Vec<(String, Group<'a>)>,
}

/// The contents of a dataset to be written.
pub(super) enum Data<'a> {
    /// A float32 array.
    Tensor(&'a NamedTensor),
    /// A float32 scalar.
    Float(f32),
    /// An int64 scalar.
    Integer(i64),
    /// Unsigned 8-bit numbers.
    Bytes(Vec<u8>),
}

impl<'a> Group<'a> {
    /// The group at a path below this one, made where it is missing.
    pub(super) fn at(&mut self, path: &str) -> &mut Self {
        path.split('/').filter(|part| !part.is_empty()).fold(self, |group, part| {
            let index = group.groups.iter().position(|(name, _)| name == part).unwrap_or_else(|| {
                group.groups.push((part.to_owned(), Group::default()));
                group.groups.len() - 1
            });
            &mut group.groups[index].1
        })
    }

    /// Puts a dataset at a path below this group.
    pub(super) fn put(&mut self, path: &str, data: Data<'a>) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        self.at(folder).datasets.push((name.to_owned(), data));
    }

    pub(super) fn string(&mut self, name: &str, value: impl Into<String>) {
        self.attributes.push((name.to_owned(), AttrValue::VarLenString(value.into())));
    }

    /// An array of strings; NumPy gives an empty one the type float64, and so does Keras.
    pub(super) fn strings(&mut self, name: &str, values: Vec<String>) {
        let value = if values.is_empty() {
            AttrValue::F64Array(Vec::new())
        } else {
            AttrValue::AsciiStringArray(values)
        };
        self.attributes.push((name.to_owned(), value));
    }

    /// The file of which this is the root.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>, Problem> {
        let mut file = FileBuilder::new();
        self.attributes.into_iter().for_each(|(name, value)| file.set_attr(&name, value));
        self.datasets.into_iter().for_each(|(name, data)| data.write(file.create_dataset(&name)));
        for (name, group) in self.groups {
            let builder = file.create_group(&name);
            file.add_group(group.build(builder).finish());
        }
        file.finish().map_err(|error| Problem::damaged("the HDF5 file to be written", error))
    }

    fn build(self, mut builder: Builder) -> Builder {
        self.attributes.into_iter().for_each(|(name, value)| builder.set_attr(&name, value));
        self.datasets.into_iter().for_each(|(name, data)| data.write(builder.create_dataset(&name)));
        for (name, group) in self.groups {
            let inner = builder.create_group(&name);
            builder.add_group(group.build(inner).finish());
        }
        builder
    }
}

impl Data<'_> {
    fn write(self, dataset: &mut hdf5_pure::DatasetBuilder) {
        match self {
            Self::Tensor(tensor) => {
                let shape: Vec<u64> = tensor.dims.iter().map(|dim| *dim as u64).collect();
                dataset.with_f32_data(&tensor.values).with_shape(&shape);
            }
            Self::Float(value) => {
                dataset.with_f32_data(&[value]).with_shape(&[]);
            }
            Self::Integer(value) => {
                dataset.with_i64_data(&[value]).with_shape(&[]);
            }
            Self::Bytes(bytes) => {
                dataset.with_u8_data(&bytes);
            }
        }
    }
}
