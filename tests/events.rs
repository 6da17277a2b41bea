//! Event files, judged by TensorBoard's own reader.

use tpu_train::events::summary::{PngImage, buckets};
use tpu_train::events::{EvaluationMetrics, EventWriter, KerasLog, TrainMetrics, image, read_events};
use tpu_train_proto::tensorboard::{GraphDef, NodeDef, VersionDef, event::What};

use crate::support::judge;

/// Prints, as JSON, all summaries of a folder's event file in order: tag, step, plugin, its content, data class,
/// value.
const SUMMARIES: &str = r#"
import glob, json, sys
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.util import tensor_util
out = []
for path in sorted(glob.glob(sys.argv[1] + "/events.out.tfevents.*.v2")):
    for raw in RawEventFileLoader(path).Load():
        event = Event.FromString(raw)
        assert event.wall_time > 1.7e9
        if event.file_version:
            out.append(["version", event.file_version, event.source_metadata.writer])
        for value in event.summary.value:
            meta, array = value.metadata, tensor_util.make_ndarray(value.tensor)
            flat = [x.decode() if isinstance(x, bytes) else float(x) for x in array.reshape(-1)]
            out.append([value.tag, event.step, meta.plugin_data.plugin_name,
                        meta.plugin_data.content.decode(), meta.data_class, list(array.shape), flat])
print(json.dumps(out))
"#;

fn summaries(judge: &judge::Judge, folder: &std::path::Path) -> serde_json::Value {
    serde_json::from_str(&judge.run(SUMMARIES, &[folder])).expect("JSON")
}

#[test]
fn two_runs_of_one_name_have_a_folder_each() {
    let folder = tempfile::tempdir().unwrap();
    let logdir = folder.path().join("logs/fit");
    let logs = [(); 3].map(|()| KerasLog::create(&logdir, "run", None).unwrap());
    let names = logs.map(|log| log.folder().file_name().unwrap().to_owned());
    assert_eq!(names, ["run", "run-2", "run-3"]);
}

#[test]
fn a_run_has_the_tags_keras_writes_in_its_order() {
    let Some(judge) = judge::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut log = KerasLog::create(folder.path(), "run", Some(r#"{"class_name": "Sequential"}"#)).unwrap();
    for epoch in 0..2 {
        let train = TrainMetrics { accuracy: 0.25, loss: 1.5, learning_rate: 0.5 };
        let validation = EvaluationMetrics { accuracy: 0.75, loss: 0.125 };
        log.validation(10 * (epoch + 1), &validation).unwrap();
        log.epoch(epoch, &train, Some(&validation)).unwrap();
    }
    let scalar =
        |tag: &str, step: u64, value: f64| serde_json::json!([tag, step, "scalars", "", 1, [], [value]]);
    let version = || serde_json::json!(["version", "brain.Event:2", "tpu_train.events"]);
    let json = r#"{"class_name": "Sequential"}"#;
    let expected = serde_json::json!([
        version(),
        ["keras", 0, "graph_keras_model", "1", 3, [], [json]],
        scalar("epoch_accuracy", 0, 0.25),
        scalar("epoch_loss", 0, 1.5),
        scalar("epoch_learning_rate", 0, 0.5),
        scalar("epoch_accuracy", 1, 0.25),
        scalar("epoch_loss", 1, 1.5),
        scalar("epoch_learning_rate", 1, 0.5),
    ]);
    assert_eq!(summaries(&judge, &folder.path().join("run/train")), expected);
    let expected = serde_json::json!([
        version(),
        scalar("evaluation_accuracy_vs_iterations", 10, 0.75),
        scalar("evaluation_loss_vs_iterations", 10, 0.125),
        scalar("epoch_accuracy", 0, 0.75),
        scalar("epoch_loss", 0, 0.125),
        scalar("evaluation_accuracy_vs_iterations", 20, 0.75),
        scalar("evaluation_loss_vs_iterations", 20, 0.125),
        scalar("epoch_accuracy", 1, 0.75),
        scalar("epoch_loss", 1, 0.125),
    ]);
    assert_eq!(summaries(&judge, &folder.path().join("run/validation")), expected);
}

#[test]
fn tensorboard_shows_scalars_texts_histograms_pictures_and_graphs() {
    let Some(judge) = judge::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut writer = EventWriter::create(&folder.path().join("run"), ".v2").unwrap();
    let node = |name: &str, input: &[&str]| NodeDef {
        name: name.into(),
        op: "Layer".into(),
        input: input.iter().map(|&input| input.into()).collect(),
        ..NodeDef::default()
    };
    let versions = Some(VersionDef { producer: 22, min_consumer: 0 });
    writer.graph(&GraphDef { node: vec![node("input", &[]), node("conv1d", &["input"])], versions }).unwrap();
    writer.scalar("loss", 3, 0.5).unwrap();
    writer.text("settings", 0, "batch **8**").unwrap();
    writer.histogram("conv1d/kernel/histogram", 1, &buckets(&[0.0, 1.0, 1.0, 2.0], 2)).unwrap();
    writer
        .image("confusion", 1, &image::confusion_matrix(&[vec![5, 1, 0], vec![0, 7, 0], vec![0, 0, 7]]))
        .unwrap();
    let script = r#"
import io, json, sys
from PIL import Image
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.data import provider
from tensorboard.util import tensor_util
from tensorboard.context import RequestContext
mux = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(sys.argv[1]).Reload()
data = data_provider.MultiplexerDataProvider(mux, sys.argv[1])
ctx = RequestContext()
scalar = data.read_scalars(ctx, experiment_id="x", plugin_name="scalars", downsample=9)["run"]["loss"]
print(json.dumps([scalar[0].step, scalar[0].value]))
text = data.read_tensors(ctx, experiment_id="x", plugin_name="text", downsample=9)["run"]["settings"]
print(text[0].numpy.item().decode())
histogram = data.read_tensors(ctx, experiment_id="x", plugin_name="histograms", downsample=9)
print(json.dumps(histogram["run"]["conv1d/kernel/histogram"][0].numpy.tolist()))
blobs = data.read_blob_sequences(ctx, experiment_id="x", plugin_name="images", downsample=9)
width, height, png = [data.read_blob(ctx, blob_key=b.blob_key) for b in blobs["run"]["confusion"][0].values]
assert Image.open(io.BytesIO(png)).size == (int(width), int(height))
picture = Image.open(io.BytesIO(png)).convert("RGB")
print(picture.getpixel((picture.width - 20, picture.height - 20)))
print(sorted(node.name for node in mux.Graph("run").node))
"#;
    let printed = judge.run(script, &[folder.path()]);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(
        lines,
        [
            "[3, 0.5]",
            "batch **8**",
            "[[0.0, 1.0, 1.0], [1.0, 2.0, 3.0]]",
            "(8, 69, 148)",
            "['conv1d', 'input']",
        ]
    );
}

#[test]
fn a_file_tensorboard_wrote_reads_back() {
    let Some(judge) = judge::python() else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = r#"
import sys
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
writer = EventFileWriter(sys.argv[1])
for step in range(3):
    value = summary_pb2.Summary.Value(tag="loss", simple_value=step / 2)
    writer.add_event(event_pb2.Event(wall_time=1.0, step=step, summary=summary_pb2.Summary(value=[value])))
writer.close()
"#;
    judge.run(script, &[folder.path()]);
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let events = read_events(&path).unwrap();
    assert_eq!(events.len(), 4);
    assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".into())));
    assert_eq!(events[3].step, 2);
}

#[test]
fn a_picture_of_many_classes_is_a_png() {
    let Some(judge) = judge::python() else { return };
    let counts: Vec<Vec<u64>> = (0..24)
        .map(|row| (0..24).map(|column| if row == column { 123_456 } else { row * column }).collect())
        .collect();
    let PngImage { bytes, width, height } = image::confusion_matrix(&counts);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let script =
        "import sys; from PIL import Image; i = Image.open(sys.argv[1]); i.load(); print(i.size, i.mode)";
    let printed = judge.run(script, &[file.path()]);
    assert_eq!(printed.trim(), format!("({width}, {height}) RGB"));
}
