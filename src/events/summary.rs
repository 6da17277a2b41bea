//! Values of a summary, as TensorFlow 2 writes them: a tensor, and the metadata of the plugin that shows it.
//!
//! ```
//! let value = tpu_train::events::summary::scalar("epoch_loss", 0.25);
//! assert_eq!(value.metadata.unwrap().plugin_data.unwrap().plugin_name, "scalars");
//! ```

use prost::Message;
use tpu_train_proto::tensorboard::summary::{Value, value};
use tpu_train_proto::tensorboard::summary_metadata::PluginData;
use tpu_train_proto::tensorboard::tensor_shape_proto::Dim;
use tpu_train_proto::tensorboard::{
    DataClass, DataType, HistogramPluginData, ImagePluginData, ScalarPluginData, SummaryMetadata,
    TensorProto, TensorShapeProto, TextPluginData,
};

/// One bucket of a histogram: left edge, right edge, count.
pub type Bucket = [f64; 3];

/// A PNG and its size in pixels.
#[derive(Clone, Debug)]
pub struct PngImage {
    /// The encoded file.
    pub bytes: Vec<u8>,
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
}

/// A number, as float32.
pub fn scalar(tag: &str, value: f32) -> Value {
    let tensor = TensorProto { float_val: vec![value], ..tensor(DataType::DtFloat, &[]) };
    summary(tag, "scalars", ScalarPluginData { version: 0 }.encode_to_vec(), DataClass::Scalar, tensor)
}

/// Markdown.
pub fn text(tag: &str, markdown: &str) -> Value {
    let content = TextPluginData { version: 0 }.encode_to_vec();
    summary(tag, "text", content, DataClass::Tensor, strings(vec![markdown.into()], &[]))
}

/// A picture.
pub fn image(tag: &str, png: &PngImage) -> Value {
    let content = ImagePluginData { version: 0, converted_to_tensor: false }.encode_to_vec();
    let parts = vec![png.width.to_string().into(), png.height.to_string().into(), png.bytes.clone()];
    summary(tag, "images", content, DataClass::BlobSequence, strings(parts, &[3]))
}

/// A histogram of `buckets.len()` buckets.
pub fn histogram(tag: &str, buckets: &[Bucket]) -> Value {
    let content = HistogramPluginData { version: 0 }.encode_to_vec();
    let bytes = buckets.iter().flatten().flat_map(|number| number.to_le_bytes()).collect();
    let tensor =
        TensorProto { tensor_content: bytes, ..tensor(DataType::DtDouble, &[buckets.len() as i64, 3]) };
    summary(tag, "histograms", content, DataClass::Tensor, tensor)
}

/// A Keras model's configuration, which TensorBoard draws as a conceptual graph.
///
/// `json` is what Keras's `model.to_json()` gives.
pub fn keras_model(tag: &str, json: &str) -> Value {
    let tensor = strings(vec![json.into()], &[]);
    summary(tag, "graph_keras_model", b"1".to_vec(), DataClass::BlobSequence, tensor)
}

/// Counts values into equal buckets between their least and greatest, as TensorFlow 2 does.
///
/// Without a value there is no bucket; if all are equal every bucket has that value for both its edges and the
/// last has the count. Values that are not finite are left out.
pub fn buckets(values: &[f32], count: usize) -> Vec<Bucket> {
    let finite = || values.iter().filter(|value| value.is_finite()).map(|&value| f64::from(value));
    let (low, high) = finite()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if count == 0 || low > high {
        return Vec::new();
    }
    let width = (high - low) / count as f64;
    let edge = |index: usize| if index == count { high } else { low + width * index as f64 };
    let mut buckets: Vec<Bucket> = (0..count).map(|index| [edge(index), edge(index + 1), 0.0]).collect();
    for value in finite() {
        let index = if width > 0.0 { ((value - low) / width) as usize } else { count };
        buckets[index.min(count - 1)][2] += 1.0;
    }
    buckets
}

fn summary(tag: &str, plugin: &str, content: Vec<u8>, class: DataClass, tensor: TensorProto) -> Value {
    let plugin_data = PluginData { plugin_name: plugin.to_owned(), content };
    let metadata = SummaryMetadata {
        plugin_data: Some(plugin_data),
        data_class: class as i32,
        ..SummaryMetadata::default()
    };
    Value {
        tag: tag.to_owned(),
        metadata: Some(metadata),
        value: Some(value::Value::Tensor(tensor)),
        ..Value::default()
    }
}

fn tensor(dtype: DataType, dims: &[i64]) -> TensorProto {
    let dim = dims.iter().map(|&size| Dim { size, ..Dim::default() }).collect();
    TensorProto {
        dtype: dtype as i32,
        tensor_shape: Some(TensorShapeProto { dim, unknown_rank: false }),
        ..TensorProto::default()
    }
}

fn strings(values: Vec<Vec<u8>>, dims: &[i64]) -> TensorProto {
    TensorProto { string_val: values, ..tensor(DataType::DtString, dims) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_cover_the_finite_values() {
        let values = [0.0, 1.0, 2.0, 2.5, 4.0, f32::NAN, f32::INFINITY];
        let expected = [[0.0, 1.0, 1.0], [1.0, 2.0, 1.0], [2.0, 3.0, 2.0], [3.0, 4.0, 1.0]];
        assert_eq!(buckets(&values, 4), expected);
        assert_eq!(buckets(&[7.0; 3], 2), [[7.0, 7.0, 0.0], [7.0, 7.0, 3.0]]);
        assert!(buckets(&[f32::NAN], 4).is_empty());
    }
}
