//! The printed form of modules: one of ours, and what only optimized ones contain.

use tpu_train_hlo::{ElementType, Graph, Reducer, lower, text};
use tpu_train_proto::xla::{
    HloComputationProto, HloInstructionProto, HloModuleProto, LayoutProto, PrimitiveType, ShapeProto,
    TileProto,
};

use crate::support::f32s;

#[test]
fn a_small_module() {
    let mut g = Graph::new("small");
    let (x, w) = (g.parameter("x", f32s(&[2, 3])), g.parameter("w", f32s(&[3])));
    let y = g.scope("dense", |g| g.matmul(x, w));
    let total = g.sum(y, &[0]);
    let total = g.all_reduce(total, Reducer::Add);
    let first = g.slice(x, &[0, 0], &[1, 3], &[1, 2]);
    let count = g.scalar(ElementType::S32, 7.0);
    let w = g.neg(w);
    let module = lower(&g, &[total, first, count, w], &[(3, 1)]).unwrap();
    let expected = r#"HloModule small, input_output_alias={ {3}: (1, {}, may-alias) }

%add_f32.7 (parameter.4: f32[], parameter.5: f32[]) -> f32[] {
  %parameter.4 = f32[] parameter(0), metadata={op_name="parameter"}
  %parameter.5 = f32[] parameter(1), metadata={op_name="parameter"}
  ROOT %add.6 = f32[] add(%parameter.4, %parameter.5), metadata={op_name="add"}
}

ENTRY %entry.15 (parameter.1: f32[2,3], parameter.2: f32[3]) -> (f32[], f32[1,2], s32[], f32[3]) {
  %parameter.1 = f32[2,3]{1,0} parameter(0), metadata={op_name="x"}
  %parameter.2 = f32[3]{0} parameter(1), metadata={op_name="w"}
  %dot.3 = f32[2]{0} dot(%parameter.1, %parameter.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}, metadata={op_name="dense/dot"}
  %constant.8 = f32[] constant(0), metadata={op_name="constant"}
  %reduce.9 = f32[] reduce(%dot.3, %constant.8), dimensions={0}, to_apply=%add_f32.7, metadata={op_name="reduce"}
  %all-reduce.10 = f32[] all-reduce(%reduce.9), to_apply=%add_f32.7, replica_groups={}, metadata={op_name="all-reduce"}
  %slice.11 = f32[1,2]{1,0} slice(%parameter.1), slice={[0:1], [0:3:2]}, metadata={op_name="slice"}
  %constant.12 = s32[] constant(7), metadata={op_name="constant"}
  %negate.13 = f32[3]{0} negate(%parameter.2), metadata={op_name="negate"}
  ROOT %tuple.14 = (f32[], f32[1,2]{1,0}, s32[], f32[3]{0}) tuple(%all-reduce.10, %slice.11, %constant.12, %negate.13), metadata={op_name="tuple"}
}
"#;
    assert_eq!(text::print(&module), expected);
}

#[test]
fn fusions_tiles_and_backend_configs() {
    let tile = |dimensions: &[i64]| TileProto { dimensions: dimensions.to_vec() };
    let layout = LayoutProto {
        minor_to_major: vec![0, 1],
        tiles: vec![tile(&[8, 128]), tile(&[2, 1])],
        memory_space: 1,
        ..Default::default()
    };
    let shape = ShapeProto {
        element_type: PrimitiveType::Bf16.into(),
        dimensions: vec![4, 2],
        layout: Some(layout),
        ..Default::default()
    };
    // Ids as optimized modules have them: the computation's in the upper half.
    let parameter = |id: i64| HloInstructionProto {
        name: format!("p.{}", id & 0xff),
        opcode: "parameter".to_owned(),
        shape: Some(shape.clone()),
        id,
        ..Default::default()
    };
    let fused = HloComputationProto {
        name: "fused".to_owned(),
        id: 1,
        instructions: vec![parameter(1 << 32 | 5)],
        root_id: 1 << 32 | 5,
        ..Default::default()
    };
    let fusion = HloInstructionProto {
        name: "fusion.1".to_owned(),
        opcode: "fusion".to_owned(),
        fusion_kind: "kLoop".to_owned(),
        shape: Some(shape.clone()),
        id: 2 << 32 | 6,
        operand_ids: vec![2 << 32 | 5, 99],
        called_computation_ids: vec![1],
        control_predecessor_ids: vec![2 << 32 | 5],
        backend_config: b"{\"estimated_cycles\":\"12\"}".to_vec(),
        ..Default::default()
    };
    let entry = HloComputationProto {
        name: "main".to_owned(),
        id: 2,
        instructions: vec![parameter(2 << 32 | 5), fusion],
        root_id: 2 << 32 | 6,
        ..Default::default()
    };
    let module = HloModuleProto {
        name: "optimized".to_owned(),
        computations: vec![fused, entry],
        entry_computation_id: 2,
        ..Default::default()
    };
    let expected = "HloModule optimized

%fused (p.5: bf16[4,2]) -> bf16[4,2] {
  ROOT %p.5 = bf16[4,2]{0,1:T(8,128)(2,1)S(1)} parameter(0)
}

ENTRY %main (p.5: bf16[4,2]) -> bf16[4,2] {
  %p.5 = bf16[4,2]{0,1:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %fusion.1 = bf16[4,2]{0,1:T(8,128)(2,1)S(1)} fusion(%p.5, %99), kind=kLoop, calls=%fused, \
control-predecessors={%p.5}, backend_config={\"estimated_cycles\":\"12\"}
}
";
    assert_eq!(text::print(&module), expected);
}
