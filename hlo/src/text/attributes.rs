//! What stands behind an instruction's operands.

use std::collections::HashMap;

use tpu_train_proto::xla::precision_config::Precision;
use tpu_train_proto::xla::{
    ConvolutionDimensionNumbers, DotDimensionNumbers, HloInstructionProto, IotaReplicaGroupListProto,
    ReplicaGroup, Window, WindowDimension,
};

use super::{join, operand, shape};

/// The attributes of `i`, in the order in which they are printed.
pub(super) fn of(
    i: &HloInstructionProto,
    operands: &HashMap<i64, &str>,
    computations: &HashMap<i64, &str>,
) -> Vec<String> {
    let mut all = structure(i);
    all.extend(called(i, computations));
    all.extend(collective(i));
    all.extend(notes(i, operands));
    all
}

/// Dimensions, windows, bounds.
fn structure(i: &HloInstructionProto) -> Vec<String> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: String| all.push(format!("{name}={value}"));
    match i.opcode.as_str() {
        "get-tuple-element" => add("index", i.tuple_index.to_string()),
        "iota" => add("iota_dimension", join(&i.dimensions)),
        "broadcast" => add("dimensions", format!("{{{}}}", join(&i.dimensions))),
        _ if !i.dimensions.is_empty() => add("dimensions", format!("{{{}}}", join(&i.dimensions))),
        _ => {}
    }
    if let Some(w) = &i.window {
        add("window", window(w));
    }
    if let Some(d) = &i.convolution_dimension_numbers {
        add("dim_labels", convolution(d));
    }
    if i.feature_group_count > 1 {
        add("feature_group_count", i.feature_group_count.to_string());
    }
    if i.batch_group_count > 1 {
        add("batch_group_count", i.batch_group_count.to_string());
    }
    if let Some(d) = &i.dot_dimension_numbers {
        dot(d).into_iter().for_each(|(name, dims)| add(name, format!("{{{}}}", join(dims))));
    }
    if !i.slice_dimensions.is_empty() {
        let bounds: Vec<String> =
            i.slice_dimensions.iter().map(|s| bound(s.start, s.limit, s.stride)).collect();
        add("slice", format!("{{{}}}", bounds.join(", ")));
    }
    if !i.dynamic_slice_sizes.is_empty() {
        add("dynamic_slice_sizes", format!("{{{}}}", join(&i.dynamic_slice_sizes)));
    }
    if let Some(p) = &i.padding_config {
        let each = p.dimensions.iter().map(|d| match d.interior_padding {
            0 => format!("{}_{}", d.edge_padding_low, d.edge_padding_high),
            interior => format!("{}_{}_{interior}", d.edge_padding_low, d.edge_padding_high),
        });
        add("padding", each.collect::<Vec<_>>().join("x"));
    }
    if !i.gather_slice_sizes.is_empty() {
        add("slice_sizes", format!("{{{}}}", join(&i.gather_slice_sizes)));
    }
    if !i.comparison_direction.is_empty() {
        add("direction", i.comparison_direction.clone());
    }
    let precisions = i.precision_config.iter().flat_map(|p| &p.operand_precision);
    let precisions: Vec<Precision> = precisions.filter_map(|&p| Precision::try_from(p).ok()).collect();
    if precisions.iter().any(|p| *p != Precision::Default) {
        let names: Vec<String> = precisions.iter().map(|p| p.as_str_name().to_lowercase()).collect();
        add("operand_precision", format!("{{{}}}", names.join(",")));
    }
    all
}

fn bound(start: i64, limit: i64, stride: i64) -> String {
    if stride == 1 { format!("[{start}:{limit}]") } else { format!("[{start}:{limit}:{stride}]") }
}

fn window(w: &Window) -> String {
    let each =
        |f: &dyn Fn(&WindowDimension) -> String| w.dimensions.iter().map(f).collect::<Vec<_>>().join("x");
    let any = |f: fn(&WindowDimension) -> bool| w.dimensions.iter().any(f);
    let mut parts = vec![format!("size={}", each(&|d| d.size.to_string()))];
    if any(|d| d.stride != 1) {
        parts.push(format!("stride={}", each(&|d| d.stride.to_string())));
    }
    if any(|d| d.padding_low != 0 || d.padding_high != 0) {
        parts.push(format!("pad={}", each(&|d| format!("{}_{}", d.padding_low, d.padding_high))));
    }
    if any(|d| d.base_dilation > 1) {
        parts.push(format!("lhs_dilate={}", each(&|d| d.base_dilation.to_string())));
    }
    if any(|d| d.window_dilation > 1) {
        parts.push(format!("rhs_dilate={}", each(&|d| d.window_dilation.to_string())));
    }
    if any(|d| d.window_reversal) {
        parts.push(format!("rhs_reversal={}", each(&|d| i32::from(d.window_reversal).to_string())));
    }
    format!("{{{}}}", parts.join(" "))
}

/// `b0f_0io->b0f`: where batch, features and the spatial dimensions stand in input, kernel and result.
fn convolution(d: &ConvolutionDimensionNumbers) -> String {
    let labels = |first: (i64, char), second: (i64, char), spatial: &[i64]| -> String {
        let place = |at: usize| match spatial.iter().position(|&s| s == at as i64) {
            Some(i) => i.to_string(),
            None if first.0 == at as i64 => first.1.to_string(),
            None if second.0 == at as i64 => second.1.to_string(),
            None => "?".to_owned(),
        };
        (0..spatial.len() + 2).map(place).collect()
    };
    let input =
        labels((d.input_batch_dimension, 'b'), (d.input_feature_dimension, 'f'), &d.input_spatial_dimensions);
    let kernel = labels(
        (d.kernel_input_feature_dimension, 'i'),
        (d.kernel_output_feature_dimension, 'o'),
        &d.kernel_spatial_dimensions,
    );
    let result = labels(
        (d.output_batch_dimension, 'b'),
        (d.output_feature_dimension, 'f'),
        &d.output_spatial_dimensions,
    );
    format!("{input}_{kernel}->{result}")
}

fn dot(d: &DotDimensionNumbers) -> Vec<(&'static str, &[i64])> {
    let mut all: Vec<(&'static str, &[i64])> = vec![
        ("lhs_batch_dims", &d.lhs_batch_dimensions),
        ("lhs_contracting_dims", &d.lhs_contracting_dimensions),
        ("rhs_batch_dims", &d.rhs_batch_dimensions),
        ("rhs_contracting_dims", &d.rhs_contracting_dimensions),
    ];
    all.retain(|(_, dims)| !dims.is_empty());
    all
}

/// The computations that an instruction runs, under the name of their part.
fn called(i: &HloInstructionProto, computations: &HashMap<i64, &str>) -> Vec<String> {
    let mut all = Vec::new();
    if !i.fusion_kind.is_empty() {
        all.push(format!("kind={}", i.fusion_kind));
    }
    let names: Vec<String> = i.called_computation_ids.iter().map(|id| operand(computations, *id)).collect();
    match (i.opcode.as_str(), &names[..]) {
        (_, []) => {}
        ("while", [body, condition]) => all.push(format!("condition={condition}, body={body}")),
        ("fusion" | "async-start" | "custom-call", [one]) => all.push(format!("calls={one}")),
        ("conditional", branches) => all.push(format!("branch_computations={{{}}}", branches.join(", "))),
        (_, [one]) => all.push(format!("to_apply={one}")),
        (_, several) => all.push(format!("calls={{{}}}", several.join(", "))),
    }
    if !i.custom_call_target.is_empty() {
        all.push(format!("custom_call_target={:?}", i.custom_call_target));
    }
    all
}

fn groups(groups: &[ReplicaGroup]) -> String {
    let each: Vec<String> = groups.iter().map(|g| format!("{{{}}}", join(&g.replica_ids))).collect();
    format!("replica_groups={{{}}}", each.join(","))
}

fn iota_groups(l: &IotaReplicaGroupListProto) -> String {
    let transposed = match l.iota_transpose_perm[..] {
        [] => String::new(),
        _ => format!("T({})", join(&l.iota_transpose_perm)),
    };
    let (count, size) = (l.num_replica_groups, l.num_devices_per_group);
    format!("replica_groups=[{count},{size}]<=[{}]{transposed}", join(&l.iota_reshape_dims))
}

fn collective(i: &HloInstructionProto) -> Vec<String> {
    let mut all = Vec::new();
    if i.channel_id > 0 {
        all.push(format!("channel_id={}", i.channel_id));
    }
    let list = i.collective_device_list.as_ref();
    match list.and_then(|l| l.iota_replica_group_list.as_ref()) {
        Some(iota) => all.push(iota_groups(iota)),
        None => {
            let listed =
                list.map(|l| &l.replica_groups[..]).filter(|g| !g.is_empty()).unwrap_or(&i.replica_groups);
            if !listed.is_empty() || i.opcode.starts_with("all-reduce") {
                all.push(groups(listed));
            }
        }
    }
    if i.use_global_device_ids {
        all.push("use_global_device_ids=true".to_owned());
    }
    if !i.source_target_pairs.is_empty() {
        let pairs: Vec<String> =
            i.source_target_pairs.iter().map(|p| format!("{{{},{}}}", p.source, p.target)).collect();
        all.push(format!("source_target_pairs={{{}}}", pairs.join(",")));
    }
    all
}

/// Layouts a custom call insists on, aliases, order, hints, where it came from, and the backend's own words.
fn notes(i: &HloInstructionProto, operands: &HashMap<i64, &str>) -> Vec<String> {
    let mut all = Vec::new();
    if i.constrain_layout {
        let shapes: Vec<String> = i.operand_shapes_with_layout.iter().map(|s| shape(s, true)).collect();
        all.push(format!("operand_layout_constraints={{{}}}", shapes.join(", ")));
    }
    if !i.output_operand_aliasing.is_empty() {
        let each = i.output_operand_aliasing.iter().map(|a| {
            let (output, input) = (join(&a.output_shape_index), join(&a.operand_shape_index));
            format!("{{{output}}}: ({}, {{{input}}})", a.operand_index)
        });
        all.push(format!("output_to_operand_aliasing={{{}}}", each.collect::<Vec<_>>().join(", ")));
    }
    if !i.control_predecessor_ids.is_empty() {
        let names: Vec<String> = i.control_predecessor_ids.iter().map(|id| operand(operands, *id)).collect();
        all.push(format!("control-predecessors={{{}}}", names.join(", ")));
    }
    if let Some(f) = i.frontend_attributes.as_ref().filter(|f| !f.map.is_empty()) {
        let pairs: Vec<String> = f.map.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
        all.push(format!("frontend_attributes={{{}}}", pairs.join(",")));
    }
    if let Some(m) = i.metadata.as_ref().filter(|m| !m.op_name.is_empty()) {
        all.push(format!("metadata={{op_name={:?}}}", m.op_name));
    }
    if !i.backend_config.is_empty() {
        let config = String::from_utf8_lossy(&i.backend_config);
        let json = config.starts_with('{') || config.starts_with('[');
        all.push(if json {
            format!("backend_config={config}")
        } else {
            format!("backend_config={config:?}")
        });
    }
    all
}
